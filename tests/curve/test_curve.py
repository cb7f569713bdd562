"""A curve as a value: its summaries, the points selected from it, several put together."""

import math
from dataclasses import fields, replace

import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.integrate import trapezoid
from scipy.stats import binomtest
from toys.curves import series

from ewnprune.curve.curve import Curve
from ewnprune.curve.points import CurvePoint
from ewnprune.model.size import Count
from ewnprune.pruning.notes import Note

REMOVED = Note("removed", "fc1: removed")


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
    for short in (series([0.9]), series([0.9]) + series([0.8])):
        with pytest.raises(ValueError, match="no area under 1 level"):
            short.area()
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
