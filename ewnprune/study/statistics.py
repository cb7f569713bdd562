"""What a study's curves show, and what they cannot.

Everything here takes a `Curve` with one series per method and seed, on one split. Seeds are the
sample: each is one training run, and runs of the same seed share data order and initial network, so
methods are compared in pairs.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray
from scipy import stats

from ewnprune.curve.curve import Curve
from ewnprune.curve.points import CurvePoint
from ewnprune.study.labels import Label, labels_of

REPORTED = (0.5, 0.8, 0.9, 0.95, 0.98)
"""The levels that are compared, and that p values are corrected over."""

WITHIN = (0.5, 1.0, 2.0)
"""Points of accuracy that a user may be ready to lose."""

_EXACT = 14  # seeds up to which all 2**n sign flips are enumerated


@dataclass(frozen=True)
class Estimate:
    """A mean over seeds with its 95 % confidence interval.

    Attributes:
        values: one per seed.
        mean: their mean.
        sd: sample standard deviation (ddof 1); NaN for one seed.
        low: lower end of the interval; NaN for one seed.
        high: upper end.
    """

    values: Mapping[int | None, float]
    mean: float
    sd: float
    low: float
    high: float


@dataclass(frozen=True)
class Difference:
    """A method against the reference at one level, in pairs of the same seed.

    Attributes:
        method: the method.
        reference: what it is compared with.
        sparsity: the level.
        estimate: of the difference of accuracies, a fraction; > 0 where the method is better.
        p: exact two-sided sign-flip permutation test.
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
        score: the score its neurons were ranked by.
        area: mean accuracy over the levels (`Curve.area`); None where level 0 was not measured.
        within: largest sparsity that loses at most so many points; empty where `area` is None.
    """

    method: str
    score: str
    area: Estimate | None
    within: Mapping[float, Estimate]


def estimate(values: Mapping[int | None, float], confidence: float = 0.95) -> Estimate:
    """Mean with a t interval, which is exact for normal values at any number of seeds.

    Raises:
        ValueError: there are no values.

    >>> found = estimate({0: 1.0, 1: 2.0, 2: 3.0})
    >>> found.mean, found.sd, round(found.low, 3), round(found.high, 3)
    (2.0, 1.0, -0.484, 4.484)
    """
    x = _sample(values)
    sd = float(x.std(ddof=1)) if len(x) > 1 else float("nan")
    half = float(stats.t.ppf(0.5 + confidence / 2, max(len(x) - 1, 1))) * sd / len(x) ** 0.5
    mean = float(x.mean())
    return Estimate(dict(values), mean, sd, mean - half, mean + half)


def bootstrap_estimate(values: Mapping[int | None, float], confidence: float = 0.95) -> Estimate:
    """Mean with a percentile bootstrap interval over seeds, for values that are not near normal.

    With few seeds it is too narrow: for normal values and 5 seeds it covers about 83 % where it
    says 95 %.

    Raises:
        ValueError: there are no values.
    """
    x = _sample(values)
    if len(x) == 1:
        return estimate(values)
    drawn = stats.bootstrap(
        (x,),
        np.mean,
        confidence_level=confidence,
        method="percentile",
        rng=np.random.default_rng(0),
    )
    interval = drawn.confidence_interval
    mean, sd = float(x.mean()), float(x.std(ddof=1))
    return Estimate(dict(values), mean, sd, float(interval.low), float(interval.high))


def sign_flip_p(differences: Sequence[float]) -> float:
    """Two-sided p value of paired differences whose sign would be a coin toss under no effect.

    Exact, by all ``2**n`` flips, up to 14 seeds; beyond, by 20,000 seeded random ones.

    >>> sign_flip_p([1, 2, 3])  # no smaller one exists for three pairs: 2 / 2**3
    0.25
    """
    if len(differences) == 1:
        return 1.0  # 2 / 2**1
    result = stats.permutation_test(
        (np.asarray(differences, dtype=float),),
        np.mean,
        permutation_type="samples",
        n_resamples=2**_EXACT if len(differences) <= _EXACT else 20_000,
        rng=np.random.default_rng(0),
    )
    return float(result.pvalue)


def holm(p_values: Sequence[float]) -> list[float]:
    """P values corrected for being several. Holm (1979), https://www.jstor.org/stable/4615733.

    >>> holm([0.01, 0.04, 0.03])
    [0.03, 0.06, 0.06]
    """
    corrected, largest = [0.0] * len(p_values), 0.0
    for place, index in enumerate(sorted(range(len(p_values)), key=lambda i: p_values[i])):
        largest = max(largest, min(1.0, (len(p_values) - place) * p_values[index]))
        corrected[index] = largest
    return corrected


def values_at(
    curve: Curve, method: str, sparsity: float, measure: str = "accuracy"
) -> dict[int | None, float]:
    """One value per seed.

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
        found[point.seed] = point.measure(measure)
    return found


def differences(
    curve: Curve, reference: str, levels: Iterable[float] = REPORTED
) -> list[Difference]:
    """Every other method against the reference, at each level that both have.

    The settings that a study varies must be the same in both.

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
        for level in levels:
            ours, theirs = (values_at(curve, name, level) for name in (method, against))
            paired = {seed: ours[seed] - theirs[seed] for seed in ours if seed in theirs}
            if paired:
                rows.append((level, paired))
        p_values = [sign_flip_p(list(paired.values())) for _, paired in rows]
        for (level, paired), p, corrected in zip(rows, p_values, holm(p_values), strict=True):
            found.append(Difference(method, against, level, estimate(paired), p, corrected))
    return found


def summaries(curve: Curve) -> list[Summary]:
    """Area and largest sparsities of each method."""
    found = []
    for method in labels_of(curve):
        series = curve.where(method=method).series()
        whole = [one for one in series if one.points[0].sparsity == 0 and len(one) > 1]
        seed_of = {id(one): one.points[0].seed for one in whole}
        area = estimate({seed_of[id(one)]: one.area() for one in whole}) if whole else None
        within = {
            points: bootstrap_estimate(
                {seed_of[id(one)]: one.largest_sparsity(points) for one in whole}
            )
            for points in (WITHIN if whole else ())
        }
        found.append(Summary(method, series[0].points[0].score, area, within))
    return found


def chosen(curve: Curve) -> tuple[Curve, dict[str, tuple[str, str]]]:
    """For each method the candidate and the score with the largest area on validation data.

    Of ``"lasso[0.1]"`` and ``"lasso[1]"`` one becomes ``"lasso"``. Areas are means over the seeds
    that all candidates of a method have. Methods without validation points of at least two levels
    keep their first score.

    Returns:
        The points of the chosen, on all splits; and for each method the label and score taken.
    """
    pairs: dict[str, dict[tuple[str, str], None]] = {}
    for point in curve:
        method = str(Label.parse(point.method).chosen())
        pairs.setdefault(method, {})[(point.method, point.score)] = None
    taken: dict[str, tuple[str, str]] = {}
    points: list[CurvePoint] = []
    for method, candidates in pairs.items():
        areas = {pair: _validation_areas(curve, *pair) for pair in candidates}
        shared = set.intersection(*(set(by_seed) for by_seed in areas.values()))
        if shared:
            pair = max(areas, key=lambda c: float(np.mean([areas[c][s] for s in shared])))
        else:
            pair = next(iter(candidates))
        taken[method] = pair
        points += curve.where(method=pair[0], score=pair[1]).tagged(method=method).points
    return Curve(tuple(points), curve.notes), taken


def _validation_areas(curve: Curve, method: str, score: str) -> dict[int | None, float]:
    series = curve.where(method=method, score=score, split="val").series()
    return {one.points[0].seed: one.area() for one in series if len(one) > 1}


def _sample(values: Mapping[int | None, float]) -> NDArray[np.float64]:
    if not values:
        raise ValueError("no values: expected one per seed")
    return np.array(list(values.values()), dtype=np.float64)
