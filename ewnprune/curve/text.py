"""A curve as text for the terminal."""

from collections.abc import Sequence
from typing import TYPE_CHECKING

from ewnprune.columns import Column, blocks, fill
from ewnprune.curve.equal_size import LEFT, Size
from ewnprune.curve.naming import level_name, line_key, series_names, shared_facts
from ewnprune.curve.points import CurvePoint

if TYPE_CHECKING:
    from ewnprune.curve.curve import Curve

_SIZES = {
    "inputs": "inputs left",
    "neurons": "neurons left",
    "parameters": "parameters left",
    "macs": "MACs left",
}
_WITHIN = (0.5, 1, 2)
_COSTS = ("bytes", "latency_ms")  # of networks that were built


def format_curve(curve: "Curve", measure: str | None = None) -> str:
    """One line per level and one column per series; then the summaries, one line per series.

    Args:
        curve: any number of series.
        measure: ``"accuracy"``, ``"loss"`` or a metric's name; by default the first of these that
            was measured.

    Raises:
        ValueError: several points of one series at one level.
    """
    if not curve.points:
        return "(no points)"
    measure = measure or measured(curve.points[0])[0]
    series = curve.series()
    names = _names(series)
    levels = sorted({point.sparsity for point in curve})
    if len(series) == 1 and len(levels) < len(curve):
        raise ValueError(
            f"{len(curve)} points of one series are at {len(levels)} levels: tell curves apart "
            "before they are joined, as by tagged(seed=1)"
        )
    units = all(p.level_of == "units" and p.unit != "inputs" for p in curve)
    heading = "removed" if units else f"{level_name(curve)} removed"
    shared = [[heading, *(f"{100 * level:g} %" for level in levels)], *_sizes(series, levels)]
    if len(series) == 1:
        columns = _details(series[0], measure)
    else:
        columns = [
            [name, *_values(one, levels, measure)] for name, one in zip(names, series, strict=True)
        ]
        columns += [
            [f"{name}, {cost}", *_values(one, levels, cost)]
            for cost in _COSTS
            for name, one in zip(names, series, strict=True)
            if cost != measure and all(cost in point.metrics for point in one)
        ]
    facts = [shared_facts(curve)] if len(series) == 1 else [_heading(measure), shared_facts(curve)]
    parts = [", ".join(filter(None, facts)), *blocks(shared, columns)]
    if len({point.unit for point in curve}) > 1:
        parts += [format_at_equal(curve, size, measure) for size in ("parameters", "macs")]
    who = [["", *names]] if len(series) > 1 else []
    parts += blocks(who, _summary(series, measure))
    return "\n\n".join(part for part in parts if part)


def format_at_equal(
    curve: "Curve",
    size: Size = "parameters",
    measure: str = "accuracy",
    left: Sequence[float] = LEFT,
) -> str:
    """One line per fraction left of the network and one column per series, to compare them by.

    Values are read on straight lines between the levels measured; none outside of them.

    Args:
        curve: any number of series.
        size: what is left: ``"parameters"`` or ``"macs"``.
        measure: accuracy, or another measure.
        left: the fractions.
    """
    series = curve.series()
    columns: list[Column] = []
    for name, one in zip(_names(series), series, strict=True):
        values = [one.at(fraction, size, measure) for fraction in left]
        cells = ["-" if value is None else _format(value, measure) for value in values]
        columns.append([name, *cells])
    weights = any(point.unit == "weights" for point in curve)
    heading = "MACs left" if size == "macs" else f"{size} left"
    heading += ", on paper for weights" if size == "macs" and weights else ""
    rows = [heading, *(f"{100 * fraction:g} %" for fraction in left)]
    return "\n\n".join(blocks([rows], columns))


def format_notes(curve: "Curve") -> str:
    """The curve's notes, one to a line, long ones wrapped."""
    return "\n".join(line for note in curve.notes for line in fill(str(note), later="    "))


def measured(point: CurvePoint) -> list[str]:
    """The measures that a point has: accuracy and loss where they are known, and the metrics."""
    own = [name for name in ("accuracy", "loss") if getattr(point, name) is not None]
    return [*own, *point.metrics] or ["accuracy"]


def _names(series: Sequence["Curve"]) -> list[str]:
    keys = [(*line_key(one), one.points[0].seed) for one in series]
    return series_names(keys)


def _sizes(series: Sequence["Curve"], levels: Sequence[float]) -> list[Column]:
    """What is left of the network, where all series have as much left."""
    columns: list[Column] = []
    for field, heading in _SIZES.items():
        counts = {
            level: {getattr(p, field) for one in series for p in one if p.sparsity == level}
            for level in levels
        }
        if all(len(found) == 1 and None not in found for found in counts.values()):
            left = [found.pop() for found in counts.values()]
            if field == "macs" and any(p.unit == "weights" for one in series for p in one):
                heading += ", on paper"  # a mask of single weights saves no product
            if field == "neurons" and any(p.inputs for one in series for p in one):
                continue  # all of them stay
            if field in ("inputs", "neurons"):
                columns.append([heading, *(f"{count.left} of {count.total}" for count in left)])
            else:
                columns.append([heading, *(f"{100 * (1 - c.sparsity):.1f} %" for c in left)])
    return columns


def _values(series: "Curve", levels: Sequence[float], measure: str) -> list[str]:
    found = {point.sparsity: _format(point.measure(measure), measure) for point in series}
    return [found.get(level, "") for level in levels]


def _details(series: "Curve", measure: str) -> list[Column]:
    levels = [point.sparsity for point in series]
    columns: list[Column] = [[_heading(measure), *_values(series, levels, measure)]]
    if measure == "accuracy" and all(point.total for point in series):
        bounds = [point.interval() for point in series]
        cells = [f"{100 * low:.2f} - {100 * high:.2f}" for low, high in bounds]
        columns.append(["95 % interval", *cells])
    others = [name for name in measured(series.points[0]) if name != measure]
    return columns + [[_heading(name), *_values(series, levels, name)] for name in others]


def _summary(series: Sequence["Curve"], measure: str) -> list[Column]:
    """Dense, mean and what can be removed; only of accuracy, where more is known to be better."""
    if measure != "accuracy" or any(
        one.points[0].sparsity or one.points[-1].sparsity == 0 for one in series
    ):
        return []
    columns: list[Column] = [
        ["dense", *(_format(one.points[0].measure(), measure) for one in series)],
        ["mean", *(_format(one.area(), measure) for one in series)],
    ]
    for within in _WITHIN:
        cells = [f"{100 * one.largest_sparsity(within):g} %" for one in series]
        columns.append([f"within {within:g} pt", *cells])
    return columns


def _heading(measure: str) -> str:
    return "accuracy (%)" if measure == "accuracy" else measure


def _format(value: float, measure: str) -> str:
    if measure == "accuracy":
        return f"{100 * value:.2f}"
    return f"{value:,.0f}" if measure == "bytes" else f"{value:.4g}"
