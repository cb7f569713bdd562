"""The figures of what runs recorded beside their curves."""

from collections.abc import Sequence
from functools import partial
from math import inf, isfinite
from typing import TYPE_CHECKING

from ewnprune.study.axes import categories, linear, logarithmic
from ewnprune.study.chart import Chart, Mark, Series
from ewnprune.study.naming import levels_of, shorten, styles
from ewnprune.study.rows import (
    CLASSES_SHOWN,
    Rows,
    class_level,
    class_rows,
    forgotten_first,
    losses,
)

if TYPE_CHECKING:
    from ewnprune.study.evidence import Evidence

Drawn = tuple[Chart | None, Rows]


def draw_classes(found: "Evidence") -> Drawn:
    """What pruning forgets: the points that each class loses."""
    rows = class_rows(found)
    level = class_level(rows)
    if level is None:
        return None, rows
    lost = losses(rows, level)
    classes = forgotten_first(lost)[:CLASSES_SHOWN]
    series = []
    methods = {method for method, _ in lost}
    labels = [label for label in styles(found.study) if label in methods]
    for index, label in enumerate(labels):
        shift = (index - (len(labels) - 1) / 2) * 0.8 / len(labels)
        marks = []
        for place, name in enumerate(classes):
            if (label, name) in lost:
                value = lost[label, name]
                tip = f"{label}: class {name} loses {value:.1f} points at {100 * level:g} % removed"
                marks.append(Mark(place + shift, value, tip))
        color = styles(found.study)[label]["color"]
        series.append(Series(label, label, color, marks, line=False))
    y = linear("points lost", [0, *(m.y for one in series for m in one.marks)])
    return Chart(categories("class", [shorten(name, 6) for name in classes]), y, series), rows


def draw_norms(found: "Evidence") -> Drawn:
    """Norms of the neurons, sorted, layer by layer, of the first seed of each method."""
    rows = found.recorded("norms.csv")
    first = min((row["seed"] for row in rows), default=None)
    rows = [row for row in rows if row["seed"] == first]
    if not rows:
        return None, []
    series = []
    for label, style in styles(found.study).items():
        layers = dict.fromkeys(row["layer"] for row in rows if row["method"] == label)
        for dash, layer in zip(("", "8 3", "2 2", "9 3 2 3") * len(layers), layers, strict=False):
            of_layer = [r for r in rows if r["method"] == label and r["layer"] == layer]
            norms = sorted((float(row["norm"]) for row in of_layer), reverse=True)
            # a logarithmic axis has no zero: exact zeros are where the line ends
            kept = {round(i * (len(norms) - 1) / 200) for i in range(201)}  # as many as show
            pointed = {round(i * (len(norms) - 1) / 20) for i in range(21)}
            told = partial(_tell_norm, f"{label}, {layer}", norms)
            marks = [
                Mark(100 * (i + 1) / len(norms), norm, told(i) if i in pointed else "")
                for i, norm in enumerate(norms)
                if 0 < norm < inf and i in kept | pointed
            ]
            name = label if len(layers) == 1 else f"{label}, {layer}"
            series.append(Series(label, name, style["color"], marks, dash=dash, dots=False))
    y = logarithmic("norm of incoming weights, log", [m.y for one in series for m in one.marks])
    x = linear("neurons, largest norm first (%)", (0, 100))
    left = {level: (100 * (1 - level),) for level in levels_of(found.study)}
    return Chart(x, y, series, left), rows


def draw_training(found: "Evidence") -> Drawn:
    """Training loss epoch by epoch, every seed."""
    rows = [row for row in found.recorded("training.csv") if row.get("train/loss")]
    if not rows:
        return None, []
    series: list[Series] = []
    for label, style in styles(found.study).items():
        for seed in dict.fromkeys(row["seed"] for row in rows if row["method"] == label):
            marks = []
            for row in (r for r in rows if (r["method"], r["seed"]) == (label, seed)):
                epoch, loss = int(row["epoch"]) + 1, float(row["train/loss"])
                if not isfinite(loss):  # the line goes on where it is a number again
                    continue
                tip = f"{label}, seed {seed}: loss {loss:.4g} in epoch {epoch}"
                marks.append(Mark(epoch, loss, tip))
            first = all(one.method != label for one in series)
            series.append(Series(label, label if first else "", marks=marks, **style))
    places = [mark for one in series for mark in one.marks]
    y = logarithmic("training loss, log scale", [mark.y for mark in places])
    return Chart(linear("epoch", [mark.x for mark in places]), y, series), rows


def _tell_norm(who: str, norms: Sequence[float], index: int) -> str:
    part = 100 * (index + 1) / len(norms)
    return f"{who}: {part:.0f} % of the neurons have a norm of {norms[index]:.3g} or more"
