"""`Curve`: accuracy at each sparsity. What a sweep gives, and all that comes after takes."""

from collections.abc import Iterator
from dataclasses import dataclass, field, fields, replace
from itertools import pairwise
from math import isfinite, sqrt
from statistics import NormalDist
from typing import Any


@dataclass(frozen=True)
class Count:
    """How many are left of how many."""

    left: int
    total: int

    @property
    def sparsity(self) -> float:
        """Fraction removed, in [0, 1]; 0 where there was nothing to remove.

        >>> Count(left=205, total=1024).sparsity
        0.7998046875
        """
        return (self.total - self.left) / self.total if self.total else 0.0


@dataclass(frozen=True, kw_only=True)
class CurvePoint:
    """One network: a model at one level of sparsity, evaluated.

    Attributes:
        sparsity: the level asked for, in [0, 1): fraction of the units to remove.
        accuracy: top-1 accuracy in [0, 1]; None where the task has none.
        loss: mean loss per sample.
        correct: samples classified right.
        total: samples evaluated.
        metrics: other measures, by name.
        neurons: neurons left of those in the chosen layers (with ``unit="weights"``: those with
            any weight left).
        weights: weights left of those in the chosen layers.
        parameters: parameters left of those of the whole model.
        macs: multiply-accumulates per sample left of those of the whole model; where neurons are
            masked, of the network that removal would build; where single weights are, on paper.
        score: what decided which units go first.
        unit: ``"neurons"`` or ``"weights"``.
        scope: ``"layer"`` (the same fraction of each layer) or ``"global"``.
        realize: how the units went: ``"mask"`` (zero in place), ``"remove"`` (the smaller network
            was built), or the name of the function that built it.
        method: how the network was trained (plain, SWN, EWN, ...).
        seed: seed of the training run.
        split: which data: ``"val"``, ``"test"``, ...
        epoch: training epoch.
        step: optimizer step.
    """

    method: str = ""
    seed: int | None = None
    score: str = ""
    unit: str = "neurons"
    scope: str = "layer"
    realize: str = "mask"
    split: str = ""
    epoch: int | None = None
    step: int | None = None
    sparsity: float
    accuracy: float | None = None
    loss: float | None = None
    correct: int | None = None
    total: int | None = None
    neurons: Count | None = None
    weights: Count | None = None
    parameters: Count | None = None
    macs: Count | None = None
    metrics: dict[str, float] = field(default_factory=dict, hash=False)

    def measure(self, name: str = "accuracy") -> float:
        """The accuracy, the loss or another metric, by name.

        Raises:
            ValueError: it was not measured.
        """
        value = getattr(self, name) if name in ("accuracy", "loss") else None
        value = self.metrics.get(name) if value is None else value
        if value is None:
            known = [key for key in ("accuracy", "loss") if getattr(self, key) is not None]
            raise ValueError(
                f"{name!r} was not measured at sparsity {self.sparsity:g}: expected one of "
                f"{[*known, *self.metrics]}"
            )
        return float(value)

    def interval(self, confidence: float = 0.95) -> tuple[float, float]:
        """Wilson score interval of the accuracy, from ``correct`` of ``total``.

        It says how well this test set measures this one network; not how runs differ.
        Wilson (1927), https://doi.org/10.1080/01621459.1927.10502953.

        Raises:
            ValueError: correct and total are not known.

        >>> low, high = CurvePoint(sparsity=0, correct=980, total=1000).interval()
        >>> round(low, 4), round(high, 4)
        (0.9693, 0.987)
        """
        if self.correct is None or not self.total:
            raise ValueError(
                f"no interval at sparsity {self.sparsity:g}: expected counts of correct and total"
            )
        z = NormalDist().inv_cdf(0.5 + confidence / 2)
        n, p = self.total, self.correct / self.total
        center = (p + z * z / (2 * n)) / (1 + z * z / n)
        half = z / (1 + z * z / n) * sqrt(p * (1 - p) / n + z * z / (4 * n * n))
        return max(0.0, center - half), min(1.0, center + half)


SERIES = ("method", "seed", "score", "unit", "scope", "realize", "split", "epoch", "step")
"""The fields that tell one series of points from another."""


@dataclass(frozen=True)
class Curve:
    """Points of one or more series: what was measured at each level of sparsity.

    A series is the points that agree in method, seed, score, unit, scope, realize, split,
    epoch and step.

    Attributes:
        points: the points, in the order measured.
        notes: what a reader should know: how each layer was pruned, and which were left.

    >>> points = CurvePoint(sparsity=0, accuracy=0.98), CurvePoint(sparsity=0.9, accuracy=0.96)
    >>> curve = Curve(points)
    >>> curve.area(), curve.largest_sparsity(within=1), curve.largest_sparsity(within=2)
    (0.97, 0.0, 0.9)
    """

    points: tuple[CurvePoint, ...] = ()
    notes: tuple[str, ...] = ()

    def __len__(self) -> int:
        return len(self.points)

    def __iter__(self) -> Iterator[CurvePoint]:
        return iter(self.points)

    def __add__(self, other: "Curve") -> "Curve":
        """The points of both; a note they share is kept once."""
        return Curve(self.points + other.points, tuple(dict.fromkeys(self.notes + other.notes)))

    def where(self, **values: Any) -> "Curve":
        """The points whose fields have these values: ``curve.where(score="norm", seed=0)``.

        Raises:
            ValueError: a point has no such field.
        """
        known = {item.name for item in fields(CurvePoint)}
        for name in values:
            if name not in known:
                raise ValueError(f"points have no field {name!r}: expected one of {sorted(known)}")
        kept = [p for p in self.points if all(getattr(p, k) == v for k, v in values.items())]
        return Curve(tuple(kept), self.notes)

    def tagged(self, **values: Any) -> "Curve":
        """The same with these fields set on every point: ``curve.tagged(split="test")``."""
        return Curve(tuple(replace(point, **values) for point in self.points), self.notes)

    def series(self) -> tuple["Curve", ...]:
        """One curve for each series, by ascending sparsity, in the order of first appearance."""
        groups: dict[tuple[Any, ...], list[CurvePoint]] = {}
        for point in self.points:
            groups.setdefault(tuple(getattr(point, name) for name in SERIES), []).append(point)
        return tuple(
            Curve(tuple(sorted(group, key=lambda point: point.sparsity)), self.notes)
            for group in groups.values()
        )

    def area(self, measure: str = "accuracy") -> float:
        """Mean of a measure over the levels: area under the curve, divided by its width.

        By the trapezoidal rule over the sparsity asked for, from the lowest level to the highest.

        Raises:
            ValueError: more than one series, fewer than two levels, or not measured.
        """
        points = self._single()
        if len(points) < 2:
            raise ValueError(f"no area under {len(points)} level: expected at least two")
        total = sum(
            (b.sparsity - a.sparsity) * (a.measure(measure) + b.measure(measure)) / 2
            for a, b in pairwise(points)
        )
        return total / (points[-1].sparsity - points[0].sparsity)

    def largest_sparsity(self, within: float, measure: str = "accuracy") -> float:
        """Largest level up to which the accuracy stays near that of the dense network.

        The largest level such that it and every lower one lose at most ``within`` points against
        the level 0 (0.98 to 0.975 loses half a point). Levels are those measured: nothing is
        interpolated. A tie counts as within, to 1e-9.

        Args:
            within: points of a hundred, as in "within 1 %".
            measure: accuracy, or another measure for which more is better.

        Raises:
            ValueError: more than one series, no level 0, or not measured.
        """
        points = self._single()
        if not points or points[0].sparsity != 0:
            raise ValueError("the dense network was not measured: expected a level 0 in sparsities")
        floor = points[0].measure(measure) - within / 100 - 1e-9
        largest = 0.0
        for point in points:
            value = point.measure(measure)
            if not (isfinite(value) and value >= floor):
                break
            largest = float(point.sparsity)
        return largest

    def at(self, left: float, size: str = "parameters", measure: str = "accuracy") -> float | None:
        """The accuracy where this fraction of the network is left: to compare at equal size.

        Read on the straight line between the two levels measured around it, and None outside of
        what was measured.

        Args:
            left: fraction left, in [0, 1].
            size: of what: ``"parameters"`` or ``"macs"`` of the whole network, ``"neurons"`` or
                ``"weights"`` of the chosen layers.
            measure: accuracy, or another measure.

        Raises:
            ValueError: more than one series, no such size, not counted or not measured.

        >>> half = CurvePoint(sparsity=0.5, accuracy=0.9, parameters=Count(40, 100))
        >>> Curve((CurvePoint(sparsity=0, accuracy=1, parameters=Count(100, 100)), half)).at(0.7)
        0.95
        """
        from ewnprune.budget import value_at

        return value_at(self._single(), left, size, measure)  # type: ignore[arg-type]

    def table(self, measure: str | None = None) -> str:
        """The curve as text, fewer than 100 columns wide; see `ewnprune.table.format_curve`."""
        from ewnprune.table import format_curve

        return format_curve(self, measure)

    def __str__(self) -> str:
        """The table and the notes."""
        from ewnprune.table import format_notes

        return "\n\n".join(part for part in (self.table(), format_notes(self)) if part)

    def _single(self) -> tuple[CurvePoint, ...]:
        series = self.series()
        if len(series) > 1:
            differing = {
                name: list(dict.fromkeys(getattr(point, name) for point in self.points))
                for name in SERIES
            }
            mixed = ", ".join(f"{k} in {v}" for k, v in differing.items() if len(v) > 1)
            raise ValueError(
                f"the curve holds {len(series)} series ({mixed}): choose one with "
                "where(...), or take them one by one from series()"
            )
        return series[0].points if series else ()
