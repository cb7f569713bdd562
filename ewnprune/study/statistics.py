"""What a study's curves show, and what they cannot.

Everything here takes a `Curve` with one series per method and seed, on one split. Seeds are the
sample: each is one training run, and runs of the same seed share data order and initial network, so
methods are compared in pairs.
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from statistics import fmean

from ewnprune.curve.curve import Curve
from ewnprune.curve.points import CurvePoint
from ewnprune.study.estimates import (
    Estimate,
    bootstrap_estimate,
    estimate,
    estimate_accuracy,
    holm,
    sign_flip_p,
)
from ewnprune.study.labels import Label, labels_of

REPORTED = (0.5, 0.8, 0.9, 0.95, 0.98)
"""The levels that methods are compared at where they were measured, see `compared_levels`."""

WITHIN = (0.5, 1.0, 2.0)
"""Points of accuracy that a user may be ready to lose."""


@dataclass(frozen=True)
class Difference:
    """A method against the reference at one level, in pairs of the same seed.

    Attributes:
        method: the method.
        reference: what it is compared with.
        sparsity: the level.
        estimate: of the difference of accuracies, a fraction; > 0 where the method is better.
        p: two-sided sign-flip permutation test, see `sign_flip_p`.
        p_holm: the same corrected over the levels compared, by Holm's method.
    """

    method: str
    reference: str
    sparsity: float
    estimate: Estimate
    p: float
    p_holm: float


@dataclass(frozen=True)
class Summary:
    """One method's curve in a few numbers.

    Attributes:
        method: the method.
        area: mean accuracy over the levels (`Curve.area`); None where level 0 was not measured.
        within: largest sparsity that loses at most so many points; empty where `area` is None.
    """

    method: str
    area: Estimate | None
    within: Mapping[float, Estimate]


def values_at(curve: Curve, method: str, sparsity: float) -> dict[int | None, float]:
    """One accuracy per seed.

    Raises:
        ValueError: a seed has two, so the curve holds more than one series of it.
    """
    found: dict[int | None, float] = {}
    for point in curve.where(method=method, sparsity=sparsity):
        if point.seed in found:
            raise ValueError(
                f"method {method!r} has two points for seed {point.seed} at sparsity "
                f"{sparsity:g}: expected one split and one score (see `chosen`)"
            )
        found[point.seed] = point.measure()
    return found


def compared_levels(levels: Iterable[float]) -> tuple[float, ...]:
    """The levels that methods are compared at: of `REPORTED` where any was measured, or all.

    >>> compared_levels((0, 0.1, 0.9, 0.5)), compared_levels((0, 0.3, 0.6))
    ((0.5, 0.9), (0.3, 0.6))
    """
    pruned = sorted({*levels} - {0})
    return tuple(level for level in pruned if level in REPORTED) or tuple(pruned)


def differences(curve: Curve, reference: str) -> list[Difference]:
    """Every other method against the reference, at levels that both have, see `compared_levels`.

    P values are corrected over these. The settings that a study varies must be the same in both.

    Raises:
        ValueError: the curve has no such method.
    """
    methods = labels_of(curve)
    if reference not in {Label.parse(method).method for method in methods}:
        raise ValueError(f"reference {reference!r} is not among the methods {methods}")
    found = []
    for method in methods:
        label = Label.parse(method)
        if label.method == reference:
            continue
        against = str(replace(label, method=reference))
        rows = []
        both = [{point.sparsity for point in curve.where(method=m)} for m in (method, against)]
        for level in compared_levels(set.intersection(*both)):
            ours, theirs = (values_at(curve, name, level) for name in (method, against))
            paired = {seed: ours[seed] - theirs[seed] for seed in ours if seed in theirs}
            if paired:
                rows.append((level, paired))
        p_values = [sign_flip_p(list(paired.values())) for _, paired in rows]
        for (level, paired), p, corrected in zip(rows, p_values, holm(p_values), strict=True):
            mean = estimate(paired)
            inside = replace(mean, low=max(mean.low, -1.0), high=min(mean.high, 1.0))
            found.append(Difference(method, against, level, inside, p, corrected))
    return found


def summaries(curve: Curve) -> list[Summary]:
    """Area and largest sparsities of each method."""
    found = []
    for method in labels_of(curve):
        whole = {
            one.points[0].seed: one
            for one in curve.where(method=method).series()
            if one.points[0].sparsity == 0 and len(one) > 1
        }
        areas = {seed: one.area() for seed, one in whole.items()}
        area = estimate_accuracy(areas) if whole else None
        within = {
            points: bootstrap_estimate(
                {s: one.largest_sparsity(points) for s, one in whole.items()}
            )
            for points in (WITHIN if whole else ())
        }
        found.append(Summary(method, area, within))
    return found


def chosen(curve: Curve) -> tuple[Curve, dict[str, tuple[str, str]]]:
    """For each method the candidate and the score with the largest area on validation data.

    Of ``"lasso[0.1]"`` and ``"lasso[1]"`` one becomes ``"lasso"``. Areas are means over the seeds
    that all candidates of a method have. Where they have none in common (or no validation points
    of at least two levels) the first is taken.

    Returns:
        The points of the chosen, on all splits; and for each method the label and score taken.
    """
    taken: dict[str, tuple[str, str]] = {}
    points: list[CurvePoint] = []
    for method, candidates in candidates_of(curve).items():
        areas = shared_areas(candidates)
        pair = (
            max(areas, key=lambda c: fmean(areas[c].values())) if areas else next(iter(candidates))
        )
        taken[method] = pair
        points += candidates[pair].tagged(method=method).points
    return Curve(tuple(points), curve.notes), taken


def candidates_of(curve: Curve) -> dict[str, dict[tuple[str, str], Curve]]:
    """For each method the points of each label and score, in order of first appearance."""
    found: dict[tuple[str, str], list[CurvePoint]] = {}
    for point in curve:
        found.setdefault((point.method, point.score), []).append(point)
    methods: dict[str, dict[tuple[str, str], Curve]] = {}
    for (label, score), points in found.items():
        candidates = methods.setdefault(str(Label.parse(label).chosen()), {})
        candidates[label, score] = Curve(tuple(points), curve.notes)
    return methods


def validation_areas(candidate: Curve) -> dict[int | None, float]:
    """For each seed the mean accuracy over the curve on validation data, by which one chooses."""
    series = candidate.where(split="val").series()
    return {one.points[0].seed: one.area() for one in series if len(one) > 1}


def shared_areas(
    candidates: Mapping[tuple[str, str], Curve],
) -> dict[tuple[str, str], dict[int | None, float]]:
    """The areas of candidates over the seeds that all of them have; empty where there are none."""
    areas = {pair: validation_areas(points) for pair, points in candidates.items()}
    shared = set.intersection(*(set(by_seed) for by_seed in areas.values()))
    if not shared:
        return {}
    return {
        pair: {seed: area for seed, area in by_seed.items() if seed in shared}
        for pair, by_seed in areas.items()
    }
