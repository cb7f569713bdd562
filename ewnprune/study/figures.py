"""The figures of a report: each as a drawing, and as the rows of the CSV file it shows."""

import csv
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import LogFormatter, MaxNLocator

from ewnprune.curve.equal_size import LEFT
from ewnprune.drawing import DASHES, line_styles
from ewnprune.study.labels import labels_of
from ewnprune.study.run import SETTINGS
from ewnprune.study.tables import Study, difference_rows, level_rows, size_rows

Rows = list[dict[str, Any]]


def draw_curves(study: Study, runs: Path) -> tuple[Figure | None, Rows]:
    """Accuracy against sparsity: mean, band of one standard deviation, single seeds."""
    figure, axes = _axes("removed (%)", f"accuracy on {study.split} data (%)")
    rows = level_rows(study)
    for label, style in _styles(study).items():
        of_method = [row for row in rows if row["method"] == label]
        x = [100 * row["sparsity"] for row in of_method]
        mean, sd = ([100 * row[key] for row in of_method] for key in ("mean", "sd"))
        marker = "s" if len(x) == 1 else None
        axes.plot(x, mean, label=label, linewidth=2, marker=marker, **style)
        low = [m - s for m, s in zip(mean, sd, strict=True)]
        high = [m + s for m, s in zip(mean, sd, strict=True)]
        axes.fill_between(x, low, high, color=style["color"], alpha=0.15, linewidth=0)
        for series in study.curve.where(method=label).series():
            levels = [100 * point.sparsity for point in series]
            values = [100 * point.measure() for point in series]
            axes.plot(levels, values, color=style["color"], linewidth=0.5, alpha=0.6)
    _legend(figure, axes)
    return figure, rows


def draw_differences(study: Study, runs: Path) -> tuple[Figure | None, Rows]:
    """Paired differences to the reference with their intervals."""
    rows = difference_rows(study)
    if not rows:
        return None, []
    figure, axes = _axes("removed (%)", f"difference to {study.reference} (points)")
    axes.axhline(0, color="#888", linewidth=1)
    names = list(dict.fromkeys(row["method"] for row in rows))
    levels = sorted({row["sparsity"] for row in rows})
    for index, label in enumerate(names):
        found = [row for row in rows if row["method"] == label]
        # side by side, the levels evenly apart: intervals do not hide each other
        shift = (index - (len(names) - 1) / 2) * 0.8 / len(names)
        x = [levels.index(row["sparsity"]) + shift for row in found]
        mean = [100 * row["mean"] for row in found]
        error = [[100 * abs(row["mean"] - row[end]) for row in found] for end in ("low", "high")]
        color = _styles(study)[label]["color"]
        bars = None if any(row["seeds"] < 2 for row in found) else error
        axes.errorbar(x, mean, bars, fmt="o", color=color, capsize=3, label=label, markersize=4)
    axes.set_xticks(range(len(levels)), [f"{100 * level:g}" for level in levels])
    axes.grid(visible=False, axis="x")
    for between in range(len(levels) - 1):
        axes.axvline(between + 0.5, color="#888", linewidth=0.5, alpha=0.5)
    _legend(figure, axes)
    return figure, rows


def draw_sizes(study: Study, runs: Path) -> tuple[Figure | None, Rows]:
    """Neurons against single weights: mean accuracy at equal parameters."""
    rows = size_rows(study)
    if not rows:
        return None, []
    figure, axes = _axes("parameters left (%)", f"accuracy on {study.split} data (%)")
    axes.set_xscale("log")
    for label, style in _styles(study).items():
        found = [r for r in rows if r["method"] == label and r["size"] == "parameters"]
        x, y = ([100 * row[key] for row in found] for key in ("left", "mean"))
        if found:
            name = f"{label} ({found[0]['unit']})"
            axes.plot(x, y, marker="o", markersize=4, label=name, **style)
    axes.set_xticks([100 * left for left in LEFT], [f"{100 * left:g}" for left in LEFT])
    axes.set_xticks([], minor=True)
    axes.invert_xaxis()
    _legend(figure, axes)
    return figure, rows


def draw_norms(study: Study, runs: Path) -> tuple[Figure | None, Rows]:
    """Norms of the neurons, sorted, layer by layer, of the first seed of each method."""
    rows = _of_taken(study, runs, "norms.csv")
    first = min((row["seed"] for row in rows), default=None)
    rows = [row for row in rows if row["seed"] == first]
    figure, axes = _axes("neurons, largest norm first (%)", "norm of the incoming weights")
    _logarithmic(axes)
    shown = {row["method"] for row in rows}
    for label, style in _styles(study).items():
        if label not in shown:
            continue
        layers = dict.fromkeys(row["layer"] for row in rows if row["method"] == label)
        for dash, layer in zip(DASHES * len(layers), layers, strict=False):
            of_layer = [r for r in rows if r["method"] == label and r["layer"] == layer]
            norms = sorted((float(row["norm"]) for row in of_layer), reverse=True)
            # a logarithmic axis has no zero: exact zeros are where the line ends
            positive = [norm for norm in norms if norm > 0]
            x = [100 * (i + 1) / len(norms) for i in range(len(positive))]
            name = label if len(layers) == 1 else f"{label}, {layer}"
            axes.plot(x, positive, color=style["color"], linestyle=dash, label=name)
    _legend(figure, axes)
    return (figure if rows else None), rows


def draw_training(study: Study, runs: Path) -> tuple[Figure | None, Rows]:
    """Training loss epoch by epoch, every seed."""
    rows = [row for row in _of_taken(study, runs, "training.csv") if row.get("train/loss")]
    figure, axes = _axes("epoch", "training loss")
    _logarithmic(axes)
    styles = _styles(study)
    named = set()
    of_runs = {(row["method"], row["seed"]) for row in rows}
    for method, seed in sorted(of_runs, key=lambda run: ([*styles].index(run[0]), run[1])):
        of_run = [row for row in rows if (row["method"], row["seed"]) == (method, seed)]
        name = "_nolegend_" if method in named else method
        named.add(method)
        epochs = [int(row["epoch"]) + 1 for row in of_run]
        loss = [float(row["train/loss"]) for row in of_run]
        axes.plot(epochs, loss, linewidth=1, marker=".", label=name, **styles[method])
    axes.xaxis.set_major_locator(MaxNLocator(integer=True, min_n_ticks=1))
    _legend(figure, axes)
    return (figure if rows else None), rows


FIGURES: dict[str, tuple[str, str, Callable[[Study, Path], tuple[Figure | None, Rows]]]] = {
    "curves": (
        "Accuracy against sparsity",
        "Mean over seeds, one sample standard deviation either side, and each seed as a thin line.",
        draw_curves,
    ),
    "difference_plot": (
        "Paired differences",
        "Pairs of the same seed, with 95 % t intervals; uncorrected, see the table for Holm's p.",
        draw_differences,
    ),
    "equal_sizes": (
        "Neurons against single weights",
        "Means at equal fractions of the parameters left, between levels by straight lines. Masks "
        "of single weights save memory and products on paper only.",
        draw_sizes,
    ),
    "norms": (
        "How norms are distributed",
        "After training, of the lowest seed. A line that ends early has neurons that are zero.",
        draw_norms,
    ),
    "training": (
        "Training",
        "Loss per epoch, with the penalty of a method left out. Each line is one run.",
        draw_training,
    ),
}


def _axes(x: str, y: str) -> tuple[Figure, Axes]:
    figure = Figure(figsize=(5.8, 4.2), layout="constrained")  # legible on a phone as well
    axes = figure.add_subplot()
    axes.set_xlabel(x)
    axes.set_ylabel(y)
    axes.grid(alpha=0.25)
    return figure, axes


def _legend(figure: Figure, axes: Axes) -> None:
    """Above the axes: inside, there is always a study whose lines it hides."""
    handles, names = axes.get_legend_handles_labels()
    if names:
        columns = max(1, min(len(names), 60 // max(len(name) + 5 for name in names)))
        figure.legend(
            handles, names, loc="outside upper center", ncols=columns, fontsize=8, frameon=False
        )


def _logarithmic(axes: Axes) -> None:
    axes.set_yscale("log")
    for place in (axes.yaxis.set_major_formatter, axes.yaxis.set_minor_formatter):
        place(LogFormatter(labelOnlyBase=False, minor_thresholds=(2, 0.5)))


def _styles(study: Study) -> dict[str, dict[str, Any]]:
    labels = labels_of(study.curve)
    return dict(zip(labels, line_styles(labels), strict=True))


def _of_taken(study: Study, runs: Path, name: str) -> Rows:
    """The rows of a file of every run whose points are shown, under the name they are shown by."""
    trained = {label: method for method, (label, _) in reversed(study.taken.items())}
    rows: Rows = []
    for path in sorted(runs.glob(f"runs/*/{name}")):
        settings = json.loads((path.parent / SETTINGS).read_text(encoding="utf-8"))
        if settings["method"] in trained and settings["part"] is None:
            tags = {"method": trained[settings["method"]], "seed": settings["seed"]}
            with open(path, encoding="utf-8", newline="") as file:
                rows += [tags | line for line in csv.DictReader(file)]
    return rows
