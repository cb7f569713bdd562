"""Files of curves: what was written is read, and a corrupt one is told in one line."""

import json
import os
from dataclasses import replace

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from toys.curves import series

from ewnprune.curve.curve import Curve
from ewnprune.curve.files import read_curve, write_curve
from ewnprune.curve.points import CurvePoint
from ewnprune.model.size import Count
from ewnprune.pruning.notes import Note

text = st.text(max_size=8)
whole = st.integers(0, 10**9)
number = st.floats()
counts = st.none() | st.builds(Count, whole, whole)
points = st.builds(
    CurvePoint,
    method=text, seed=st.none() | st.integers(), score=text, unit=text, scope=text, split=text,
    epoch=st.none() | whole, step=st.none() | whole,
    sparsity=st.floats(0, 1, exclude_max=True),
    accuracy=st.none() | number, loss=st.none() | number,
    correct=st.none() | whole, total=st.none() | whole,
    neurons=counts, weights=counts, parameters=counts, macs=counts,
    metrics=st.dictionaries(text, number, max_size=3),
)  # fmt: skip
notes = st.builds(Note, st.sampled_from(["removed", "left", "run"]), text)
curves = st.builds(
    Curve, st.lists(points, max_size=4).map(tuple), st.lists(notes, max_size=2).map(tuple)
)


def same(one, other):
    """Equal, NaN where NaN is; the order of metrics says nothing."""
    one, other = (
        [replace(point, metrics=dict(sorted(point.metrics.items()))) for point in curve]
        for curve in (one, other)
    )
    return repr(one) == repr(other)


@given(curves)
@settings(max_examples=150)
def test_json_and_csv_lose_nothing(tmp_path_factory, curve):
    folder = tmp_path_factory.getbasetemp()
    from_json = read_curve(write_curve(curve, folder / "curve.json"))
    assert same(from_json, curve)
    assert from_json.notes == curve.notes
    assert same(read_curve(write_curve(curve, folder / "curve.csv")), curve)


@given(curves)
@settings(max_examples=50)
def test_json_is_the_json_of_the_standard(tmp_path_factory, curve):
    path = write_curve(curve, tmp_path_factory.getbasetemp() / "strict.json")
    json.loads(path.read_text(encoding="utf-8"), parse_constant=pytest.fail)


def test_csv_is_a_plain_table(tmp_path):
    point = CurvePoint(
        sparsity=0.8, accuracy=0.9, loss=float("nan"), correct=9, total=10, method="EWN, v2",
        neurons=Count(205, 1024), metrics={"F1": 0.5},
    )  # fmt: skip
    curve = Curve((point, replace(point, loss=None, metrics={}, neurons=None)))
    header, first, second = write_curve(curve, tmp_path / "c.csv").read_text().splitlines()
    row = dict(zip(header.split(","), first.replace("EWN, v2", "EWN; v2").split(","), strict=True))
    assert row["method"] == '"EWN; v2"'
    assert (row["neurons_left"], row["neurons_total"]) == ("205", "1024")
    assert float(row["neurons_sparsity"]) == 819 / 1024
    assert row["loss"] == "nan"
    assert row["metric.F1"] == "0.5"
    empty = dict(zip(header.split(","), second.replace(", ", "; ").split(","), strict=True))
    assert empty["loss"] == empty["metric.F1"] == empty["neurons_left"] == ""


def test_the_file_is_replaced_at_once_or_not_at_all(tmp_path, monkeypatch):
    path = tmp_path / "curve.json"
    write_curve(series([0.9, 0.8]), path)
    before = path.read_bytes()
    monkeypatch.setattr(os, "replace", lambda *_: (_ for _ in ()).throw(OSError("no space left")))
    with pytest.raises(OSError, match="no space left"):
        write_curve(series([0.1, 0.2]), path)
    assert path.read_bytes() == before
    assert os.listdir(tmp_path) == ["curve.json"]


def test_the_file_has_the_permissions_of_any_other(tmp_path):
    (tmp_path / "other").write_text("")
    write_curve(series([0.9]), tmp_path / "curve.csv")
    assert (tmp_path / "curve.csv").stat().st_mode == (tmp_path / "other").stat().st_mode


GOOD = series([0.9, 0.8])
GOOD_JSON = '{"format": 1, "points": [{"sparsity": 0.5, "accuracy": 0.9}]}'


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("", "Expecting value"),
        ("{", "Expecting property name"),
        ("[]", "'format' is not 1"),
        ('{"format": 2, "points": []}', "'format' is not 1"),
        ('{"format": 1}', "'points' or 'notes' are no list"),
        ('{"format": 1, "points": [3]}', "point 0: 3 is no point"),
        (GOOD_JSON.replace("accuracy", "accurcy"), "point 0: unknown field 'accurcy'"),
        (GOOD_JSON.replace("0.9", '"high"'), "point 0: accuracy is 'high', no float"),
        (GOOD_JSON.replace("0.9", "true"), "point 0: accuracy is True, no float"),
        (GOOD_JSON.replace("accuracy", "total"), "point 0: total is 0.9, no int"),
        (GOOD_JSON.replace("accuracy", "neurons"), "point 0: neurons is 0.9, expected left and"),
        (GOOD_JSON.replace("accuracy", "metrics"), "point 0: metrics is 0.9, expected names"),
        (GOOD_JSON.replace("sparsity", "loss"), "point 0: no sparsity"),
        ("\udcff\udcfe", "codec can't decode"),
    ],
)
def test_corrupt_json_is_told_in_one_line(tmp_path, content, message):
    path = tmp_path / "curve.json"
    path.write_bytes(content.encode("utf-8", "surrogateescape"))
    with pytest.raises(ValueError, match=message) as caught:
        read_curve(path)
    assert str(path) in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda lines: [], "no column"),
        (lambda lines: ["a,b", "1,2"], "no column"),
        (lambda lines: [lines[0].replace("macs_total", "total"), *lines[1:]], "'macs_total'"),
        (lambda lines: [lines[0], lines[1] + ",1"], "line 2: other columns than in the first line"),
        (lambda lines: [lines[0], lines[1][:20]], "line 2: other columns than in the first line"),
        (lambda lines: [lines[0], lines[1], lines[2].replace("0.8", "high")], "line 3: accur"),
        (lambda lines: [lines[0], lines[1].replace("0.0", "")], "line 2: no sparsity"),
        (lambda lines: [lines[0], '"' + lines[1]], "line .: unexpected end of data"),
    ],
)  # fmt: skip
def test_corrupt_csv_is_told_in_one_line(tmp_path, change, message):
    path = write_curve(GOOD, tmp_path / "curve.csv")
    path.write_text("\n".join(change(path.read_text().splitlines())))
    with pytest.raises(ValueError, match=message) as caught:
        read_curve(path)
    assert str(path) in str(caught.value)
    assert "\n" not in str(caught.value)


def test_unknown_endings_and_missing_files(tmp_path):
    with pytest.raises(ValueError, match=r"ends in \.csv or \.json"):
        write_curve(GOOD, tmp_path / "curve.txt")
    with pytest.raises(FileNotFoundError):
        read_curve(tmp_path / "none.csv")
    with pytest.raises(FileNotFoundError):
        write_curve(GOOD, tmp_path / "none" / "curve.csv")


def test_numbers_of_torch_and_numpy_are_written_as_numbers(tmp_path):
    point = CurvePoint(sparsity=np.float64(0.5), accuracy=float(torch.tensor(0.5)))
    assert read_curve(write_curve(Curve((point,)), tmp_path / "c.csv")).points[0].sparsity == 0.5
    assert read_curve(write_curve(Curve((point,)), tmp_path / "c.json")).points[0] == point


def test_every_field_of_a_point_has_its_column(tmp_path):
    point = CurvePoint(sparsity=0.5, neurons=Count(1, 2), metrics={"F1": 0.5})
    header = write_curve(Curve((point,)), tmp_path / "c.csv").read_text().splitlines()[0]
    assert header == (
        "method,seed,score,unit,scope,realize,level_of,layer,max_per_layer,split,epoch,step,sparsity,"
        "accuracy,loss,correct,total,"
        "neurons_left,neurons_total,neurons_sparsity,weights_left,weights_total,weights_sparsity,"
        "parameters_left,parameters_total,parameters_sparsity,macs_left,macs_total,macs_sparsity,"
        "metric.F1"
    )
