"""The winner at a loss, where methods have other seeds: against counts by hand."""

from types import SimpleNamespace

import pytest

from ewnprune.curve.curve import Curve
from ewnprune.curve.points import CurvePoint
from ewnprune.study.analysis import analyse
from ewnprune.study.sections import winner_table
from ewnprune.study.winning import winners


def _study(largest):
    """From {method: {seed: the largest level that loses nothing}}."""
    points = tuple(
        CurvePoint(
            method=method,
            seed=seed,
            split="test",
            sparsity=level,
            accuracy=(0.98 if level <= end else 0.5) + seed / 1000,
        )
        for method, ends in largest.items()
        for seed, end in ends.items()
        for level in (0, 0.5, 0.6, 0.7, 0.8, 0.9)
    )
    return analyse(Curve(points), "none")


def test_methods_are_compared_over_the_seeds_that_they_share():
    """`none` has six seeds more, which are easy, and loses every pair."""
    easy = dict.fromkeys(range(6, 12), 0.9)
    study = _study(
        {"none": dict.fromkeys(range(6), 0.6) | easy, "ewn": dict.fromkeys(range(6), 0.7)}
    )
    one, *_ = winners(study)
    assert (one.methods, one.told, one.open) == (("ewn",), ("none",), ())
    assert one.removed.mean == pytest.approx(0.7)
    row = winner_table(SimpleNamespace(study=study)).rows[0]
    assert row[3] == "98.25"  # of seeds 0 to 5
    assert any("Not all methods have the same seeds" in line for line in study.caveats)

    study = _study({"none": dict.fromkeys(range(6), 0.6), "ewn": dict.fromkeys(range(8), 0.7)})
    one, *_ = winners(study)
    assert (one.methods, one.told) == (("ewn",), ("none",))
    assert one.removed.values == dict.fromkeys(range(6), 0.7)
    assert winner_table(SimpleNamespace(study=study)).rows[0][3] == "98.25"


def test_a_method_that_wins_all_pairs_is_not_told_from_the_winner():
    """Three methods of which no seed is in all: each is taken over its own."""
    hard, easy = range(8), range(8, 16)
    whole = dict.fromkeys(hard, 0.6) | dict.fromkeys(easy, 0.9)
    study = _study(
        {"none": whole, "ewn": dict.fromkeys(hard, 0.7), "swn": dict.fromkeys(easy, 0.5)}
    )
    one, *_ = winners(study)
    assert (one.methods, one.told, one.open) == (("none",), ("swn",), ("ewn",))
