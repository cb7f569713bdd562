"""The figure: accuracy against sparsity, to be read at a glance and on a phone."""

import os
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any, Literal, get_args

import numpy as np

from ewnprune.curve.curve import Curve
from ewnprune.curve.equal_size import fraction_left
from ewnprune.curve.naming import level_name, line_key, series_names, shared_facts
from ewnprune.curve.points import CurvePoint
from ewnprune.drawing import DASHES, GREY, STYLE, line_styles, method_colors, write_laid_out

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

X = Literal["sparsity", "parameters", "macs", "latency"]
# by how readily they are shown
_TICKS = (0, 50, 80, 90, 95, 98, 99, 99.5, 99.8, 99.9, 99.95, 99.98, 20, 70, 60, 40, 30, 10)


def plot_curve(
    curve: Curve,
    *paths: str | os.PathLike[str],
    measure: str = "accuracy",
    x: X = "sparsity",
    title: str = "",
) -> "Figure":
    """Draw a measure against sparsity, one line per series, and write the figure to files.

    Sparsity is spaced by what is left, and accuracy by what is wrong, both as logarithms: from 90
    to 95 % is as far as from 80 to 90 %, for either is a half. Bands are 95 % Wilson intervals.

    Args:
        curve: any number of series.
        paths: files to write (``.png``, ``.svg``, ``.pdf``); each is replaced at once or not at
            all.
        measure: ``"accuracy"``, ``"loss"`` or the name of a metric.
        x: ``"sparsity"`` asked for; what was removed of the network's ``"parameters"`` or
            ``"macs"``, which compares neurons with weights; or the measured ``"latency"``.
        title: a line above; by default what all series share.

    Raises:
        ValueError: the curve is empty or does not hold what is to be drawn, or a path's ending is
            unknown.
    """
    import matplotlib as mpl
    from matplotlib.figure import Figure

    if not curve.points:
        raise ValueError("the curve is empty: there is nothing to draw")
    if x not in get_args(X):
        raise ValueError(f"x={x!r}: expected one of {', '.join(get_args(X))}")
    with mpl.rc_context(STYLE):
        figure = Figure(figsize=(6.4, 4.8), dpi=150, layout="constrained")
        axes = figure.add_subplot()
        _draw(axes, curve.series(), measure, x)
        axes.set_xlabel(_x_label(curve, x))
        axes.set_title(title or shared_facts(curve), loc="left", fontsize="small", color=GREY)
        write_laid_out(figure, paths)
    return figure


def _place(point: CurvePoint, x: X) -> float:
    if x == "latency":
        if "latency_ms" not in point.metrics:
            raise ValueError(
                "the curve holds no latency: measure it with sparsity_curve(..., realize='remove')"
            )
        return point.metrics["latency_ms"]
    return 100 * (point.sparsity if x == "sparsity" else 1 - fraction_left(point, x))


def _x_label(curve: Curve, x: X) -> str:
    units = dict.fromkeys(point.unit for point in curve)
    if x == "latency":
        told = [note.text for note in curve.notes if note.kind == "latency"]
        return "\n".join(["latency (ms)", *told])
    if x == "sparsity":
        return f"{level_name(curve)} removed (%)"
    if x == "macs":
        return f"MACs removed (%{', on paper for weights' if 'weights' in units else ''})"
    return "parameters removed (%)"


def _draw(axes: "Axes", series: Sequence[Curve], measure: str, x_axis: X) -> None:
    points = [point for one in series for point in one]
    accuracy = measure == "accuracy"
    # all right is drawn as half a sample wrong, which has a logarithm
    cap = 100 - 50 / max(point.total or 500 for point in points)
    scale, highest = (100.0, cap) if accuracy else (1.0, np.inf)
    values = [scale * point.measure(measure) for point in points]
    styles, legend = _styles([line_key(one) for one in series])
    for one in series:
        style = styles[line_key(one)]
        x = [_place(point, x_axis) for point in one]
        y = [min(scale * point.measure(measure), highest) for point in one]
        axes.plot(x, y, marker="o", ms=3.5, lw=1.8, **style)
        if accuracy and len(series) <= 4 and all(point.total for point in one):
            low, high = 100 * np.array([point.interval() for point in one]).T
            axes.fill_between(x, low, np.minimum(high, cap), color=style["color"], alpha=0.15, lw=0)
    if x_axis == "latency":
        axes.set_xscale("log")
    else:
        _space(axes.set_xscale, cap=99.99)
        top = max(_place(point, x_axis) for point in points)
        axes.set_xlim(0, max(10, 100 - (100 - top) * 0.95))
        _set_ticks(axes, "x", {})
    axes.set_ylabel("accuracy (%)" if accuracy else measure)
    dense = [v for v, point in zip(values, points, strict=True) if point.sparsity == 0]
    if accuracy:
        _space(axes.set_yscale, 50 + cap / 2)
        top = 100 - 0.6 * (100 - min(max(values), cap))
        axes.set_ylim(max(0, min(values) - 5), top)
        _set_ticks(axes, "y", {cap: "100"} if max(values) > cap else {})
        if dense:
            _draw_dense(axes, min(max(dense), cap), f"dense {max(dense):.1f} %")
    elif dense:
        _draw_dense(axes, dense[0], f"dense {dense[0]:.3g}")
    _draw_legend(axes, legend, "lower left" if accuracy else "best")


def _draw_dense(axes: "Axes", value: float, text: str) -> None:
    axes.axhline(value, color=GREY, lw=1, dashes=(4, 3), zorder=1)
    axes.annotate(
        text, (1, value), xycoords=("axes fraction", "data"), xytext=(0, 4),
        textcoords="offset points", ha="right", color=GREY, fontsize="small",
    )  # fmt: skip


def _draw_legend(axes: "Axes", legend: dict[str, dict[str, Any]], place: Any) -> None:
    from matplotlib.lines import Line2D

    if len(legend) < 2:
        return
    lines = [Line2D([], [], lw=1.8, **style) for style in legend.values()]
    longest = max(map(len, legend))
    if len(lines) <= 5 and longest <= 24:
        axes.legend(lines, list(legend), loc=place, labelspacing=0.3)
    else:
        assert axes.figure is not None
        columns = 3 if longest <= 24 else 2
        axes.figure.legend(
            lines, list(legend), loc="outside lower center", ncols=columns, fontsize=11
        )


def _space(set_scale: Callable[..., None], cap: float) -> None:
    """Percent by the logarithm of what is missing to a hundred, up to a cap."""
    set_scale(
        "function",
        functions=(
            lambda x: -np.log1p(-np.minimum(x, cap) / 100),
            lambda t: -100 * np.expm1(-t),
        ),
    )


def _set_ticks(axes: "Axes", which: str, special: dict[float, str]) -> None:
    axis = getattr(axes, f"{which}axis")
    low, high = axis.get_view_interval()
    transform = axis.get_transform()
    span = transform.transform([high])[0] - transform.transform([low])[0]
    kept: list[tuple[float, float]] = []
    for tick in (*special, *_TICKS):
        place = transform.transform([tick])[0]
        if low <= tick <= high and all(abs(place - other) >= 0.07 * span for other, _ in kept):
            kept.append((place, tick))
    axis.set_ticks([tick for _, tick in kept], [special.get(t, f"{t:g}") for _, t in kept])
    axis.set_ticks([], minor=True)


def _styles(
    keys: Sequence[tuple[Any, ...]],
) -> tuple[dict[tuple[Any, ...], dict[str, Any]], dict[str, dict[str, Any]]]:
    """A style for each line, and what the legend says of them.

    The colour is the method's, and dashes tell its lines apart. With several methods, dashes are
    for what else differs, and the legend has both.
    """
    unique = list(dict.fromkeys(keys))
    colors = method_colors(key[0] for key in unique)
    others = list(dict.fromkeys(key[1:] for key in unique))
    if len(set(colors.values())) < len(colors) or len(colors) == 1 or len(others) == 1:
        styles = dict(zip(unique, line_styles([key[0] for key in unique]), strict=True))
        names = series_names(unique)
        return styles, {n: styles[key] for n, key in zip(names, unique, strict=True)}
    dashes = {other: DASHES[index % len(DASHES)] for index, other in enumerate(others)}
    legend: dict[str, dict[str, Any]]
    legend = {method or "(no name)": {"color": color} for method, color in colors.items()}
    for name, other in zip(series_names(others), others, strict=True):
        legend[name] = {"color": GREY, "linestyle": dashes[other]}
    return {k: {"color": colors[k[0]], "linestyle": dashes[k[1:]]} for k in unique}, legend
