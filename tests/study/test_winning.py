"""The winner, and the candidate chosen, where others have other seeds: against counts by hand."""

from types import SimpleNamespace

import pytest

from ewnprune.curve.curve import Curve
from ewnprune.curve.points import CurvePoint
from ewnprune.study.analysis import analyse
from ewnprune.study.sections import candidate_table, winner_table
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


def _candidates(areas):
    """From {candidate: {seed: accuracy at each level}}, beside a method with all seeds."""
    series = {f"lasso[{name}]": by_seed for name, by_seed in areas.items()}
    points = tuple(
        CurvePoint(
            method=method, seed=seed, score="norm", split=split, sparsity=level, accuracy=value
        )
        for method, by_seed in (series | {"none": dict.fromkeys(range(3), 0.9)}).items()
        for seed, value in by_seed.items()
        for split in ("val", "test")
        for level in (0.0, 0.9)
    )
    return SimpleNamespace(points=Curve(points), study=analyse(Curve(points), "none"))


def test_the_grid_shows_what_candidates_were_chosen_by():
    """By seed 0, which both have; over its own seeds the other has the larger mean."""
    found = _candidates({"1": {0: 0.95, 1: 0.90}, "2": {0: 0.94, 2: 0.97}})
    assert found.study.taken["lasso"] == ("lasso[1]", "norm")
    table = candidate_table(found)
    assert [row[1:] for row in table.rows[:2]] == [
        ["1", "norm", "95.00", "chosen"],
        ["2", "norm", "94.00", ""],
    ]
    assert [row["seeds"] for row in table.data] == [1, 1, 3]
    assert table.data[0]["seed 1"] == pytest.approx(0.9)  # every seed is in the file
    assert not any("lasso took the first" in line for line in found.study.caveats)


def test_candidates_without_a_seed_in_common_are_not_called_the_best():
    found = _candidates({"1": {0: 0.90}, "2": {2: 0.97}})
    assert found.study.taken["lasso"] == ("lasso[1]", "norm")
    assert [row[3] for row in candidate_table(found).rows[:2]] == ["90.00", "97.00"]
    (line,) = [line for line in found.study.caveats if "took the first" in line]
    assert line.startswith("lasso took the first of its candidates (lasso[1], norm), and not")
