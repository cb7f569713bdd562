import json
import re
import shutil
import sys
from importlib import import_module
from pathlib import Path

import pytest

from ewnprune import __version__
from ewnprune.cli import main
from ewnprune.curve.curve import Curve
from ewnprune.curve.files import write_curve
from ewnprune.curve.points import CurvePoint
from ewnprune.study import command
from ewnprune.study.command import _alone, collect, compare
from ewnprune.study.labels import Label
from ewnprune.study.methods import (
    METHODS,
    NEURON_SCORES,
    Method,
    find_methods,
    parse_methods,
    parse_seeds,
)
from ewnprune.study.plan import expand, merge
from ewnprune.study.ray_engine import _look, run_on_ray


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


@pytest.mark.parametrize("name", METHODS)
def test_a_known_method_can_be_made_and_is_told(name):
    method = METHODS[name]
    for options in [*method.candidates.values(), *method.parts.values()] or [{}]:
        config = merge(method.fit, options)
        made = [config["prune"]["parametrization"], *config.get("trainer", {}).get("callbacks", [])]
        for one in filter(None, made):
            module, _, kind = one["class_path"].rpartition(".")
            getattr(import_module(module), kind)(**one.get("init_args", {}))
    page = (Path(__file__).parents[2] / "docs/compare.md").read_text(encoding="utf-8")
    rows = [r for r in page.splitlines() if r.startswith("| `") and f"`{name}`" in r.split("|")[1]]
    row = rows[0]  # that of what it is; a table of results may follow
    for number in re.findall(r"[\d.]+", " ".join(method.candidates)):
        assert number in row
    assert re.search(rf"\b{name}\b", compare.__doc__)
    assert len(method.candidates) in (0, 4)  # so that none is tuned more than another


@pytest.mark.parametrize("base", [{}, {"prune": {"realize": "remove"}}])
def test_runs_are_measured_by_the_scores_of_the_study_alone(base):
    """Others, of single weights, may be such as its networks cannot have."""
    folders = set()
    for methods, scores in (("none", NEURON_SCORES), ("none,random", (*NEURON_SCORES, "random"))):
        (run,) = _expand(methods, base)
        assert tuple(run.config["prune"]["scores"]) == scores
        folders.add(run.folder)
    assert base or len(folders) == 1  # so that it is found when the study has grown
    ranking = {"mine": Method({}, scores=("norm_with_bias",), trains="none")}
    (run,) = _expand("none,mine", base, own=ranking)
    assert base or run.folder in folders


def test_values_in_brackets_are_no_candidates():
    """Of `lasso[0.1]` and `lasso[1]` one is chosen; of two widths none is."""
    runs = _expand("none,group_lasso", vary={"model.init_args.hidden": [[16], [32, 8]]})
    assert {str(Label.parse(run.method).chosen()) for run in runs} == {
        f"{method} @ hidden={value}"
        for method in ("none", "group_lasso")
        for value in ("(16)", "(32, 8)")
    }
    assert runs[-1].config["model"]["init_args"]["hidden"] == [32, 8]


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
        (["--fit_config=nope.yaml"], "error: --fit_config nope.yaml: there is no such file"),
        (["--own", '{"x": {"fitt": {}}}', "--methods=x"], "own method 'x'"),
        (["--reference=dense"], "--reference dense: expected one of the study's methods, none"),
        (["--address=auto"], "expected --engine ray with it"),
        (["--engine=slurm"], "slurm"),
    ],
)
def test_bad_input_gets_one_line(words, message, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    assert main(["compare", *words]) in (1, 2)
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


def test_what_cannot_be_drawn_stops_no_run(tmp_path, monkeypatch, capsys):
    def write(folder, methods):
        raise OverflowError("no such axis")

    monkeypatch.setattr(command, "_write_results", write)
    command._write_so_far(tmp_path, {})
    assert "runs so far: OverflowError: no such axis" in capsys.readouterr().out


def test_the_page_is_written_anew_after_each_run(tmp_path, monkeypatch, capsys):
    """And one that cannot be written stops no run, but is an error in the end."""
    pages = []
    page = tmp_path / "study/report/index.html"

    def train(folders, workers):
        for folder in folders:
            seed = json.loads((folder / "run.json").read_text())["seed"]
            accuracy = 0.9 if seed < 2 else None
            points = (
                CurvePoint(method="none", seed=seed, split="test", sparsity=s, accuracy=accuracy)
                for s in (0.0, 0.5)
            )
            write_curve(Curve(tuple(points)).tagged(score="norm"), folder / "curve.json")
            (folder / "versions.json").write_text('{"torch": "2.9.0", "device": "cpu"}')
            yield folder, 0
            pages.append(page.read_text())

    monkeypatch.setattr("ewnprune.study.command.run_locally", train)
    monkeypatch.setattr("ewnprune.study.command.check_options", lambda runs, own: None)
    words = ["compare", "--methods", "none", "--folder", str(tmp_path / "study"), "--seeds"]
    assert main([*words, "0-1"]) == 0
    for number, text in enumerate(pages):
        assert f"<dd>{number + 1} of 2 finished</dd>" in text
    assert main([*words, "0-3"]) == 1
    told = capsys.readouterr()
    assert told.out.count("no page of the runs so far: 'accuracy' was not measured") == 2
    assert "'accuracy' was not measured" in told.err
