"""The figures of a report: each as a chart, and as the rows of the CSV file it shows."""

from collections.abc import Callable, Sequence
from statistics import fmean
from typing import TYPE_CHECKING, Any

from ewnprune.study.axes import Axis, accuracies, categories, linear, logarithmic
from ewnprune.study.chart import Chart, Mark, Series, front
from ewnprune.study.naming import short, shorten, styles, what_goes
from ewnprune.study.recorded_figures import Drawn, draw_classes, draw_norms, draw_training
from ewnprune.study.rows import Rows
from ewnprune.study.tables import candidate_rows, difference_rows, level_rows

if TYPE_CHECKING:
    from ewnprune.study.analysis import Study
    from ewnprune.study.evidence import Evidence

_ROOM = 24  # texts that are beside each other along an axis
_MUTED = "#767676"  # of what is no method


def draw_curves(found: "Evidence") -> Drawn:
    """Accuracy against what is left: mean, band of one standard deviation, single seeds."""
    study, rows = found.study, level_rows(found.study)
    series = []
    for label, style in styles(study).items():
        of_method = [row for row in rows if row["method"] == label]
        marks = [_level_mark(row, 100 * (1 - row["sparsity"])) for row in of_method]
        for one in study.curve.where(method=label).series():
            thin = tuple(Mark(100 * (1 - point.sparsity), point.measure()) for point in one)
            series.append(Series(label, "", style["color"], thin, thin=True, dots=False))
        series.append(Series(label, label, marks=marks, spread="band", **style))
    left = [mark.x for one in series for mark in one.marks]
    what = what_goes(study).replace("neurons", "neurons, or weights")
    x = logarithmic(f"left of the {what} (%), log scale", left, backwards=True)
    levels = {row["sparsity"]: (100 * (1 - row["sparsity"]),) for row in rows}
    return Chart(x, _accuracy_axis(study, series), series, levels), rows


def draw_parameters(found: "Evidence") -> Drawn:
    """Accuracy against the parameters that are left of the whole network."""
    return _draw_cost(found, "parameters", "parameters left (%), log scale")


def draw_macs(found: "Evidence") -> Drawn:
    """Accuracy against the multiply-accumulates of a forward pass."""
    return _draw_cost(found, "macs", "MACs left (%), log scale")


def draw_latency(found: "Evidence") -> Drawn:
    """Accuracy against the time of a forward pass, where that was measured."""
    return _draw_cost(found, "latency_ms", "latency (ms), log scale")


def draw_differences(found: "Evidence") -> Drawn:
    """Paired differences to the reference with their intervals."""
    rows = difference_rows(found.study)
    if not rows:
        return None, []
    names = list(dict.fromkeys(row["method"] for row in rows))
    levels = sorted({row["sparsity"] for row in rows})
    series = []
    for index, label in enumerate(names):
        # side by side, the levels evenly apart: intervals do not hide each other
        shift = (index - (len(names) - 1) / 2) * 0.8 / len(names)
        marks = []
        for row in (row for row in rows if row["method"] == label):
            known = row["seeds"] > 1
            low, high = (100 * row[end] if known else None for end in ("low", "high"))
            text = f"{100 * row['mean']:+.2f} points to {row['reference']}"
            text += f" [{low:.2f}, {high:.2f}]" if known else ""
            tip = f"{label}: {text}, {100 * row['sparsity']:g} % removed"
            place = levels.index(row["sparsity"]) + shift
            marks.append(Mark(place, 100 * row["mean"], tip, low, high, row["sparsity"]))
        color = styles(found.study)[label]["color"]
        series.append(Series(label, label, color, marks, line=False, spread="bars"))
    x = categories("removed (%)", [f"{100 * level:g}" for level in levels])
    zero = Series("", "", _MUTED, (Mark(x.low, 0), Mark(x.high, 0)), dots=False)
    ends = [v for one in series for m in one.marks for v in (m.y, m.low, m.high) if v is not None]
    y = linear(f"difference to {found.study.reference} (points)", [0, *ends])
    places = {level: (index,) for index, level in enumerate(levels)}
    return Chart(x, y, [zero, *series], places), rows


def draw_candidates(found: "Evidence") -> Drawn:
    """What there was to choose from, on validation data, and what was chosen."""
    rows = candidate_rows(found)
    shown = [row for row in rows if "mean" in row]
    if len(shown) <= len({row["method"] for row in shown}):
        return None, rows
    places = list(dict.fromkeys((row["method"], row["candidate"]) for row in shown))
    series = []
    for label, style in styles(found.study).items():
        marks = []
        for row in (row for row in shown if row["method"] == label):
            what = ", ".join(part for part in (row["candidate"], short(row["score"])) if part)
            tip = f"{label}, {what}: {100 * row['mean']:.2f} % over the curve"
            tip += ", chosen" if row["chosen"] else ""
            place = places.index((label, row["candidate"]))
            marks.append(Mark(place, row["mean"], tip, ringed=row["chosen"]))
        series.append(Series(label, label, style["color"], marks, line=False))
    names = [shorten(candidate or method) for method, candidate in places]
    if len(places) > _ROOM:  # for the methods alone, in the middle of theirs
        every = [method for method, _ in places]
        middle = {every.index(m) + every.count(m) // 2: m for m in every}
        names = [shorten(middle.get(place, "")) for place in range(len(places))]
    y = accuracies("mean over the curve (%)", [row["mean"] for row in shown])
    return Chart(categories("", names), y, series, slanted=True), rows


FIGURES: dict[str, tuple[str, str, Callable[["Evidence"], Drawn]]] = {
    "curves": (
        "Accuracy against what is left",
        "Mean over seeds, one sample standard deviation either side, and each seed as a thin line. "
        "Both axes are stretched where methods differ.",
        draw_curves,
    ),
    "parameters": (
        "Accuracy against parameters",
        "Of the whole network, mean over seeds. Grey: the front, which nothing here beats. Masks "
        "of single weights save memory only where they are stored sparse.",
        draw_parameters,
    ),
    "macs": (
        "Accuracy against MACs",
        "Multiply-accumulates of one forward pass, of the whole network; of masked single weights "
        "on paper only. Grey: the front, which nothing here beats.",
        draw_macs,
    ),
    "latency": (
        "Accuracy against latency",
        "Median time of a forward pass of the smaller network, as measured on the machine of the "
        "runs. Grey: the front, which nothing here beats.",
        draw_latency,
    ),
    "difference_plot": (
        "Paired differences",
        "Pairs of the same seed, with 95 % t intervals; uncorrected, see the table for Holm's p.",
        draw_differences,
    ),
    "candidates": (
        "What validation data chose",
        "Each candidate by each score: mean over the curve on validation data, over shared seeds. "
        "Ringed: what was taken.",
        draw_candidates,
    ),
    "classes": (
        "What pruning forgets",
        "Points that each class loses where about nine tenths are removed, mean over seeds; "
        "on the left the classes that lose most.",
        draw_classes,
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


def _draw_cost(found: "Evidence", cost: str, label: str) -> Drawn:
    rows = accuracy_by_cost(found, cost)
    if not rows:
        return None, []
    series: list[Series] = []
    places: dict[float, list[float]] = {}
    for name, style in styles(found.study).items():
        marks = []
        for row in (row for row in rows if row["method"] == name):
            x = row["cost"]
            how = "ms" if cost == "latency_ms" else "% of the " + cost.replace("macs", "MACs")
            tip = f"{_tip(row)}, {x:.3g} {how}"
            marks.append(Mark(x, row["mean"], tip, level=row["sparsity"]))
            places.setdefault(row["sparsity"], []).append(x)
        series.append(Series(name, name, marks=marks, **style))
    every = [(mark.x, mark.y) for one in series for mark in one.marks]
    stairs = Series("", "front", _MUTED, [Mark(*corner) for corner in front(every)], dots=False)
    x_axis = logarithmic(label, [x for x, _ in every], backwards=True)
    cursor = {level: sorted(set(at)) for level, at in places.items()}
    return Chart(x_axis, _accuracy_axis(found.study, series), [stairs, *series], cursor), rows


def accuracy_by_cost(found: "Evidence", cost: str) -> Rows:
    """One row per method and level: mean accuracy, and what the network costs.

    Args:
        found: the study.
        cost: ``"parameters"`` or ``"macs"``, in percent of the whole network's, or
            ``"latency_ms"``. There are no rows where it was not measured.
    """
    rows = []
    for row in level_rows(found.study):
        at = found.study.curve.where(method=row["method"], sparsity=row["sparsity"])
        costs = []
        for point in at:
            count = getattr(point, cost, None)
            value = point.metrics.get(cost) if count is None else 100 * count.left / count.total
            costs += [] if value is None else [value]
        if costs:
            kept = ("method", "sparsity", "seeds", "mean", "sd")
            rows.append({key: row[key] for key in kept} | {"cost": fmean(costs)})
    return rows


def _level_mark(row: dict[str, Any], x: float) -> Mark:
    one = row["seeds"] < 2
    low, high = (None if one else row["mean"] + sign * row["sd"] for sign in (-1, 1))
    return Mark(x, row["mean"], _tip(row), low, high, row["sparsity"])


def _tip(row: dict[str, Any]) -> str:
    spread = "" if row["seeds"] < 2 else f" ± {100 * row['sd']:.2f}"
    where = f"{100 * row['sparsity']:g} % removed"
    return f"{row['method']}: {100 * row['mean']:.2f}{spread} % at {where}"


def _accuracy_axis(study: "Study", series: Sequence[Series]) -> Axis:
    values = [mark.y for one in series for mark in one.marks]
    return accuracies(f"accuracy on {study.split} data (%)", values)
