"""Whole studies: runs that die, fail, are interrupted and go on."""

import json
import os
import signal
import time
from functools import partial
from pathlib import Path

import pytest
import torch
import yaml

from ewnprune.cli import main
from ewnprune.curve.files import read_curve
from ewnprune.study.command import _prepare, compare
from ewnprune.study.engines import run_locally, start_run
from ewnprune.study.methods import find_methods
from ewnprune.study.plan import expand, merge
from ewnprune.study.progress import _progress
from ewnprune.study.run import main as run_main

TOY = """
import json, os, signal, time
from pathlib import Path
import pytorch_lightning as pl, torch
from torch import nn

class Toy(pl.LightningDataModule):
    def __init__(self, seed: int = 0):
        super().__init__()
        self.seed = seed
    def setup(self, stage=None):
        g = torch.Generator().manual_seed(0)
        x = torch.randn(96, 6, generator=g)
        x = x[torch.randperm(96, generator=g.manual_seed(self.seed))]
        self.data = torch.utils.data.TensorDataset(x, (x[:, :3].sum(1) > 0).long())
    def train_dataloader(self): return torch.utils.data.DataLoader(self.data, 16)
    def val_dataloader(self): return self.train_dataloader()
    def test_dataloader(self): return self.train_dataloader()

class Probe(pl.Callback):
    def on_train_start(self, trainer, pl_module):
        self.seen = [pl_module(torch.ones(1, 6)).tolist()]
    def on_train_batch_start(self, trainer, pl_module, batch, batch_idx):
        self.seen.append(float(batch[0].sum()))
    def on_train_end(self, trainer, pl_module):
        (Path(trainer.log_dir) / "probe.json").write_text(json.dumps(self.seen))

class DiesOnce(pl.Callback):
    # seed 0 by itself; seed 1 with the process that started it, a worker of Ray
    def on_train_epoch_start(self, trainer, pl_module):
        died = Path(f"died_{trainer.datamodule.seed}")
        if trainer.current_epoch == 2 and not died.exists():
            died.touch()
            if trainer.datamodule.seed == 0:
                os._exit(9)
            os.kill(os.getppid(), signal.SIGKILL)
            time.sleep(600)

class Fails(pl.Callback):
    def on_train_end(self, trainer, pl_module):
        raise ValueError("this one cannot work")
"""
FIT = {
    "model": {
        "class_path": "lightning_modules.Classifier",
        "init_args": {
            "network": {
                "class_path": "lightning_modules.MLP",
                "init_args": {"in_features": 6, "hidden": [20], "num_classes": 2},
            },
            "num_classes": 2,
        },
    },
    "data": {"class_path": "toy_study.Toy"},
    "prune": {"sparsities": [0, 0.5, 0.9]},
    "trainer": {
        "max_epochs": 4,
        "accelerator": "cpu",
        "callbacks": [{"class_path": "toy_study.Probe"}],
    },
}


@pytest.fixture
def _toy(tmp_path, monkeypatch):
    (tmp_path / "toy_study.py").write_text(TOY)
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(tmp_path)
    here = str(Path(__file__).parents[2])
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join([str(tmp_path), here]))


@pytest.mark.usefixtures("_toy")
@pytest.mark.slow
def test_a_study_with_a_death_and_a_failure_goes_on_and_grows(capsys):
    own = {
        name: {"trains": "", "fit": {"trainer": {"callbacks": [{"class_path": f"toy_study.{c}"}]}}}
        for name, c in {"dies": "DiesOnce", "fails": "Fails"}.items()
    }
    own["dies"]["fit"]["prune"] = {"parametrization": None}
    own["fails"]["fit"]["prune"] = {"parametrization": {"class_path": "ewnprune.EWN"}}
    study = {"methods": "none,random,dies,fails", "seeds": 0, "fit": FIT, "own": own}
    Path("study.yaml").write_text(yaml.safe_dump(study))
    assert main(["compare", "--config", "study.yaml"]) == 1
    out = capsys.readouterr().out
    assert "fails-seed=0" in out
    assert "this one cannot work" in out
    assert "3 runs, 0 of them finished" in out  # random takes the runs of none

    folders = {p.name.split("-")[0]: p for p in _runs()}
    done = {name: (p / "curve.json").is_file() for name, p in folders.items()}
    assert done == {"none": True, "dies": False, "fails": False}
    finished = (folders["none"] / "curve.json").stat().st_mtime_ns

    # one more time and one more seed, on a Ray cluster of two workers, of which one is killed
    study["seeds"] = "0-1"
    study["methods"] = ["none", "dies"]
    Path("study.yaml").write_text(yaml.safe_dump(study))
    assert main(["compare", "--config", "study.yaml", "--engine", "ray", "--workers", "2"]) == 0
    out = capsys.readouterr().out
    assert "4 runs, 1 of them finished" in out
    files = sorted(p.name for p in Path("study").iterdir() if p.suffix in (".csv", ".txt"))
    assert " ".join(out[out.index("\nwritten to") :].split()) == (
        f"written to study: {', '.join(files)} page: study/report/index.html "
        "the page anew: ewnprune report study"
    )
    assert (folders["none"] / "curve.json").stat().st_mtime_ns == finished
    assert not list(Path("study/runs").glob(".*"))

    # the runs that died went on after their two epochs, to the very result of one that did not
    folders = {(p.name.split("-")[0], p.name.split("-")[1][-1]): p for p in _runs()}
    for seed in "01":
        run, other = folders["dies", seed], folders["none", seed]
        assert (run / "fit_1/metrics.csv").is_file()
        died = read_curve(run / "curve.json").tagged(method="none")
        scores = {point.score for point in died}  # none has that of random too
        whole = read_curve(other / "curve.json")
        assert died.points == tuple(point for point in whole if point.score in scores)
        assert (run / "norms.csv").read_text() == (other / "norms.csv").read_text()
        epochs = (run / "training.csv").read_text().splitlines()
        assert [line.split(",")[0] for line in epochs] == ["epoch", "0", "1", "2", "3"]

    # one seed: one initial function, one order of the data, whatever the method; another: others
    probes = {n: json.loads((p / "fit_0/probe.json").read_text()) for n, p in _by_seed().items()}
    assert probes["none", 0][1:] == probes["fails", 0][1:]
    assert probes["none", 0][0][0] == pytest.approx(probes["fails", 0][0][0], abs=1e-6)
    assert probes["none", 0][0] != probes["none", 1][0]
    assert probes["none", 0][1:] != probes["none", 1][1:]
    points = read_curve("study/points.csv")
    assert {(p.method, p.seed) for p in points} == {
        *(("none", 0), ("none", 1), ("random", 0), ("random", 1)),
        *(("dies", 0), ("dies", 1)),
    }
    assert {p.split for p in points} == {"val", "test"}

    # other settings do not go into the same folder
    with pytest.raises(ValueError, match="holds a study with fit"):
        compare("none", 0, Path("study"), {**FIT, "prune": {"sparsities": [0, 0.5]}})


@pytest.mark.usefixtures("_toy")
@pytest.mark.slow
def test_a_run_is_measured_by_scores_that_come_later_and_not_trained_anew(request):
    request.addfinalizer(partial(torch.set_flush_denormal, False))
    curves = []
    for methods in ("none", "none,random"):
        (run,) = _prepare(expand(Path("f"), find_methods(methods, {}), (0,), FIT, {}, {}))
        assert run_main(run.folder) == 0
        curves.append(read_curve(run.folder / "curve.json"))
    before, after = curves
    assert sorted(path.name for path in run.folder.glob("fit_*")) == ["fit_0", "fit_0.yaml"]
    assert {p.score for p in after} - {p.score for p in before} == {"random"}
    assert before.points == tuple(point for point in after if point.score != "random")
    assert not _prepare([run])


@pytest.mark.usefixtures("_toy")
@pytest.mark.slow
def test_runs_that_are_interrupted_leave_a_checkpoint_and_no_process():
    long = merge(FIT, {"trainer": {"max_epochs": 100_000}})
    runs = _prepare(expand(Path("f"), find_methods("none", {}), (0,), long, {}, {}))
    # whoever started it is killed, which closes the pipe: the run ends, too late for a checkpoint
    with start_run(runs[0].folder, dict(os.environ)) as orphan:
        while not _progress(runs[0].folder):
            assert orphan.poll() is None
            time.sleep(0.1)
    assert orphan.returncode == 1
    assert not list(runs[0].folder.glob("fit_0/checkpoints/*"))

    _prepare(runs)
    # started where Ctrl-C is blocked, as Ray does
    before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
    try:
        looks = run_locally([run.folder for run in runs])
        assert next(event for event in looks if _progress(runs[0].folder) or event) is None
        looks.close()
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)
    assert list(runs[0].folder.glob("fit_1/checkpoints/interrupted.ckpt"))
    assert not (runs[0].folder / "curve.json").exists()
    log = (runs[0].folder / "log.txt").read_text()
    assert "finishing the batch" in log
    with pytest.raises(ValueError, match="workers=0"):
        next(run_locally([], 0))


def _runs():
    return list(Path("study/runs").iterdir())


def _by_seed():
    found = {}
    for path in _runs():
        settings = json.loads((path / "run.json").read_text())
        if (path / "fit_0/probe.json").is_file():
            found[settings["method"], settings["seed"]] = path
    return found
