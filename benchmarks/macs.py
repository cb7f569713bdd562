"""Accuracy against multiply-adds, for EWN and its kin.

    python -m benchmarks.macs

draws ``docs/figures/macs_mnist`` from ``kin.csv``, and ``docs/figures/macs_resnet20`` from
``resnet20.csv``. Every panel has some of the methods, and two that are in all of them: plain
training and the recipe. A line is the mean over seeds, its band reaches from the lowest to the
highest. MACs are on a log axis; so is the error, which accuracy is labelled by.
"""

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import matplotlib as mpl
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import NullLocator

from benchmarks import kin, resnet20
from benchmarks.depgraph import LEVELS
from ewnprune.curve.files import read_curve
from ewnprune.drawing import COLORS, DASHES, STYLE, save_figure
from ewnprune.files import read_rows

OUT = Path(__file__).parents[1] / "docs" / "figures"
MNIST = {
    "Proximal penalties": ("group_lasso", "log_sum", "nested_lasso"),
    "Products of factors": ("d_gating_2", "d_gating_3", "d_gating_4"),
    "Multiplicative steps": ("ewn", "ewn_log_norm", "ham", "ham_neurons"),
    "Others": ("powerprop", "powerprop_neurons", "group_hs", "torch_pruning"),
}
CIFAR = {
    "Nested": ("nested", "recipe_one_level"),
    "Other trainings": ("network_slimming", "group_lasso", "d_gating"),
}
NEURON = 794  # multiply-adds of a neuron of 784-1024-10


@dataclass
class Line:
    """A method's accuracy in %, one row per seed, against MACs."""

    macs: Sequence[float]
    accuracy: np.ndarray


@dataclass
class Drawing:
    """What a figure shows.

    Attributes:
        name: of its files.
        title: what was measured.
        lines: those of each method.
        panels: the methods of each, by its title; of those measured, the ones that are drawn.
        always: the methods that every panel has: plain training, and the recipe.
        ticks: accuracies at the axis, in %; the least that is shown is just below the first.
    """

    name: str
    title: str
    lines: dict[str, Line]
    panels: dict[str, tuple[str, ...]]
    always: tuple[str, str]
    ticks: tuple[int, ...]


def _error(accuracy: np.ndarray | Sequence[float]) -> np.ndarray:
    return -np.log(np.clip(100 - np.asarray(accuracy), 0.3, 100))


def draw(of: Drawing) -> None:
    """Draw a panel for each group of methods, and write the figure."""
    plain, recipe = of.always
    colors = [color for key, color in COLORS.items() if key not in ("ewn", "plain")]
    panels = {text: names for text, names in of.panels.items() if of.lines.keys() & set(names)}
    panels = panels or {"": ()}  # where these two alone are measured
    columns, width = (2, 10.5) if len(panels) > 1 else (1, 7.25)
    rows = -(-len(panels) // columns)
    with mpl.rc_context(STYLE | {"font.size": 12}):
        figure = Figure(figsize=(width, 4.6 * rows), dpi=150, layout="constrained")
        axes = figure.subplots(rows, columns, sharex=True, sharey=True, squeeze=False)
        for place, (text, methods) in zip(axes.flat, panels.items(), strict=False):
            styles = dict(zip(methods, colors, strict=False))
            styles |= {plain: COLORS["plain"], recipe: COLORS["ewn"]}
            for method, color in styles.items():
                if method in of.lines:
                    style = {"color": color, "lw": 3.5 if method == recipe else 2.0}
                    style["ls"] = DASHES[1 if method == plain else 0]
                    _plot(place, of.lines[method], method, style)
            place.set_title(text, loc="left", fontsize=12)
            place.legend(loc="best", fontsize=10)
        _finish(axes, of)
        figure.suptitle(of.title, x=0.01, ha="left", fontsize=12, color="0.35")
        for suffix in (".png", ".svg"):
            save_figure(figure, OUT / f"{of.name}{suffix}")


def _plot(place: Axes, line: Line, label: str, style: dict[str, Any]) -> None:
    place.plot(line.macs, _error(line.accuracy.mean(0)), label=label, **style)
    low, high = _error(line.accuracy.min(0)), _error(line.accuracy.max(0))
    place.fill_between(line.macs, low, high, color=style["color"], alpha=0.18, lw=0)


def _short(number: float) -> str:
    """A number of multiply-adds in few letters.

    >>> _short(79_400), _short(40_813_184)
    ('79 k', '41 M')
    """
    return f"{number / 1e3:.0f} k" if number < 1e6 else f"{number / 1e6:.0f} M"


def _apart(numbers: Sequence[float]) -> list[float]:
    """Those that leave each other room for a label on a log axis, from the largest down.

    >>> _apart([100, 95, 75, 40])
    [100, 75, 40]
    """
    kept: list[float] = []
    for number in sorted(numbers, reverse=True):
        if not kept or number < 0.77 * kept[-1]:
            kept.append(number)
    return kept


def _finish(axes: np.ndarray, of: Drawing) -> None:
    best = max(line.accuracy.mean(0).max() for line in of.lines.values())
    ticks = [tick for tick in of.ticks if tick < best]
    macs = _apart(next(iter(of.lines.values())).macs)
    for place in axes.flat:
        place.set_xscale("log")
        place.set_xticks(macs, [_short(number) for number in macs], minor=False)
        place.xaxis.set_minor_locator(NullLocator())
        place.set_yticks(_error(ticks), [f"{tick} %" for tick in ticks])
        place.set_ylim(_error([of.ticks[0] - 5])[0], _error([best])[0] + 0.15)
        place.set_xlabel("multiply-adds left, log scale")
        place.set_ylabel("test accuracy, log scale of the error")


def of_mnist() -> Drawing:
    """The lines of ``kin.csv``, its longest training; candidate and score by validation data."""
    rows = read_rows(kin.FILE)
    epochs = max(int(row["epochs"]) for row in rows)
    macs = [NEURON * (1024 - round(1024 * level)) for level in LEVELS]
    lines = {name: Line(macs, found) for name, found in kin.curves(rows, epochs).items()}
    over = f"mean and range of {len(kin.SEEDS)} seeds"
    title = f"MNIST, 784-1024-10, {epochs} epochs, one-shot: {over}"
    ticks = (20, 40, 60, 80, 90, 95, 98, 99)
    return Drawing("macs_mnist", title, lines, MNIST, ("none", "prunable"), ticks)


def of_cifar() -> Drawing:
    """The lines of ``resnet20.csv``, of the length that most trainings have."""
    curve = read_curve(resnet20.FILE).where(score="norm_product")
    trainings = dict.fromkeys((point.method, point.epoch) for point in curve)
    ((epochs, _),) = Counter(epochs for _, epochs in trainings).most_common(1)
    lines: dict[str, Line] = {}
    for method in dict.fromkeys(point.method for point in curve):
        seeds = curve.where(method=method, epoch=epochs).series()
        if seeds:
            accuracy = np.array([[100 * point.measure() for point in of] for of in seeds])
            lines[method] = Line([point.macs.left for point in seeds[0] if point.macs], accuracy)
    few, many = (f(len(line.accuracy) for line in lines.values()) for f in (min, max))
    over = "one seed" if many == 1 else f"mean and range of {few} to {many} seeds"
    title = f"CIFAR-10, ResNet-20, {epochs} epochs, one-shot, no finetuning: {over}"
    ticks = (25, 40, 60, 70, 80, 85, 90)
    return Drawing("macs_resnet20", title, lines, CIFAR, ("plain", "recipe"), ticks)


def main() -> None:
    """Draw both."""
    draw(of_mnist())
    draw(of_cifar())


if __name__ == "__main__":
    main()
