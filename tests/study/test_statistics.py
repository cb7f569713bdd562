import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats

from ewnprune.curve.curve import Curve
from ewnprune.curve.points import CurvePoint
from ewnprune.model.size import Count
from ewnprune.study.analysis import analyse
from ewnprune.study.checklist import reporting_items
from ewnprune.study.estimates import bootstrap_estimate, estimate, estimate_accuracy, holm
from ewnprune.study.limits import caveats, edges
from ewnprune.study.statistics import chosen, differences, summaries, values_at
from ewnprune.study.tables import write_tables
from ewnprune.study.text import format_study


def _curve(accuracies, split="test", score="norm"):
    """From {method: {seed: {level: accuracy}}}."""
    return Curve(
        tuple(
            CurvePoint(
                method=method, seed=seed, score=score, split=split, sparsity=level, accuracy=value
            )
            for method, seeds in accuracies.items()
            for seed, levels in seeds.items()
            for level, value in levels.items()
        )
    )


def test_t_interval_by_hand():
    # mean 3, sd sqrt(2.5), t(0.975, 4) = 2.776445 (any table), half = t * sqrt(2.5 / 5)
    found = estimate(dict(enumerate([1.0, 2.0, 3.0, 4.0, 5.0])))
    assert found.mean == 3
    assert found.sd == pytest.approx(2.5**0.5)
    assert found.low == pytest.approx(3 - 2.776445 * 0.5**0.5, abs=1e-5)
    assert found.high == pytest.approx(3 + 2.776445 * 0.5**0.5, abs=1e-5)
    same = estimate({0: 0.5, 1: 0.5})
    assert (same.low, same.high, same.sd) == (0.5, 0.5, 0.0)
    alone = estimate({0: 0.5})
    assert alone.mean == 0.5
    assert np.isnan([alone.sd, alone.low, alone.high]).all()
    with pytest.raises(ValueError, match="one per seed"):
        estimate({})


def test_coverage_in_simulation():
    """4,000 studies of 5 seeds: the t interval keeps its word, the bootstrap falls short of it."""
    generator = np.random.default_rng(1)
    draws = generator.normal(0.7, 0.02, (4000, 5))
    found = [estimate(dict(enumerate(row))) for row in draws]
    covered = np.mean([e.low <= 0.7 <= e.high for e in found])
    assert covered == pytest.approx(0.95, abs=4 * (0.95 * 0.05 / 4000) ** 0.5)
    drawn = [bootstrap_estimate(dict(enumerate(row))) for row in draws[:300]]
    # as its docstring says; 300 draws know it to two points
    assert np.mean([e.low <= 0.7 <= e.high for e in drawn]) == pytest.approx(0.83, abs=0.06)


@pytest.mark.parametrize("seeds", [3, 5, 10])
@pytest.mark.parametrize(("mean", "sd"), [(0.98, 0.002), (0.98, 0.01), (0.95, 0.03), (0.9, 0.05)])
def test_coverage_near_one_in_simulation(mean, sd, seeds):
    """Beta-distributed accuracies: where the t interval misses by up to two points, this does not.

    4,000 studies know a coverage to a third of a point: three of those, and half a point, allowed.
    """
    size = mean * (1 - mean) / sd**2 - 1
    draws = np.random.default_rng(3).beta(mean * size, (1 - mean) * size, (4000, seeds))
    found = [estimate_accuracy(dict(enumerate(row))) for row in draws]
    covered = np.mean([e.low <= mean <= e.high for e in found])
    assert covered > 0.945 - 3 * (0.95 * 0.05 / 4000) ** 0.5
    assert covered < 0.97
    half = stats.t.ppf(0.975, seeds - 1) * draws.std(axis=1, ddof=1) / seeds**0.5
    assert covered >= np.mean(np.abs(draws.mean(axis=1) - mean) <= half)


@given(st.lists(st.floats(0, 1), min_size=2, max_size=5))
def test_interval_of_an_accuracy_lies_within_what_accuracies_can_be(values):
    found = estimate_accuracy(dict(enumerate(values)))
    assert 0 <= found.low <= found.mean + 1e-12
    assert found.mean - 1e-12 <= found.high <= 1
    mirrored = estimate_accuracy(dict(enumerate(1 - v for v in values)))
    assert (1 - mirrored.high, 1 - mirrored.low) == pytest.approx((found.low, found.high), abs=1e-6)


def test_interval_of_an_accuracy_by_hand():
    # mean 0.938, sd 0.024 / sqrt(2), t(0.975, 1) = 12.7062: half 0.15247, of the logit 2.6218,
    # about log(0.938 / 0.062) = 2.7166: odds exp(0.0948) = 1.0994 and exp(5.3384) = 208.19
    found = estimate_accuracy({0: 0.926, 1: 0.95})
    assert found.low == pytest.approx(1.0994 / 2.0994, abs=1e-4)
    assert found.high == pytest.approx(208.19 / 209.19, abs=1e-5)
    spread_little = estimate_accuracy({0: 0.97, 1: 0.9701, 2: 0.9702})
    plain = estimate({0: 0.97, 1: 0.9701, 2: 0.9702})
    assert (spread_little.low, spread_little.high) == pytest.approx(
        (plain.low, plain.high), abs=2e-6
    )
    alone = estimate_accuracy({0: 0.5})
    assert np.isnan([alone.low, alone.high]).all()


@given(st.lists(st.floats(0, 1), min_size=1, max_size=10))
def test_holm_rejects_what_the_step_down_procedure_rejects(p_values):
    """The textbook procedure: step down while p_(i) <= level / (m - i)."""
    corrected = holm(p_values)
    assert all(c >= p for c, p in zip(corrected, p_values, strict=True))
    for level in (0.01, 0.05, 0.2):
        rejected = set()
        for place, index in enumerate(np.argsort(p_values, kind="stable")):
            if (len(p_values) - place) * p_values[index] > level:
                break
            rejected.add(int(index))
        assert {i for i, c in enumerate(corrected) if c <= level} == rejected


def test_differences_are_paired_by_seed():
    curve = _curve(
        {
            "none": {0: {0.9: 0.5}, 1: {0.9: 0.9}, 2: {0.9: 0.7}},
            "ewn": {1: {0.9: 0.92}, 0: {0.9: 0.51}, 7: {0.9: 0.0}},
        }
    )
    (found,) = differences(curve, "none")
    assert (found.method, found.reference, found.sparsity) == ("ewn", "none", 0.9)
    assert found.estimate.values == pytest.approx({0: 0.01, 1: 0.02})
    paired = stats.ttest_rel([0.51, 0.92], [0.5, 0.9]).confidence_interval()
    assert (found.estimate.low, found.estimate.high) == pytest.approx((paired.low, paired.high))
    assert found.p == 0.5  # 2 / 2**2
    with pytest.raises(ValueError, match="'swn' is not among"):
        differences(curve, "swn")
    with pytest.raises(ValueError, match="two points for seed 0"):
        values_at(curve + curve, "none", 0.9)


def test_levels_of_a_study_of_its_own_are_compared(tmp_path):
    """Where none is of those that are compared otherwise."""
    for levels, at in (((0.0, 0.3, 0.6), (0.3, 0.6)), ((0.0, 0.3, 0.5, 0.9), (0.5, 0.9))):
        seeds = {seed: {level: 0.9 - level / 2 for level in levels} for seed in (0, 1)}
        study = analyse(_curve({"none": seeds, "ewn": seeds}), "none")
        assert tuple(d.sparsity for d in study.differences) == at
        heads = [line for line in format_study(study).splitlines() if line.startswith("removed")]
        assert [float(cell) / 100 for cell in heads[0].split()[1::2]] == [0, *at]
        assert [float(cell) / 100 for cell in heads[-1].split()[1::2]] == [*at]
    alone = analyse(_curve({"none": seeds}), "none")
    write_tables(alone, tmp_path)
    head = "method,reference,sparsity,seeds,mean,low,high,p,p_holm\r\n"
    assert (tmp_path / "differences.csv").read_bytes().decode() == head


def test_intervals_of_differences_end_where_differences_do():
    curve = _curve({"none": {0: {0.9: 0.1}, 1: {0.9: 0.1}}, "ewn": {0: {0.9: 0.2}, 1: {0.9: 0.9}}})
    (found,) = differences(curve, "none")
    assert (found.estimate.low, found.estimate.high) == (-1, 1)


def test_differences_compare_equal_settings():
    levels = {0: {0.5: 0.9}, 1: {0.5: 0.8}}
    curve = _curve({f"{m} @ epochs={e}": levels for m in ("none", "ewn") for e in (1, 5)})
    assert [(d.method, d.reference) for d in differences(curve, "none")] == [
        ("ewn @ epochs=1", "none @ epochs=1"),
        ("ewn @ epochs=5", "none @ epochs=5"),
    ]


def test_summaries():
    seeds = {s: {0.0: 0.98, 0.5: 0.976, 0.9: 0.97 - s / 100} for s in range(3)}
    curve = _curve({"none": seeds, "dense": {0: {0.9: 0.97}}})
    plain, dense = summaries(curve)
    assert plain.area is not None
    assert plain.area.values[0] == pytest.approx((0.5 * 0.978 + 0.4 * 0.973) / 0.9)
    assert plain.within[0.5].values == {0: 0.5, 1: 0.5, 2: 0.5}
    assert plain.within[1.0].values == {0: 0.9, 1: 0.5, 2: 0.5}
    assert plain.within[2.0].values == {0: 0.9, 1: 0.9, 2: 0.5}
    assert 0.5 <= plain.within[1.0].low <= plain.within[1.0].mean <= plain.within[1.0].high <= 0.9
    assert dense.area is None
    assert dense.within == {}


def test_candidates_and_scores_are_chosen_on_validation_data():
    """On test data the other candidate is far better, and must not be taken."""
    good, bad = {0: {0.0: 0.9, 0.9: 0.8}}, {0: {0.0: 0.9, 0.9: 0.2}}
    curve = (
        _curve({"lasso[1]": good, "lasso[2]": bad}, "val")
        + _curve({"lasso[1]": bad, "lasso[2]": good}, "val", "random")
        + _curve({"lasso[1]": bad, "lasso[2]": good}, "test")
    )
    curve += _curve({"none": good}, "test", "norm_product")  # no validation data: as it is
    found, taken = chosen(curve)
    assert taken == {"lasso": ("lasso[1]", "norm"), "none": ("none", "norm_product")}
    tested = found.where(split="test", method="lasso", sparsity=0.9)
    assert [p.accuracy for p in tested] == [0.2]


def test_checklist_says_what_is_lacking():
    count = Count(1, 10)
    levels = (0.0, 0.5, 0.8, 0.9, 0.95)
    points = tuple(
        CurvePoint(
            method="none",
            seed=seed,
            split="test",
            sparsity=level,
            accuracy=0.98 - level / 2,
            parameters=count,
            macs=count,
        )
        for seed in range(3)
        for level in levels
    )
    taken = {"none": ("none", "norm")}
    met = {item.demand: item for item in reporting_items(Curve(points), taken)}
    assert met["five levels or more, up to where accuracy collapses"].met
    assert met["compression ratio and theoretical speedup"].met
    assert met["mean and sample standard deviation over several seeds"].met
    baseline = met["random and magnitude baselines"]
    assert not baseline.met
    assert baseline.note == "missing: random, random_ratios, magnitude"
    assert not met["three pairs of data set and architecture or more"].met
    few = {i.demand: i for i in reporting_items(Curve(points[1:4]), taken)}
    assert not few["absolute accuracy, and that of the unpruned network"].met
    assert not few["five levels or more, up to where accuracy collapses"].met
    everything = {**taken, **{n: (n, "x") for n in ("random", "random_ratios", "magnitude")}}
    items = reporting_items(Curve(points), everything)
    assert {i.demand: i.met for i in items}["random and magnitude baselines"]


def test_caveats_say_what_so_many_seeds_cannot_show():
    curve = _curve({"none": {seed: {0.0: 0.9} for seed in range(5)}, "ewn": {0: {0.0: 0.9}}})
    one, five, seeds, scope = caveats(curve)
    assert "n = 1 seed (ewn) nothing can be said" in one
    assert "p = 0.0625, so it can reach 5 % at no level" in five  # 2 / 2**5
    assert "larger than 1.2 of" in five  # 2.776 / sqrt(5)
    assert "Not all methods have the same seeds" in seeds
    assert "other data" in scope
    assert len(caveats(curve.where(method="none"))) == 2


def test_a_strength_at_the_end_of_its_grid_is_mentioned():
    labels = ["none", *(f"lasso[{x}] @ e=5" for x in (1, 10, 2)), "own[a]", "own[b]"]
    points = _curve({label: {0: {0.0: 0.9}} for label in labels}, "val")
    for end, word in (("1", "weakest"), ("10", "strongest")):
        taken = {"none": ("none", "norm"), "lasso @ e=5": (f"lasso[{end}] @ e=5", "norm")}
        (sentence,) = edges(points, taken | {"own": ("own[a]", "norm")})
        assert f"lasso @ e=5 took the {word} of its strengths (1, 2, 10)" in sentence
    assert edges(points, {"lasso @ e=5": ("lasso[2] @ e=5", "norm")}) == []
