import json
import math
import os
from dataclasses import fields, replace

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.integrate import trapezoid
from scipy.stats import binomtest

from ewnprune.curve.curve import Curve
from ewnprune.curve.files import read_curve, write_curve
from ewnprune.curve.points import CurvePoint
from ewnprune.model.size import Count
from ewnprune.pruning.notes import Note

REMOVED = Note("removed", "fc1: removed")

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


def series(values, **fields):
    levels = np.linspace(0, 0.9, len(values)) if len(values) > 1 else [0]
    return Curve(
        tuple(
            CurvePoint(sparsity=float(level), accuracy=value, **fields)
            for level, value in zip(levels, values, strict=True)
        )
    )


def same(one, other):
    """Equal, NaN where NaN is; the order of metrics says nothing."""
    one, other = (
        [replace(point, metrics=dict(sorted(point.metrics.items()))) for point in curve]
        for curve in (one, other)
    )
    return repr(one) == repr(other)


# --- files -----------------------------------------------------------------------------------


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
    assert row["neurons_left"], row["neurons_total"] == ("205", "1024")
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


# --- summaries -------------------------------------------------------------------------------


@given(st.integers(1, 3000).flatmap(lambda n: st.tuples(st.integers(0, n), st.just(n))))
def test_wilson_interval_is_scipy_s(correct_of):
    correct, total = correct_of
    low, high = CurvePoint(sparsity=0, correct=correct, total=total).interval()
    by_scipy = binomtest(correct, total).proportion_ci(0.95, "wilson")
    assert low == pytest.approx(by_scipy.low, abs=1e-12)
    assert high == pytest.approx(by_scipy.high, abs=1e-12)


def test_interval_needs_counts():
    with pytest.raises(ValueError, match=r"no interval at sparsity 0\.5: expected counts"):
        CurvePoint(sparsity=0.5, accuracy=0.9).interval()


accuracies = st.lists(st.floats(0, 1), min_size=2, max_size=20)


@given(accuracies)
def test_area_is_scipy_s_trapezium(values):
    curve = series(values)
    x = [point.sparsity for point in curve]
    assert curve.area() == pytest.approx(trapezoid(values, x) / (x[-1] - x[0]))
    assert min(values) - 1e-12 <= curve.area() <= max(values) + 1e-12


@given(accuracies, st.floats(0, 10))
def test_largest_sparsity_is_the_end_of_the_run_that_stays_near(values, within):
    curve = series(values)
    largest = curve.largest_sparsity(within)
    floor = values[0] - within / 100 - 1e-9
    below = [point.sparsity for point in curve if point.accuracy < floor]
    assert all(level > largest for level in below)
    beyond = [point.sparsity for point in curve if point.sparsity > largest]
    assert not beyond or min(beyond) in below
    assert curve.largest_sparsity(within + 1) >= largest


def test_largest_sparsity_does_not_jump_over_a_dip():
    curve = series([0.98, 0.97, 0.95, 0.975])
    assert curve.largest_sparsity(1) == pytest.approx(0.3)  # a tie, and then a dip below it
    assert curve.largest_sparsity(0.5) == 0
    assert curve.largest_sparsity(3) == pytest.approx(0.9)
    assert series([0.98, math.nan, 0.98]).largest_sparsity(100) == 0


def test_summaries_of_what_is_no_single_series_are_refused():
    mixed = series([0.9, 0.8], score="norm") + series([0.9, 0.7], score="random")
    for summary in (mixed.area, lambda: mixed.largest_sparsity(1)):
        with pytest.raises(ValueError, match=r"2 series \(score in \['norm', 'random'\]\)"):
            summary()
    with pytest.raises(ValueError, match="no area under 1 level"):
        series([0.9]).area()
    with pytest.raises(ValueError, match="the dense network was not measured"):
        Curve(series([0.9, 0.8]).points[1:]).largest_sparsity(1)
    with pytest.raises(ValueError, match=r"'F1' was not measured at sparsity 0: .*\['accuracy'\]"):
        series([0.9, 0.8]).area("F1")


def test_any_measure_can_be_summed_up():
    points = tuple(
        CurvePoint(sparsity=s, loss=1 + s, metrics={"F1": 1 - s}) for s in (0.0, 0.5, 0.9)
    )
    assert Curve(points).area("loss") == pytest.approx(1.45)
    assert Curve(points).area("F1") == pytest.approx(0.55)
    assert Curve(points).largest_sparsity(50, "F1") == 0.5


# --- selection -------------------------------------------------------------------------------


def test_selection_concatenation_and_series():
    plain = replace(
        series([0.9, 0.8], method="plain", score="norm"), notes=(REMOVED, Note("run", "a"))
    )
    ewn = replace(series([0.9, 0.7], method="EWN", score="norm"), notes=(REMOVED, Note("run", "b")))
    both = plain + ewn
    assert len(both) == 4
    assert list(both) == [*plain, *ewn]
    assert both.notes == (REMOVED, Note("run", "a"), Note("run", "b"))
    assert both.where(method="EWN").points == ewn.points
    assert both.where(method="EWN", score="random").points == ()
    assert [one.points for one in both.series()] == [plain.points, ewn.points]
    shuffled = Curve(both.points[::-1])
    assert [one.points for one in shuffled.series()] == [ewn.points, plain.points]
    assert {point.split for point in both.tagged(split="test", epoch=3)} == {"test"}
    assert both.points[0].split == ""
    with pytest.raises(ValueError, match="points have no field 'name': expected one of"):
        both.where(name="EWN")


def test_counts_give_the_fraction_removed():
    assert Count(205, 1024).sparsity == pytest.approx(0.8, abs=1e-3)
    assert Count(0, 0).sparsity == 0


def test_points_are_values():
    one, other = series([0.9, 0.8]), series([0.9, 0.8])
    assert one == other
    assert len({*one, *other}) == 2
    assert {item.name for item in fields(CurvePoint)} >= {"method", "sparsity", "macs", "step"}


# --- the table -------------------------------------------------------------------------------


def full(method="", score="norm", levels=(0, 0.5, 0.98), total=10000):
    return Curve(
        tuple(
            CurvePoint(
                sparsity=s, accuracy=(0.98 - s / 10), correct=int(9800 - 1000 * s), total=total,
                loss=0.1 + s, method=method, score=score, split="test",
                neurons=Count(round(1024 * (1 - s)), 1024),
                parameters=Count(round(10**5 * (1 - s)), 10**5), macs=Count(1, 1),
            )
            for s in levels
        ),
        (f"fc1: neurons removed with bias, {'a long story, ' * 12}the end", "fc2: left: last"),
    )  # fmt: skip


def test_the_table_of_one_series():
    lines = full("EWN").table().splitlines()
    assert lines[0] == "EWN, ranked by norm, test data"
    assert lines[3].split() == [
        "0", "%", "1024", "of", "1024", "100.0", "%", "100.0", "%", "98.00", "97.71", "-", "98.26",
    ]  # fmt: skip
    assert lines[5].split()[:2] == ["98", "%"]
    assert [line.split() for line in lines[7:9]] == [["removed", "loss"], ["0", "%", "0.1"]]
    assert lines[12] == "dense   mean  within 0.5 pt  within 1 pt  within 2 pt"
    assert lines[13] == "98.00  93.10            0 %          0 %          0 %"


@pytest.mark.parametrize("names", [[""], ["plain", "EWN"], [f"method {i}" * 3 for i in range(9)]])
def test_no_line_of_the_text_is_longer_than_a_terminal(names):
    curve = Curve()
    for name in names:
        curve += full(name) + full(name, "norm_product")
    lines = str(curve).splitlines()
    assert max(map(len, lines)) < 80
    assert lines == [line.rstrip() for line in lines]
    assert lines[-1] == "fc2: left: last"
    assert "the end" in str(curve)
    for level in ("0 %", "50 %", "98 %"):
        assert any(line.strip().startswith(level) for line in lines)
    for name in names:
        assert name in str(curve)


def test_tables_of_parts_of_a_curve():
    assert str(Curve()) == "(no points)"
    assert "95 % interval" not in series([0.9, 0.8]).table()
    loss_only = Curve((CurvePoint(sparsity=0, loss=0.5), CurvePoint(sparsity=0.5, loss=0.75)))
    assert loss_only.table().splitlines()[0].split() == ["removed", "loss"]
    assert full().table("loss").splitlines()[2].split()[-3:] == ["loss", "accuracy", "(%)"]
    uneven = full("plain") + full("EWN", levels=(0, 0.9))
    rows = {line.strip()[:4].strip(): line for line in uneven.table().splitlines()[3:7]}
    assert rows["90 %"].split()[-1] == "89.00"
    assert rows["50 %"].split()[-1] != "89.00"
    other_sizes = full("plain") + Curve(
        tuple(replace(p, method="EWN", macs=Count(2, 3)) for p in full())
    )
    assert "MACs" not in other_sizes.table()
    assert "neurons left" in other_sizes.table()


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
