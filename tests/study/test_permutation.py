"""P values of paired differences: against all sign flips in whole numbers."""

import itertools
from types import SimpleNamespace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from ewnprune.curve.curve import Curve
from ewnprune.curve.points import CurvePoint
from ewnprune.study.analysis import analyse
from ewnprune.study.estimates import least_p, sign_flip_p
from ewnprune.study.sections import difference_table, winner_table
from ewnprune.study.text import format_study


def test_permutation_test_keeps_its_level():
    """Under no effect, p <= 0.1 in at most 10 % of studies (4 standard errors allowed)."""
    generator = np.random.default_rng(2)
    p_values = [sign_flip_p(generator.normal(0, 1, 6)) for _ in range(400)]
    assert np.mean(np.array(p_values) <= 0.1) <= 0.1 + 4 * (0.1 * 0.9 / 400) ** 0.5


@given(st.lists(st.integers(-20, 20), min_size=1, max_size=8))
def test_sign_flips_by_brute_force(pairs):
    observed = sum(pairs)
    sums = [
        sum(s * d for s, d in zip(signs, pairs, strict=True))
        for signs in itertools.product((1, -1), repeat=len(pairs))
    ]
    upper = np.mean([s >= observed for s in sums])
    lower = np.mean([s <= observed for s in sums])
    assert sign_flip_p(pairs) == pytest.approx(min(1, 2 * min(upper, lower)))


def _exact(pairs):
    """In whole numbers, where equal sums are equal."""
    sums = [
        abs(sum(s * d for s, d in zip(signs, pairs, strict=True)))
        for signs in itertools.product((1, -1), repeat=len(pairs))
    ]
    return sum(one >= abs(sum(pairs)) for one in sums) / len(sums)


@pytest.mark.parametrize("total", [6_000, 10_000, 60_000])
def test_sign_flips_of_accuracies(total):
    """Differences of accuracies are rounded, each otherwise, and ties between sums remain ties."""
    generator = np.random.default_rng(0)
    for units in ([7, 2, 7, -3, 5, 3, 6], [5, 3, -3, 5, 4, 3, 6], [1, -1, 2, -2], [3, -3]):
        for _ in range(20):
            base = generator.integers(total * 9 // 10, total - 10, len(units)).tolist()
            pairs = [(b + d) / total - b / total for b, d in zip(base, units, strict=True)]
            assert sign_flip_p(pairs) == _exact(units)


def test_what_is_no_number_is_told_from_nothing():
    assert sign_flip_p([float("nan"), 0.1, 0.2, 0.3, 0.1, 0.2, 0.3]) == 1


def test_many_seeds_are_sampled():
    assert sign_flip_p([1.0] * 20) == least_p(20) < 1e-4
    assert sign_flip_p([1.0, -1.0] * 10) == 1
    assert sign_flip_p([1.0] * 14) == least_p(14) == 2 / 2**14


def test_many_seeds_are_no_longer_called_exact():
    """Here at the ends of a report: its text, its page and its caveats."""
    points = tuple(
        CurvePoint(method=m, seed=seed, split="test", sparsity=level, accuracy=0.9)
        for m in ("none", "ewn")
        for seed in range(15)
        for level in (0.0, 0.5)
    )
    study = analyse(Curve(points), "none")
    found = SimpleNamespace(study=study)
    for text in (format_study(study), difference_table(found).text, winner_table(found).text):
        assert "random permutation" in text and "exact" not in text
    assert f"less than p = {least_p(15):.3g} before correction" in " ".join(study.caveats)
