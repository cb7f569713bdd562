"""Accuracy against multiply-adds, for EWN and its kin.

    python -m benchmarks.macs

draws ``docs/figures/macs_mnist`` from ``kin.csv``. Every panel has some of the methods, and two
that are in all of them: plain training and the recipe. A line is the mean over seeds, its band
reaches from the lowest to the highest. MACs are on a log axis; so is the error, which accuracy is
labelled by.
"""

from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import matplotlib as mpl
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import NullLocator

from benchmarks import kin
from benchmarks.depgraph import LEVELS
from ewnprune.drawing import COLORS, DASHES, STYLE, save_figure
from ewnprune.files import read_rows

OUT = Path(__file__).parents[1] / "docs" / "figures"
PLAIN, LAST = "none", "prunable"
PANELS = {
    "Proximal penalties": ("group_lasso", "log_sum", "nested_lasso"),
    "Products of factors": ("d_gating_2", "d_gating_3", "d_gating_4"),
    "Multiplicative steps": ("ewn", "ewn_log_norm", "ham", "ham_neurons"),
    "Others": ("powerprop", "powerprop_neurons", "group_hs", "torch_pruning"),
}
NEURON = 794  # multiply-adds of a neuron of 784-1024-10
_TICKS = (20, 40, 60, 80, 90, 95, 98, 99)


@dataclass
class Line:
    """A method's accuracy in %, one row per seed, against MACs."""

    macs: Sequence[float]
    accuracy: np.ndarray


def _error(accuracy: np.ndarray | Sequence[float]) -> np.ndarray:
    return -np.log(np.clip(100 - np.asarray(accuracy), 0.3, 100))


def draw(lines: dict[str, Line], title: str, name: str) -> None:
    """Draw a panel for each group of methods, and write the figure."""
    colors = [color for key, color in COLORS.items() if key not in ("ewn", "plain")]
    with mpl.rc_context(STYLE | {"font.size": 12}):
        figure = Figure(figsize=(10.5, 9.2), dpi=150, layout="constrained")
        axes = figure.subplots(2, 2, sharex=True, sharey=True)
        for place, (text, methods) in zip(axes.flat, PANELS.items(), strict=True):
            styles = dict(zip(methods, colors, strict=False))
            for method, color in (styles | {PLAIN: COLORS["plain"], LAST: COLORS["ewn"]}).items():
                if method in lines:
                    _plot(place, lines[method], method, color, method == LAST)
            place.set_title(text, loc="left", fontsize=12)
            place.legend(loc="lower right", fontsize=10)
        _finish(axes, lines)
        figure.suptitle(title, x=0.01, ha="left", fontsize=12, color="0.35")
        for suffix in (".png", ".svg"):
            save_figure(figure, OUT / f"{name}{suffix}")


def _plot(place: Axes, line: Line, method: str, color: str, thick: bool) -> None:
    style = {"color": color, "lw": 3.5 if thick else 2.0}
    dashes = DASHES[1] if method == PLAIN else DASHES[0]
    place.plot(line.macs, _error(line.accuracy.mean(0)), ls=dashes, label=method, **style)
    low, high = _error(line.accuracy.min(0)), _error(line.accuracy.max(0))
    place.fill_between(line.macs, low, high, color=color, alpha=0.18, lw=0)


def _short(number: float) -> str:
    """A number of multiply-adds in few letters.

    >>> _short(79_400)
    '79 k'
    """
    return f"{number / 1e3:.0f} k"


def _finish(axes: np.ndarray, lines: dict[str, Line]) -> None:
    best = max(line.accuracy.mean(0).max() for line in lines.values())
    ticks = [tick for tick in _TICKS if tick < best]
    macs = next(iter(lines.values())).macs
    for place in axes.flat:
        place.set_xscale("log")
        place.set_xticks(macs, [_short(number) for number in macs], minor=False)
        place.xaxis.set_minor_locator(NullLocator())
        place.set_yticks(_error(ticks), [f"{tick} %" for tick in ticks])
        place.set_ylim(_error([15])[0], _error([best])[0] + 0.15)
        place.set_xlabel("multiply-adds left, log scale")
        place.set_ylabel("test accuracy, log scale of the error")


def of_mnist() -> tuple[dict[str, Line], str]:
    """The lines of ``kin.csv``, its longest training; candidate and score by validation data."""
    rows = read_rows(kin.FILE)
    epochs = max(int(row["epochs"]) for row in rows)
    seeds = sorted({int(row["seed"]) for row in rows if int(row["epochs"]) == epochs})
    rows = [row for row in rows if int(row["epochs"]) == epochs]
    lines = {}
    for method in kin.complete(rows, seeds):
        of = kin.chosen(rows, method)
        by_seed: dict[str, dict[float, float]] = defaultdict(dict)
        for row in of:
            by_seed[row["seed"]][float(row["sparsity"])] = float(row["test"])
        accuracy = np.array([[found[level] for level in LEVELS] for found in by_seed.values()])
        macs = [NEURON * (1024 - round(1024 * level)) for level in LEVELS]
        lines[method] = Line(macs, accuracy)
    over = f"mean and range of {len(seeds)} seeds"
    return lines, f"MNIST, 784-1024-10, {epochs} epochs, one-shot: {over}"


def main() -> None:
    """Draw it."""
    lines, title = of_mnist()
    draw(lines, title, "macs_mnist")


if __name__ == "__main__":
    main()
