"""The heat map of a curve per layer: what is lost where, to be read at a glance."""

import os
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from ewnprune.curve.curve import Curve, single_series
from ewnprune.curve.naming import shared_facts
from ewnprune.curve.text import measured
from ewnprune.drawing import GREY, write_laid_out

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

_STYLE: Any = {"font.size": 11, "legend.frameon": False}
_ROWS = 40  # of layers, in all panels above each other
_LONGEST = 34  # characters of a layer's name


def plot_heat_map(
    curve: Curve, *paths: str | os.PathLike[str], measure: str | None = None, title: str = ""
) -> "Figure":
    """Draw what pruning each layer alone costs, layer by level, and write the figure to files.

    Cells say how many points of accuracy are lost against the dense network, or how much a loss or
    another metric has changed; the darker, the more. There is a panel for each score.

    Args:
        curve: of ``sparsity_curve(..., per_layer=True)``, with the level 0.
        paths: files to write (``.png``, ``.svg``, ``.pdf``); each is replaced at once or not at
            all.
        measure: ``"accuracy"``, ``"loss"`` or the name of a metric; by default the first of these
            that was measured.
        title: a line above; by default what all points share.

    Raises:
        ValueError: the curve is not one per layer, or more than one by a score, or lacks the level
            0; a path's ending is unknown.
    """
    import matplotlib as mpl
    from matplotlib.figure import Figure

    layers = list(dict.fromkeys(point.layer for point in curve))
    if not curve.points or "" in layers:
        raise ValueError(
            "the curve is not one per layer: take it with sparsity_curve(..., per_layer=True)"
        )
    measure = measure or measured(curve.points[0])[0]
    panels = _panels(curve)
    levels = [level for level in sorted({point.sparsity for point in curve}) if level]
    tables = [_table(panel, layers, levels, measure) for panel in panels.values()]
    highest = max(float(np.nanmax(np.abs(table), initial=0)) for table in tables) or 1.0
    # above each other where that is no higher than a page
    rows = len(panels) if len(panels) * len(layers) <= _ROWS else 1
    columns = len(panels) // rows
    with mpl.rc_context(_STYLE):
        width, height = 2.6 + columns * (1.2 + 0.48 * len(levels)), 0.32 * len(layers)
        size = (max(6.4, width), max(2.4, 0.9 + rows * (0.6 + height)))
        figure = Figure(figsize=size, dpi=150, layout="constrained")
        grid = figure.subplots(rows, columns, squeeze=False, sharex=True, sharey=True).flat
        for axes, name, table in zip(grid, panels, tables, strict=True):
            image = _draw(axes, table, levels, highest)
            axes.set_title(name if len(panels) > 1 else "", fontsize="medium")
        for axes in grid[-columns:]:
            axes.set_xlabel(f"{curve.points[0].unit} of the layer removed (%)")
        grid[0].set_yticks(range(len(layers)), [_label(layer) for layer in layers])
        bar = figure.colorbar(image, ax=list(grid), pad=0.02, aspect=25)
        what = "points of accuracy lost" if measure == "accuracy" else f"change of {measure}"
        bar.set_label(what)
        figure.suptitle(
            title or shared_facts(curve), x=0.01, ha="left", fontsize="small", color=GREY
        )
        write_laid_out(figure, paths)
    return figure


def _panels(curve: Curve) -> dict[str, Curve]:
    """A curve for each score, with the dense network in it and one series for each layer."""
    panels = {
        score: curve.where(score=score) for score in dict.fromkeys(point.score for point in curve)
    }
    for panel in panels.values():
        if not any(point.sparsity == 0 for point in panel):
            raise ValueError("the dense network was not measured: expected a level 0 in sparsities")
        for layer in dict.fromkeys(point.layer for point in panel):
            single_series(panel.where(layer=layer))
    return panels


def _table(
    curve: Curve, layers: Sequence[str], levels: Sequence[float], measure: str
) -> "np.ndarray[Any, Any]":
    """What is lost, ``(layers, levels)``; NaN where nothing was measured."""
    sign, scale = (-1, 100.0) if measure == "accuracy" else (1, 1.0)
    dense = next(point.measure(measure) for point in curve if point.sparsity == 0)
    table = np.full((len(layers), len(levels)), np.nan)
    for point in curve:
        if point.sparsity:
            place = layers.index(point.layer), levels.index(point.sparsity)
            table[place] = sign * scale * (point.measure(measure) - dense)
    return table


def _draw(
    axes: "Axes", table: "np.ndarray[Any, Any]", levels: Sequence[float], highest: float
) -> Any:
    from matplotlib.colors import PowerNorm

    # by the root: what a tenth of the range costs should show, and a gain is as good as no loss
    image = axes.imshow(
        table, cmap="YlOrRd", norm=PowerNorm(0.5, 0, highest), aspect="auto", interpolation="none"
    )
    axes.set_xticks(range(len(levels)), [f"{100 * level:g}" for level in levels])
    axes.tick_params(axis="x", rotation=90 if len(levels) > 10 else 0)
    axes.tick_params(length=0)
    axes.spines[:].set_visible(False)
    for (row, column), value in np.ndenumerate(table):
        dark = value > 0.35 * highest
        axes.text(
            column, row, _number(value, highest), ha="center", va="center", fontsize=7,
            color="white" if dark else "0.25",
        )  # fmt: skip
    return image


def _number(value: float, highest: float) -> str:
    """In two digits; nothing where it is nothing beside the highest.

    >>> [_number(value, 90) for value in (0.04, -0.26, 5.41, 12.3, np.nan)], _number(1234, 9e3)
    (['0', '-0.26', '5.4', '12', ''], '1234')
    """
    if np.isnan(value):
        return ""
    if abs(value) < highest / 1000:
        return "0"
    return f"{value:.2g}" if abs(value) < 99.5 else f"{value:.4g}"


def _label(layer: str) -> str:
    """The layer's name, its end where it is long."""
    return layer if len(layer) <= _LONGEST else f"...{layer[3 - _LONGEST :]}"
