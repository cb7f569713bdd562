"""Where the commands that train and evaluate write, and what they say meanwhile."""

import re
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from toys.data import points

from ewnprune import read_curve
from ewnprune.callback.checkpoint import read_checkpoint
from ewnprune.cli import main

_CLASSES = """
import pathlib, numpy
from toys import data, fits

class Model(fits.Net):
    def __init__(self, where: pathlib.Path = pathlib.Path("a/b")):
        super().__init__()
        numbers = {"rate": numpy.float64(0.1), "n": numpy.int64(3), "on": numpy.bool_(True)}
        self.save_hyperparameters({"where": pathlib.Path(where), **numbers})
    def training_step(self, batch, batch_idx):
        loss = super().training_step(batch, batch_idx)
        if self.trainer.training:  # validation asks for it too
            self.log("train/loss", loss, prog_bar=True)
        return loss
    def predict_step(self, batch, batch_idx):
        return self(batch[0])

class Race(data.Points):
    def prepare_data(self):  # meanwhile another run got this far
        pathlib.Path("runs/mine").mkdir(parents=True)
        for folder in (".", "runs/mine"):
            pathlib.Path(folder, "config.yaml").write_text("of: the other")
"""
_SMALL = ["--model=small_classes.Model", "--data=toys.data.Points", "--trainer.accelerator=cpu"]
_SMALL += ["--trainer.enable_model_summary=false", "--prune.sparsities=[0,0.5]"]
_FIT = ["fit", *_SMALL, "--trainer.max_epochs=3"]


@pytest.fixture(autouse=True)
def _elsewhere(tmp_path, monkeypatch):
    (tmp_path / "code").mkdir()
    (tmp_path / "code/small_classes.py").write_text(_CLASSES)
    monkeypatch.syspath_prepend(tmp_path / "code")
    (tmp_path / "work").mkdir()
    monkeypatch.chdir(tmp_path / "work")
    yield
    sys.modules.pop("small_classes", None)


def _run(capsys, *words, status=0):
    ended = main([*words])
    captured = capsys.readouterr()
    assert ended == status, captured.err
    return captured.err if status else captured.out


def _checkpoint(folder):
    (path,) = Path(folder).glob("checkpoints/*.ckpt")
    return str(path)


def test_runs_go_to_default_root_dir(capsys):
    out = _run(capsys, *_FIT, "--trainer.default_root_dir=first")
    assert [str(path) for path in Path().iterdir()] == ["first"]
    assert "\nfigure          first/runs/version_0/sparsity_curve.png\n" in out
    # a sweep lies beside its run
    before = {path: path.read_bytes() for path in Path("first").rglob("*") if path.is_file()}
    again = ["sweep", "--config=first/runs/version_0/config.yaml"]
    again.append(f"--ckpt_path={_checkpoint('first/runs/version_0')}")
    told = _run(capsys, *again, "--split=test")
    assert "ewnprune: first/runs/version_0/sparsity_curve_test.{csv,json,png,svg}\n" in told
    files = {path: path.read_bytes() for path in Path("first").rglob("*") if path.is_file()}
    assert {str(path) for path in files.keys() - before.keys()} == {
        f"first/runs/version_0/sparsity_curve_test.{kind}" for kind in ("csv", "json", "png", "svg")
    }
    assert {path: files[path] for path in before} == before
    # the config of a run holds for another folder, and a logger of the user's own for itself
    _run(capsys, *again, "--trainer.default_root_dir=second")
    assert Path("second/runs/version_0/sparsity_curve.csv").is_file()
    _run(capsys, *again, "--trainer.logger.save_dir=third", "--trainer.logger.name=mine")
    assert Path("third/mine/version_0/sparsity_curve.csv").is_file()
    assert sorted(path.name for path in Path().iterdir()) == ["first", "second", "third"]


@pytest.mark.parametrize(
    "words",
    [
        "--trainer.default_root_dir=~/out",
        "--trainer.default_root_dir=~/out --trainer.logger=false",
        "--trainer.logger.save_dir=~/out",
        "--trainer.logger=TensorBoardLogger --trainer.logger.save_dir=~/out",
    ],
)
def test_the_home_folder_is_meant_by_its_sign(words, capsys, monkeypatch):
    """What Lightning writes was there, and the rest in a folder called ~."""
    monkeypatch.setenv("HOME", str(Path.cwd() / "home"))
    out = _run(capsys, *_FIT, *words.split())
    assert [str(path) for path in Path().iterdir()] == ["home"]
    (curve,) = Path().rglob("sparsity_curve.csv")
    assert (curve.parent / "config.yaml").is_file()
    checkpoint = _checkpoint(curve.parent)
    assert f"checkpoint      {checkpoint}\n" in out
    given = "--ckpt_path=~/" + str(Path(checkpoint).relative_to("home"))
    _run(capsys, "sweep", *_SMALL, given)
    assert (curve.parent / "sparsity_curve_1.csv").is_file()


@pytest.mark.parametrize(
    ("words", "told"),
    [
        ("report ~/study", "home/study"),
        (
            "compare --folder=~/study",
            "home/study/study.yaml is no file that ewnprune compare has written",
        ),
        ("export runs --sparsity=0.5 --output=~/study", "home/study is there already"),
        ("fit --config=~/study/study.yaml", "fit"),
    ],
)
def test_the_home_folder_is_meant_in_every_command(words, told, capsys, monkeypatch):
    monkeypatch.setenv("HOME", str(Path.cwd() / "home"))
    Path("home/study").mkdir(parents=True)
    Path("home/study/study.yaml").write_text("{fit: {seed_everything: 3}, vary: {}}")
    assert main(words.split()) in (1, 2)
    err = capsys.readouterr().err
    assert told in err
    assert "there is no such file" not in err
    assert [str(path) for path in Path().iterdir()] == ["home"]


def test_a_folder_that_cannot_be_is_one_line(capsys):
    Path("file").touch()
    err = _run(capsys, *_FIT, "--trainer.default_root_dir=file", status=1)
    assert "file" in err
    err = _run(capsys, *_FIT, "--trainer.default_root_dir=s3://bucket/runs", status=2)
    assert "s3://bucket/runs: expected a path on this machine" in err
    assert "Traceback" not in err
    assert [path.name for path in Path().iterdir()] == ["file"]


def test_without_a_logger_the_folder_is_the_users(capsys):
    out = _run(capsys, *_FIT, "--trainer.logger=false")
    assert "\nfigure          sparsity_curve.png\n" in out
    err = _run(capsys, *_FIT, "--trainer.logger=false", status=1)
    assert "config.yaml is of another run: give another --trainer.default_root_dir" in err
    assert Path("config.yaml").is_file()


@pytest.mark.parametrize("logger", [["--trainer.logger=false"], []], ids=["no logger", "ours"])
def test_a_run_that_fails_at_its_start_takes_nothing_of_the_users(logger, capsys):
    """The current folder was removed when it was empty and there was no logger."""
    Path("empty/within").mkdir(parents=True)
    words = [*_FIT, *logger, "--trainer.default_root_dir=empty", "--prune.layers=nope"]
    assert "nope" in _run(capsys, *words, status=1)
    _run(capsys, *_FIT, *logger, "--prune.layers=nope", status=1)
    assert Path.cwd().is_dir()
    assert [str(path) for path in sorted(Path().rglob("*"))] == ["empty", "empty/within"]


@pytest.mark.parametrize("logger", ["=false", ".version=mine"])
def test_a_run_that_came_second_takes_nothing_of_the_first(logger, capsys):
    err = _run(capsys, *_FIT, "--data=small_classes.Race", f"--trainer.logger{logger}", status=1)
    assert "config.yaml is of another run" in err or "exists and is not empty" in err
    assert Path("config.yaml").is_file()
    assert Path("runs/mine/config.yaml").is_file()


def test_what_a_failed_evaluation_has_written_goes(capsys):
    err = _run(capsys, "validate", *_SMALL, "--prune.scores=[norm_change]", status=1)
    assert "give one with --ckpt_path" in err
    assert not list(Path().iterdir())


@pytest.mark.parametrize(
    "command", ["predict", *(pytest.param(c, marks=pytest.mark.slow) for c in ("validate", "test"))]
)
def test_an_untrained_network_is_called_so(command, capsys):
    untrained = "ewnprune: the network is untrained: no --ckpt_path was given\n"
    assert _run(capsys, command, *_SMALL).count(untrained) == 1
    _run(capsys, *_FIT, "--trainer.default_root_dir=trained")
    given = f"--ckpt_path={_checkpoint('trained/runs/version_0')}"
    assert untrained not in _run(capsys, command, *_SMALL, given)


def test_predictions_are_those_of_the_network(capsys):
    _run(capsys, *_FIT)
    checkpoint = _checkpoint("runs/version_0")
    out = _run(capsys, "predict", *_SMALL, f"--ckpt_path={checkpoint}")
    assert out.endswith("written:\n  runs/version_1/predictions.pt\n")
    found = torch.load("runs/version_1/predictions.pt", weights_only=True)
    state = torch.load(checkpoint, weights_only=False)["state_dict"]
    x, _ = points(40).tensors
    hidden = (x @ state["net.0.weight"].T + state["net.0.bias"]).relu()
    expected = hidden @ state["net.2.weight"].T + state["net.2.bias"]
    assert len(found) == 10
    torch.testing.assert_close(torch.cat(found), expected)
    _run(capsys, "predict", *_SMALL, "--return_predictions=false")
    assert not Path("runs/version_2/predictions.pt").exists()


def test_a_piped_fit_says_one_line_per_epoch(capsys):
    out = _run(capsys, *_FIT, "--trainer.num_sanity_val_steps=2")
    assert "\r" not in out
    lines = [line for line in out.splitlines() if line.startswith("epoch ")]
    shape = r"epoch (\d) of 3, train/loss [\d.]+, \d+ s(, about \d+ s left)?"
    found = [re.fullmatch(shape, line) for line in lines]
    assert [match[1] for match in found] == ["1", "2", "3"]
    assert [match[2] is not None for match in found] == [True, True, False]
    assert "epoch 1" not in _run(capsys, *_FIT, "--trainer.enable_progress_bar=false")


@pytest.mark.parametrize("command", ["validate", "test", "predict", "fit"])
def test_every_bar_is_throttled(command, capsys, monkeypatch):
    monkeypatch.setattr("ewnprune.callback.progress.time.monotonic", lambda: 1000.0)
    monkeypatch.setattr(sys.stdout, "isatty", lambda: True, raising=False)
    out = _run(capsys, command, *_SMALL, *(_FIT[-1:] if command == "fit" else []))
    drawn = re.findall(r"(Validation|Testing|Predicting|Epoch)[^\r\n]* (\d+)/10 ", out)
    assert {number for _, number in drawn} == {"0", "1", "10"}


@pytest.mark.slow
def test_paths_and_numpy_numbers_in_a_checkpoint_are_read(capsys):
    _run(capsys, *_FIT)
    checkpoint = _checkpoint("runs/version_0")
    held = read_checkpoint(checkpoint)["hyper_parameters"]
    assert held == {"where": Path("a/b"), "rate": 0.1, "n": 3, "on": True}
    assert [type(held[key]) for key in ("rate", "n", "on")] == [np.float64, np.int64, np.bool_]
    given = f"--ckpt_path={checkpoint}"
    _run(capsys, "sweep", *_SMALL, given)
    curves = [read_curve(f"runs/version_0/sparsity_curve{n}.csv") for n in ("", "_1")]
    assert [p.correct for p in curves[0]] == [p.correct for p in curves[1]]
    _run(capsys, *_FIT[:-1], "--trainer.max_epochs=4", given)
    _run(capsys, "export", checkpoint, "--sparsity=0.5", "--output=small")
    assert Path("small/model.pt").is_file()
    with pytest.raises(Exception, match="PosixPath"):  # elsewhere they are as unknown as before
        torch.load(checkpoint, weights_only=True)


def test_what_is_not_read_is_named_and_can_be_trusted(capsys):
    _run(capsys, *_FIT)
    checkpoint = _checkpoint("runs/version_0")
    content = torch.load(checkpoint, weights_only=False)
    content["hyper_parameters"]["array"] = np.zeros(2)
    torch.save(content, "array.ckpt")
    err = _run(capsys, "sweep", *_SMALL, "--ckpt_path=array.ckpt", status=1)
    assert "array.ckpt is no checkpoint that can be read safely: it holds a numpy." in err
    assert "--weights_only=false" in err
    _run(capsys, "sweep", *_SMALL, "--ckpt_path=array.ckpt", "--weights_only=false")
