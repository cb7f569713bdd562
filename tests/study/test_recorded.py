"""Runs that were made again count once in all that a study tells of its runs."""

import json
import shutil

from toys.studies import write_study

from ewnprune.curve.curve import Curve
from ewnprune.curve.files import read_curve, write_curve
from ewnprune.curve.points import CurvePoint
from ewnprune.study.analysis import gather
from ewnprune.study.command import collect
from ewnprune.study.methods import Method
from ewnprune.study.rows import class_rows, effort_rows, layer_rows


def _again(run, name, finished):
    """The run made again in another folder, of the time that is told; "" is not finished."""
    made = run.with_name(name)
    shutil.copytree(run, made)
    path = made / "versions.json"
    told = json.loads(path.read_text())
    path.write_text(json.dumps({**told, "finished": finished}))
    if not finished:
        path.unlink()
    return made


def test_rows_of_a_run_made_again_are_counted_once(tmp_path):
    write_study(tmp_path, {"none": ["random"], "ewn": []})
    before = gather(tmp_path)
    tables = [rows(before) for rows in (class_rows, layer_rows, effort_rows)]
    latest = _again(tmp_path / "runs/0-1", "0-1-again", "2026-02-01T10:00:00+00:00")
    _again(tmp_path / "runs/0-1", "0-first", "2025-01-01T10:00:00+00:00")
    _again(tmp_path / "runs/0-1", "9-cut-off", "")
    after = gather(tmp_path)
    assert [rows(after) for rows in (class_rows, layer_rows, effort_rows)] == tables
    assert len(after.recorded("norms.csv")) == len(before.recorded("norms.csv"))
    assert {run.folder for run in after.runs} ^ {run.folder for run in before.runs} == {
        latest,
        tmp_path / "runs/0-1",
    }


def test_points_are_those_of_the_run_that_finished_last(tmp_path):
    times = {"b": "2026-01-02", "a": "2026-01-01", "c": "2026-01-03", "d": "2026-01-01"}
    for number, (name, finished) in enumerate(times.items()):
        run = tmp_path / "runs" / name
        run.mkdir(parents=True)
        point = CurvePoint(method="none", score="norm", seed=0, sparsity=0.5, accuracy=number / 10)
        write_curve(Curve((point,)), run / "curve.json")
        (run / "versions.json").write_text(json.dumps({"finished": finished}))
    (point,) = collect(tmp_path, {"none": Method(scores=["norm"])})
    assert point == read_curve(tmp_path / "runs/c/curve.json").points[0]
