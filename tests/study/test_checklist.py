"""Each of the ten demands can be met and not met, and what mends it is a command that is one."""

import functools
import json
import shlex
from dataclasses import replace

import pytest
from toys.studies import write_study

import ewnprune.study.command
from ewnprune.cli import main
from ewnprune.curve.curve import Curve
from ewnprune.curve.files import read_curve, write_curve
from ewnprune.study.analysis import gather

ALL = {"none": ["random", "random_ratios", "magnitude"]}


@pytest.fixture
def met(tmp_path):
    """A study that lacks nothing but what it cannot have by a formula."""
    write_study(tmp_path, ALL, levels=(0.0, 0.5, 0.8, 0.9, 0.95, 0.98))
    for at, path in enumerate(sorted(tmp_path.glob("runs/*/run.json"))):
        settings = json.loads(path.read_text())
        settings["fit"]["data"] = {"class_path": f"my.Data{at}", "init_args": {"seed": at}}
        settings["fit"]["prune"]["finetune"] = {"epochs": 2}
        settings["method"] = f"none @ data={at}"
        path.write_text(json.dumps(settings))
    points = [
        replace(point, metrics={"latency_ms": 1.0}, method=f"{point.method} @ data={data}")
        for point in read_curve(tmp_path / "points.csv")
        for data in range(3)
    ]
    write_curve(Curve(tuple(points)), tmp_path / "points.csv")
    return tmp_path


def _items(folder):
    return {item.demand: item for item in gather(folder).study.items}


def _change(folder, name, change):
    for path in folder.glob(f"runs/*/{name}"):
        value = json.loads(path.read_text())
        change(value, path.parent.name)
        path.write_text(json.dumps(value))


def _points(folder, change):
    points = [change(point) for point in read_curve(folder / "points.csv")]
    write_curve(Curve(tuple(p for p in points if p is not None)), folder / "points.csv")


def test_all_can_be_met(met):
    items = _items(met)
    assert len(items) == 10
    assert [demand for demand, item in items.items() if not item.met] == []
    assert not any(item.mend for item in items.values())


def _one_data_set(folder):
    def change(settings, run):
        settings["fit"]["data"] = {"class_path": "my.Data", "init_args": {"seed": int(run[-1])}}

    _change(folder, "run.json", change)


def _unequal_versions(folder):
    _change(folder, "versions.json", lambda told, run: told.update(torch=f"2.{run[-1]}"))


LACKING = {
    "three pairs": _one_data_set,
    "compression ratio": lambda f: _points(f, lambda p: replace(p, macs=None)),
    "absolute accuracy": lambda f: _points(f, lambda p: p if p.sparsity else None),
    "five levels": lambda f: _points(f, lambda p: p if p.sparsity < 0.6 else None),
    "mean and sample": lambda f: _points(f, lambda p: p if p.seed < 2 else None),
    "same code": _unequal_versions,
    "random and magnitude": lambda f: _points(f, lambda p: None if "ratios" in p.method else p),
    "fine-tuning": lambda f: _change(
        f, "run.json", lambda s, run: s["fit"]["prune"].update(finetune=None)
    ),
    "nothing chosen": lambda f: _points(f, lambda p: p if p.split == "val" else None),
    "measured latency": lambda f: _points(f, lambda p: replace(p, metrics={})),
}


@pytest.mark.parametrize("demand", LACKING)
def test_each_can_be_lacking_and_its_command_is_one(met, demand, monkeypatch):
    LACKING[demand](met)
    (lacking,) = [item for name, item in _items(met).items() if name.startswith(demand)]
    assert not lacking.met
    given = {}

    @functools.wraps(ewnprune.study.command.compare)
    def compare(**options):
        given.update(options)

    monkeypatch.setattr(ewnprune.study.command, "compare", compare)
    program, *words = shlex.split(lacking.mend)
    assert program == "ewnprune"
    assert main(words) == 0
    assert given["reference"] == "none"  # all that the study was made with is there
    assert given["folder"].name in (met.name, f"{met.name}-2")


def test_where_networks_are_built_no_command_asks_for_single_weights(met):
    write_curve(read_curve(met / "points.csv"), met / "all.csv")
    for names, mended in ((["random"], "random,random_ratios"), (["random", "random_ratios"], "")):
        _points(met, lambda p: replace(p, realize="remove", unit="neurons"))
        _points(met, lambda p, n=names: p if p.method.split()[0] in ("none", *n) else None)
        item = _items(met)["random and magnitude baselines"]
        assert "magnitude, can be masked only" in item.note and not item.met
        assert item.mend.rpartition("--methods ")[2] == mended
        write_curve(read_curve(met / "all.csv"), met / "points.csv")


def test_runs_that_are_not_there_meet_nothing(met):
    for path in met.glob("runs/*/run.json"):
        path.unlink()
    lacking = [item.note for item in _items(met).values() if not item.met]
    assert lacking[:2] == ["not known: the folders of the runs are not there"] * 2
    assert len(lacking) == 3  # finetuning too: of no run is it known


def test_sizes_of_one_architecture_are_one(met):
    _one_data_set(met)
    _change(
        met,
        "run.json",
        lambda s, run: s["fit"].update(
            model={"class_path": "my.Model", "init_args": {"width": int(run[-1])}}
        ),
    )
    (item,) = [item for name, item in _items(met).items() if name.startswith("three pairs")]
    assert item.note.startswith("one pair")
