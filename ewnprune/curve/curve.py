"""`Curve`: accuracy at each sparsity. What a sweep gives, and all that comes after takes."""

from collections.abc import Iterator
from dataclasses import dataclass, fields, replace
from itertools import pairwise
from math import isfinite
from typing import Any

from ewnprune.curve.equal_size import value_at
from ewnprune.curve.points import SERIES, CurvePoint
from ewnprune.curve.text import format_curve, format_notes
from ewnprune.pruning.notes import Note


@dataclass(frozen=True)
class Curve:
    """Points of one or more series: what was measured at each level of sparsity.

    A series is the points that agree in method, seed, score, unit, scope, realize, level_of,
    layer, max_per_layer, split, epoch and step.

    Attributes:
        points: the points, in the order measured.
        notes: what a reader should know: how each layer was pruned, and which were left.

    >>> points = CurvePoint(sparsity=0, accuracy=0.98), CurvePoint(sparsity=0.9, accuracy=0.96)
    >>> curve = Curve(points)
    >>> curve.area(), curve.largest_sparsity(within=1), curve.largest_sparsity(within=2)
    (0.97, 0.0, 0.9)
    """

    points: tuple[CurvePoint, ...] = ()
    notes: tuple[Note, ...] = ()

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
        points = single_series(self)
        levels = len({point.sparsity for point in points})
        if levels < 2:
            raise ValueError(f"no area under {levels} level: expected at least two")
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
        points = single_series(self)
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
                ``"weights"`` of the chosen layers, or ``"inputs"`` of a sample.
            measure: accuracy, or another measure.

        Raises:
            ValueError: more than one series, no such size, not counted or not measured.

        >>> from ewnprune import Count
        >>> half = CurvePoint(sparsity=0.5, accuracy=0.9, parameters=Count(40, 100))
        >>> Curve((CurvePoint(sparsity=0, accuracy=1, parameters=Count(100, 100)), half)).at(0.7)
        0.95
        """
        return value_at(single_series(self), left, size, measure)  # type: ignore[arg-type]

    def sensitivity(self, measure: str = "loss") -> dict[str, dict[str, dict[float, float]]]:
        """What the loss gains in each layer alone, for ``scope="sensitivity"``.

        Args:
            measure: the loss, or another measure of which less is better.

        Returns:
            By score and layer, the measure at each level minus that of the dense network.

        Raises:
            ValueError: the curve is not one per layer, or more than one by a score, lacks the
                level 0, or was not measured.

        >>> points = (CurvePoint(sparsity=s, loss=s / 2, layer="fc1") for s in (0, 0.5))
        >>> Curve(tuple(points)).sensitivity()
        {'': {'fc1': {0.0: 0.0, 0.5: 0.25}}}
        """
        found: dict[str, dict[str, dict[float, float]]] = {}
        for score, layer in dict.fromkeys((point.score, point.layer) for point in self.points):
            points = single_series(self.where(score=score, layer=layer))
            first = points[0]
            if not layer or first.sparsity != 0:
                raise ValueError(
                    "expected curves of each layer alone, with the level 0: take them with "
                    "sparsity_curve(..., per_layer=True)"
                )
            gains = {float(p.sparsity): p.measure(measure) - first.measure(measure) for p in points}
            found.setdefault(score, {})[layer] = gains
        return found

    def table(self, measure: str | None = None) -> str:
        """The curve as text, for a terminal of 80 columns; see `ewnprune.curve.text`."""
        return format_curve(self, measure)

    def __str__(self) -> str:
        """The table and the notes."""
        return "\n\n".join(part for part in (self.table(), format_notes(self)) if part)


def single_series(curve: Curve) -> tuple[CurvePoint, ...]:
    """The points of a curve of one series, by ascending sparsity; none of an empty curve.

    Raises:
        ValueError: there are more series; it says in what they differ.
    """
    series = curve.series()
    if len(series) > 1:
        differing = {
            name: list(dict.fromkeys(getattr(point, name) for point in curve)) for name in SERIES
        }
        mixed = ", ".join(f"{k} in {v}" for k, v in differing.items() if len(v) > 1)
        raise ValueError(
            f"the curve holds {len(series)} series ({mixed}): choose one with where(...), or take "
            "them one by one from series()"
        )
    return series[0].points if series else ()
