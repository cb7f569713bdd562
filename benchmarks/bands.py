"""The figure of docs/recipe.md, from its studies; and how such figures are drawn.

    python -m benchmarks.bands

writes ``docs/figures/recipe.png`` and ``.svg``. A method has a line, the mean over seeds, and a
band, its 95 % interval; the last method lies on top. Sparsity is spaced by the logarithm of what is
left, and accuracy by that of what is wrong, as in ``plot_curve``.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import matplotlib as mpl
import numpy as np
from matplotlib.figure import Figure

from ewnprune.drawing import DASHES, STYLE, method_colors, save_figure
from ewnprune.files import read_rows

RECIPE = {
    "random": "plain, random neurons",
    "none": "plain training",
    "magnitude": "plain, single weights",
    "lasso": "group lasso",
    "recipe": "EWN with the recipe",
    "recipe_every": "the same, every image sees all",
}
_LEVELS = (0, 50, 80, 90, 95, 98)
_ACCURACIES = (20, 40, 60, 80, 90, 95, 98, 99)


@dataclass
class Line:
    """A method's accuracy, level by level, with a band; fractions. The method gives the colour."""

    method: str
    name: str
    levels: Sequence[float]
    mean: Sequence[float]
    low: Sequence[float]
    high: Sequence[float]


def _left(percent: Sequence[float]) -> np.ndarray:  # type: ignore[type-arg]
    return -np.log1p(-np.minimum(percent, 99.9) / 100)


def draw_bands(lines: Sequence[Line], title: str, *paths: Path) -> None:
    """Draw the lines, the last on top, and write the figure to files."""
    with mpl.rc_context(STYLE | {"font.size": 17}):
        figure = Figure(figsize=(7.8, 6.4), dpi=150, layout="constrained")
        axes = figure.add_subplot()
        colors = method_colors(line.method for line in lines)
        for place, line in enumerate(lines):
            color, last = colors[line.method], place == len(lines) - 1
            x = _left([100 * level for level in line.levels])
            mean, low, high = (
                _left([100 * v for v in band]) for band in (line.mean, line.low, line.high)
            )
            axes.fill_between(x, low, high, color=color, alpha=0.2, lw=0, zorder=2 + place)
            like_last = line.method == lines[-1].method and not last
            style: dict[str, Any] = {"color": color, "lw": 4 if last else 2.5}
            style["linestyle"] = DASHES[1] if like_last else DASHES[0]
            axes.plot(x, mean, **style, label=line.name, zorder=2.5 + place)
        lowest = 100 * min(min(line.mean) for line in lines)
        highest = 100 * max(max(line.mean) for line in lines)
        top = 100 - 0.7 * (100 - highest)
        axes.set_ylim(_left([max(0, lowest - 5)])[0], _left([top])[0])
        axes.set_xlim(0, _left([98.1])[0])
        axes.set_xticks(_left(_LEVELS), [f"{level:g}" for level in _LEVELS])
        ticks = [tick for tick in _ACCURACIES if lowest - 5 <= tick <= top]
        axes.set_yticks(_left(ticks), [f"{tick:g}" for tick in ticks])
        axes.set_xlabel("neurons removed (%), log scale of what is left")
        axes.set_ylabel("test accuracy (%), log scale")
        axes.set_title(title, loc="left", fontsize=15, color="0.4")
        handles, names = axes.get_legend_handles_labels()
        axes.legend(handles[::-1], names[::-1], loc="lower left", labelspacing=0.3)
        for path in paths:
            save_figure(figure, path)


def main() -> None:
    """Draw what the study of the recipe found."""
    here = Path(__file__).parent
    rows = [*read_rows(here / "recipe.csv"), *read_rows(here / "recipe_every.csv")]
    lines = []
    for method, name in RECIPE.items():
        own = [row for row in rows if row["method"] == method]
        bands = ([float(row[key]) for row in own] for key in ("sparsity", "mean", "low", "high"))
        lines.append(Line("EWN" if method == "recipe_every" else method, name, *bands))
    out = here.parent / "docs" / "figures" / "recipe"
    title = "MNIST, 784-1024-10, 20 epochs, 5 seeds"
    draw_bands(lines, title, out.with_suffix(".png"), out.with_suffix(".svg"))


if __name__ == "__main__":
    main()
