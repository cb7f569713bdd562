import json
import os
import shutil
import signal
import sys
import time
from pathlib import Path

import pytest
import yaml

from ewnprune import __version__
from ewnprune.cli import main
from ewnprune.curve.curve import Curve
from ewnprune.curve.files import read_curve, write_curve
from ewnprune.curve.points import CurvePoint
from ewnprune.study.command import _alone, _joined, _prepare, collect, compare
from ewnprune.study.engines import run_locally, start_run
from ewnprune.study.labels import Label
from ewnprune.study.methods import METHODS, Method, find_methods, parse_methods, parse_seeds
from ewnprune.study.plan import expand, merge
from ewnprune.study.progress import _progress
from ewnprune.study.ray_engine import _look, run_on_ray

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
    def on_train_start(self, trainer, pl_module):
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
def test_a_study_with_a_death_and_a_failure_goes_on_and_grows(capsys):
    own = {
        name: {"trains": "", "fit": {"trainer": {"callbacks": [{"class_path": f"toy_study.{c}"}]}}}
        for name, c in {"dies": "DiesOnce", "fails": "Fails"}.items()
    }
    for method in own.values():
        method["fit"]["prune"] = {"parametrization": None}
    study = {"methods": "none,ewn,random,dies,fails", "seeds": 0, "fit": FIT, "own": own}
    Path("study.yaml").write_text(yaml.safe_dump(study))
    assert main(["compare", "--config", "study.yaml"]) == 1
    out = capsys.readouterr().out
    assert "fails-seed=0" in out
    assert "this one cannot work" in out
    assert "4 runs, 0 of them finished" in out  # random takes the runs of none

    folders = {p.name.split("-")[0]: p for p in _runs()}
    done = {name: (p / "curve.json").is_file() for name, p in folders.items()}
    assert done == {"none": True, "ewn": True, "dies": False, "fails": False}
    finished = (folders["none"] / "curve.json").stat().st_mtime_ns

    # one more time and one more seed, on a Ray cluster of two workers, of which one is killed
    study["seeds"] = "0-1"
    study["methods"] = ["none", "dies"]
    Path("study.yaml").write_text(yaml.safe_dump(study))
    assert main(["compare", "--config", "study.yaml", "--engine", "ray", "--workers", "2"]) == 0
    out = capsys.readouterr().out
    assert "4 runs, 1 of them finished" in out
    assert (folders["none"] / "curve.json").stat().st_mtime_ns == finished
    assert not list(Path("study/runs").glob(".*"))

    # the runs that died went on after their two epochs, to the very result of one that did not
    folders = {(p.name.split("-")[0], p.name.split("-")[1][-1]): p for p in _runs()}
    for seed in "01":
        run, other = folders["dies", seed], folders["none", seed]
        assert (run / "fit_1/metrics.csv").is_file()
        died = read_curve(run / "curve.json").tagged(method="none")
        scores = {point.score for point in died}  # none has those of random and magnitude too
        whole = read_curve(other / "curve.json")
        assert died.points == tuple(point for point in whole if point.score in scores)
        assert (run / "norms.csv").read_text() == (other / "norms.csv").read_text()
        epochs = (run / "training.csv").read_text().splitlines()
        assert [line.split(",")[0] for line in epochs] == ["epoch", "0", "1", "2", "3"]

    # one seed: one initial function, one order of the data, whatever the method; another: others
    probes = {n: json.loads((p / "fit_0/probe.json").read_text()) for n, p in _by_seed().items()}
    assert probes["none", 0][1:] == probes["ewn", 0][1:]
    assert probes["none", 0][0][0] == pytest.approx(probes["ewn", 0][0][0], abs=1e-6)
    assert probes["none", 0][0] != probes["none", 1][0]
    assert probes["none", 0][1:] != probes["none", 1][1:]
    points = read_curve("study/points.csv")
    assert {(p.method, p.seed) for p in points} == {
        *(("none", 0), ("none", 1), ("random", 0), ("random", 1)),
        *(("ewn", 0), ("dies", 0), ("dies", 1)),
    }
    assert {p.split for p in points} == {"val", "test"}

    # other settings do not go into the same folder
    with pytest.raises(ValueError, match="holds a study with fit"):
        compare("none", 0, Path("study"), {**FIT, "prune": {"sparsities": [0, 0.5]}})


@pytest.mark.usefixtures("_toy")
def test_runs_that_are_interrupted_leave_a_checkpoint_and_no_process():
    long = merge(FIT, {"trainer": {"max_epochs": 100_000}})
    runs = _prepare(_expand("none", long))
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


def _expand(methods, base=None, vary=None, seeds=(0,), own=None):
    own = own or {}
    return expand(Path("f"), find_methods(methods, own), seeds, base or {}, vary or {}, own)


def test_runs_of_a_study():
    runs = _expand(
        "none,random,magnitude,group_lasso", seeds=(0, 3), vary={"trainer.max_epochs": [2, 5]}
    )
    assert len(runs) == len({run.folder for run in runs}) == 2 * 2 * (1 + 4)
    assert {run.method for run in runs if run.method.startswith("none")} == {
        "none @ max_epochs=2",
        "none @ max_epochs=5",
    }
    for run in runs:
        assert run.config["seed_everything"] == run.seed
        assert run.config["data"]["init_args"]["seed"] == run.seed
        assert run.config["trainer"]["max_epochs"] in (2, 5)
        assert run.config["prune"]["parametrization"] is None
    scores = runs[0].config["prune"]["scores"]
    assert scores == [
        "norm",
        "norm_product",
        "norm_with_bias_product",
        "random",
        "ewnprune.scores.norm_shuffled",
        "magnitude",
    ]
    strengths = {
        c["init_args"]["strength"] for r in runs for c in r.config["trainer"].get("callbacks", [])
    }
    assert strengths == {1e-3, 2e-3, 3e-3, 6e-3}
    parts = [run.part for run in _expand("dense")]
    assert parts == [0.5, 0.8, 0.9, 0.95, 0.98]
    # the same settings have the same folder, others another
    assert _expand("none")[0].folder == _expand("none")[0].folder
    assert _expand("none")[0].folder != _expand("none", {"trainer": {"max_epochs": 9}})[0].folder


def test_values_in_brackets_are_no_candidates():
    """Of `lasso[0.1]` and `lasso[1]` one is chosen; of two widths none is."""
    runs = _expand("none,group_lasso", vary={"model.init_args.hidden": [[16], [32, 8]]})
    assert {str(Label.parse(run.method).chosen()) for run in runs} == {
        f"{method} @ hidden={value}"
        for method in ("none", "group_lasso")
        for value in ("(16)", "(32, 8)")
    }
    assert runs[-1].config["model"]["init_args"]["hidden"] == [32, 8]


def test_a_study_that_grows_keeps_its_reference_and_methods(tmp_path):
    def settings(methods, reference=None, own=None):
        asked = {"fit": {}, "vary": {}, "own": own or {}, "reference": reference}
        return _joined(tmp_path, asked | {"methods": methods})

    assert settings(["swn", "ewn"])["reference"] == "swn"
    first = settings(["swn", "none"], own={"mine": {"scores": ["norm"]}})
    assert first["reference"] == "none"
    (tmp_path / "study.yaml").write_text(yaml.safe_dump(first))
    grown = settings(["ewn"])
    assert (grown["methods"], grown["reference"]) == (["swn", "none", "ewn"], "none")
    assert grown["own"] == first["own"]
    assert settings(["ewn"], "ewn")["reference"] == "ewn"
    with pytest.raises(ValueError, match="another method 'mine'"):
        settings(["mine"], own={"mine": {"scores": ["random"]}})


def test_one_study_at_a_time(tmp_path):
    with (
        _alone(tmp_path),
        pytest.raises(RuntimeError, match="another ewnprune compare is at work"),
        _alone(tmp_path),
    ):
        pass


def test_a_data_module_without_a_seed_is_left_alone():
    base = {"data": {"class_path": "pytorch_lightning.LightningDataModule"}}
    assert _expand("none", base)[0].config["data"] == base["data"]


def test_merge():
    base = {"a": {"class_path": "X", "init_args": {"p": 1}}, "trainer": {"callbacks": [1], "n": 1}}
    over = {"a": {"class_path": "Y"}, "trainer": {"callbacks": [2]}}
    assert merge(base, over) == {"a": {"class_path": "Y"}, "trainer": {"callbacks": [1, 2], "n": 1}}
    assert merge(base, {"a": {"class_path": "X", "init_args": {"q": 2}}})["a"]["init_args"] == {
        "p": 1,
        "q": 2,
    }
    assert merge(base, {"a": None})["a"] is None
    assert base["trainer"]["callbacks"] == [1]


def test_collecting_names_points_after_the_method_asked_for(tmp_path):
    for i, (label, score) in enumerate(
        [("none", "norm"), ("none", "random"), ("none @ e=2", "random"), ("group_lasso[1]", "norm")]
    ):
        (tmp_path / f"runs/{i}").mkdir(parents=True)
        point = CurvePoint(method=label, score=score, seed=0, split="val", sparsity=0.5, accuracy=1)
        write_curve(Curve((point,)), tmp_path / f"runs/{i}/curve.json")
    wanted = {name: METHODS[name] for name in ("none", "random", "group_lasso")}
    found = [(p.method, p.score) for p in collect(tmp_path, wanted)]
    assert found == [
        ("none", "norm"),
        ("random", "random"),
        ("random @ e=2", "random"),
        ("group_lasso[1]", "norm"),
    ]
    # made again, since another score of it was wanted: its points once
    shutil.copytree(tmp_path / "runs/0", tmp_path / "runs/again")
    assert [(p.method, p.score) for p in collect(tmp_path, wanted)] == found


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--methods=none,foo"], "unknown method 'foo'"),
        (["--methods=none,none"], "each method once"),
        (["--seeds=a"], "--seeds a: expected numbers"),
        (["--fit_config=nope.yaml"], "no such file"),
        (["--own", '{"x": {"fitt": {}}}', "--methods=x"], "own method 'x'"),
        (["--reference=dense"], "--reference dense: expected one of the study's methods, none"),
        (["--address=auto"], "expected --engine ray with it"),
        (["--engine=slurm"], "slurm"),
    ],
)
def test_bad_input_gets_one_line(words, message, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    assert main(["compare", *words]) == (1 if message == "no such file" else 2)
    err = capsys.readouterr().err
    assert message in err
    assert err.count("\n") == 1
    assert not list(tmp_path.iterdir())


def test_ray_that_is_not_there_gets_one_line(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    with monkeypatch.context() as without:
        without.setitem(sys.modules, "ray", None)
        assert main(["compare", "--engine=ray"]) == 1
    assert "pip install ray" in capsys.readouterr().err
    assert not list(tmp_path.iterdir())
    for address, message in {"localhost:1": "no answer", "nowhere": "auto or host:port"}.items():
        with pytest.raises((ConnectionError, ValueError), match=message):
            next(run_on_ray([tmp_path], address=address))
    with pytest.raises(ValueError, match="workers=0"):
        next(run_on_ray([], 0))


def test_a_machine_that_cannot_run_a_study_says_why(tmp_path):
    (tmp_path / "token").touch()
    assert _look(tmp_path / "token", str(tmp_path), __version__) == ""
    assert "it does not see" in _look(tmp_path / "none", str(tmp_path), __version__)
    assert "it does not see /nowhere" in _look(tmp_path / "token", "/nowhere", __version__)
    assert "expected 0.0.0" in _look(tmp_path / "token", str(tmp_path), "0.0.0")


def test_seeds_and_methods():
    assert parse_seeds("0-2, 7,1") == [0, 1, 2, 7]
    assert parse_seeds([4, 2]) == [4, 2]
    own = parse_methods({"none": {"scores": ["norm"]}})
    assert find_methods("none", own)["none"] == Method(scores=["norm"])
    with pytest.raises(ValueError, match="without"):
        find_methods(["a[b]"], {"a[b]": Method()})
