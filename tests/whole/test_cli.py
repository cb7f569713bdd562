"""The commands, from what they say of themselves to all that a user does with a run."""

import re
import signal
import subprocess
import sys
import xml.etree.ElementTree as ET
from collections import OrderedDict
from itertools import product
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from torch import nn
from torchvision import datasets
from toys.commands import SMALL, fails
from toys.processes import environment, run_python

from ewnprune import __version__, read_curve
from ewnprune.cli import main

CONFIGS = sorted((Path(__file__).parents[2] / "configs").glob("*.yaml"))


pytestmark = pytest.mark.usefixtures("elsewhere")


def test_help_and_version(capsys):
    assert main(["--help"]) == 0
    out = capsys.readouterr().out
    for config in CONFIGS:
        assert config.name in out
    assert main([]) == 0
    assert main(["--version"]) == 0
    assert __version__ in capsys.readouterr().out


def test_python_dash_m():
    done = run_python("-m", "ewnprune", "--version")
    assert done.stdout == f"ewnprune {__version__}\n"


@pytest.mark.slow
@pytest.mark.parametrize("config", CONFIGS, ids=lambda path: path.stem)
def test_every_shipped_config_runs_by_name(config, capsys, tmp_path):
    words = ["fit", "--config", config.name, *SMALL, "--trainer.fast_dev_run=2"]
    if "cifar" in config.stem:  # images of that size: CIFAR-10 itself is 170 MB to get
        noise = np.random.default_rng(0).integers(256, size=(10, 32, 32, 3), dtype=np.uint8)
        for part, label, copy in product(("train", "test"), range(10), range(2)):
            place = tmp_path / "images" / part / str(label)
            place.mkdir(parents=True, exist_ok=True)
            Image.fromarray(noise[label]).save(place / f"{copy}.png")
        words += ["--data=ImageFolderDataModule", "--data.data_dir=images", "--data.val_size=10"]
        words.append("--prune.sparsities=[0,0.5]")  # it has none of its own
    if "fashion" in config.stem:
        words.append("--data.fashion=false")  # the data differ by this flag alone
    assert main(words) == 0, capsys.readouterr().err
    assert not Path("runs").exists()


@pytest.mark.slow
@pytest.mark.usefixtures("figure_files")
def test_fit_then_everything_else(capsys, mnist_dir):
    """The main job on real MNIST, cut short; then what a user does with the run."""
    fit = ["fit", *SMALL, "--trainer.max_epochs=1", "--trainer.limit_train_batches=100"]
    fit += ["--prune.scores=[norm,norm_product]", "--model.network.hidden=[256]"]
    assert main([*fit, "--prune.sparsities=[0,0.5,0.9]"]) == 0, capsys.readouterr().err
    out = capsys.readouterr().out
    run = Path("runs/version_0")
    for name in (
        "config.yaml",
        "metrics.csv",
        "sparsity_curve.csv",
        "sparsity_curve.json",
    ):
        assert (run / name).is_file()
    with Image.open(run / "sparsity_curve.png") as image:
        assert image.size == (960, 720) and len(image.getcolors(1 << 20)) > 100
    assert ET.parse(run / "sparsity_curve.svg").getroot().tag.endswith("svg")
    (checkpoint,) = (run / "checkpoints").glob("*.ckpt")
    assert str(checkpoint) in out and str(run / "sparsity_curve.png") in out
    curve = read_curve(run / "sparsity_curve.csv")
    assert curve.points == read_curve(run / "sparsity_curve.json").points
    dense = curve.where(score="norm", sparsity=0.0).points[0]
    assert dense.accuracy > 0.85
    assert dense.total == 5000
    assert {p.split for p in curve.points} == {"val"}

    # the run's own config and checkpoint give the same curve again
    again = ["--config", str(run / "config.yaml"), *SMALL]
    assert main(["sweep", *again, "--ckpt_path", str(checkpoint)]) == 0, capsys.readouterr().err
    swept = read_curve(run / "sparsity_curve_1.csv")
    assert [(p.score, p.sparsity, p.correct) for p in swept.points] == [
        (p.score, p.sparsity, p.correct) for p in curve.points
    ]
    words = ["sweep", *again, "--ckpt_path", str(checkpoint), "--split=test"]
    assert main(words) == 0, capsys.readouterr().err
    tested = read_curve(run / "sparsity_curve_test.csv")
    assert tested.points[0].total == 10_000
    assert main([*words, "--realize=remove"]) == 0, capsys.readouterr().err
    removed = read_curve(run / "sparsity_curve_test_1.csv")
    assert [p.correct for p in removed] == [p.correct for p in tested]
    assert all(p.realize == "remove" and p.metrics["latency_ms"] > 0 for p in removed)
    capsys.readouterr()
    assert main(["test", *again, "--ckpt_path", str(checkpoint)]) == 0
    assert main(["validate", *again, "--ckpt_path", str(checkpoint)]) == 0
    assert main(["predict", *again, "--ckpt_path", str(checkpoint)]) == 0
    assert f"{tested.points[0].accuracy:.4f}"[:5] in capsys.readouterr().out
    saved = torch.load("runs/version_3/predictions.pt", weights_only=True)

    # and the checkpoint loads strictly into a network that never heard of ewnprune
    state = torch.load(checkpoint, weights_only=True)["state_dict"]
    layers = {"flatten": nn.Flatten(), "fc1": nn.Linear(784, 256), "relu": nn.ReLU()}
    plain = nn.Sequential(OrderedDict(**layers, fc2=nn.Linear(256, 10, bias=False)))
    plain.load_state_dict({k.removeprefix("network."): v for k, v in state.items()}, strict=True)
    files = datasets.MNIST(mnist_dir, train=False)
    images, labels = files.data, files.targets
    with torch.no_grad():
        logits = plain((images / 255 - 0.1307) / 0.3081)
    probabilities = torch.cat([batch["probabilities"] for batch in saved])
    torch.testing.assert_close(probabilities, logits.softmax(1))
    correct = (logits.argmax(1) == labels).sum().item()
    assert correct == tested.where(score="norm", sparsity=0.0).points[0].correct

    # a checkpoint of another model, and of another method, are refused in one line
    err = fails(capsys, "sweep", *SMALL, "--model.network=CNN", "--ckpt_path", str(checkpoint))
    assert "checkpoint" in err
    err = fails(
        capsys,
        *fit,
        "--prune.parametrization=SWN",
        "--trainer.max_epochs=2",
        "--ckpt_path",
        str(checkpoint),
    )
    assert "trained with EWN" in err


@pytest.mark.parametrize(
    ("words", "drawn"),
    [
        ([], {"1/20", "20/20"}),
        (["--trainer.callbacks=TQDMProgressBar"], {f"{n}/20" for n in range(1, 21)}),
        (["--trainer.enable_progress_bar=false"], set()),
    ],
    ids=["ours", "the user's", "none"],
)
def test_the_bar_is_drawn_as_often_as_an_eye_can_follow(words, drawn, capsys, monkeypatch):
    monkeypatch.setattr(
        "ewnprune.callback.progress.time.monotonic", lambda: 1000.0
    )  # no time passes
    monkeypatch.setattr(sys.stdout, "isatty", lambda: True, raising=False)
    words += ["--trainer.max_epochs=1", "--trainer.limit_train_batches=20", *SMALL[1:]]
    assert main(["fit", *words, "--trainer.limit_val_batches=1", "--prune.sparsities=[0]"]) == 0
    shown = re.findall(r"Epoch 0:[^\r\n]* (\d+/20) ", capsys.readouterr().out)
    assert set(shown) - {"0/20"} == drawn


def test_running_twice_never_overwrites(capsys):
    words = ["fit", *SMALL, "--trainer.max_epochs=1", "--trainer.limit_train_batches=2"]
    words += ["--trainer.limit_val_batches=1", "--prune.sparsities=[0,0.5]"]
    for _ in range(2):
        assert main(words) == 0, capsys.readouterr().err
    assert sorted(p.name for p in Path("runs").iterdir()) == ["version_0", "version_1"]
    for run in Path("runs").iterdir():
        assert (run / "sparsity_curve.csv").is_file()


@pytest.mark.slow
def test_ctrl_c_leaves_a_checkpoint_that_resumes_bit_for_bit(tmp_path, monkeypatch):
    """Interrupted in the middle of an epoch, then resumed: the uninterrupted run's weights."""
    options = [*SMALL, "--trainer.max_epochs=2", "--trainer.limit_val_batches=2"]
    options += ["--prune.sparsities=[0,0.5]", "--data.batch_size=512"]
    options += ["--trainer.limit_train_batches=50", "--model.network.hidden=[64]"]
    whole, folder = tmp_path / "whole", tmp_path / "cut"
    whole.mkdir()
    folder.mkdir()
    monkeypatch.chdir(whole)
    assert main(["fit", *options]) == 0

    slow = folder / "slow.py"  # gives the signal time to arrive in the middle of an epoch
    slow.write_text(_SLOW)
    command = [sys.executable, str(slow), "fit", *options]
    process = subprocess.Popen(
        command,
        cwd=folder,
        env=environment(),
        text=True,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
    )
    for line in process.stdout:
        if "step 30" in line:
            process.send_signal(signal.SIGINT)
            break
    out, _ = process.communicate(timeout=120)
    assert process.returncode == 130
    assert "Traceback" not in out
    (command_line,) = [line.strip() for line in out.splitlines() if "--ckpt_path" in line]
    monkeypatch.chdir(folder)
    assert main(command_line.split()[1:]) == 0
    a, b = (
        torch.load(next(Path(p).glob("checkpoints/epoch=1*.ckpt")), weights_only=True)
        for p in (whole / "runs/version_0", folder / "runs/version_1")
    )
    for key, value in a["ewnprune"]["originals"].items():
        assert torch.equal(b["ewnprune"]["originals"][key], value), key
    curves = [
        read_curve(p / "sparsity_curve.csv")
        for p in (whole / "runs/version_0", folder / "runs/version_1")
    ]
    assert curves[0] == curves[1]


_SLOW = """
import sys, time
import pytorch_lightning as pl
from lightning_modules import Classifier
from ewnprune.cli import main

original = Classifier.training_step
def training_step(self, batch, batch_idx):
    if self.trainer.global_step >= 30:
        print("step 30", flush=True)
        time.sleep(0.2)
    return original(self, batch, batch_idx)
Classifier.training_step = training_step
sys.exit(main())
"""
