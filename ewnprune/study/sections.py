"""The tables of a report, as text: its page and its Markdown twin show the same."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from ewnprune.study.estimates import permutation
from ewnprune.study.labels import Label, seeds_of
from ewnprune.study.naming import flatten, interval, short, what_goes
from ewnprune.study.rows import (
    CLASSES_SHOWN,
    Rows,
    class_level,
    class_rows,
    effort_rows,
    forgotten_first,
    layer_rows,
    losses,
)
from ewnprune.study.statistics import WITHIN
from ewnprune.study.tables import candidate_rows, difference_rows, summary_rows
from ewnprune.study.winning import winners

if TYPE_CHECKING:
    from ewnprune.study.evidence import Evidence


@dataclass(frozen=True)
class Table:
    """A table of a report.

    Attributes:
        name: its id.
        title: what it is called.
        text: what it shows, or why there is nothing to show.
        columns: their headings.
        rows: cells, as text.
        data: what the CSV file of its name holds; empty where another file holds it.
    """

    name: str
    title: str
    text: str
    columns: Sequence[str] = ()
    rows: Sequence[Sequence[str]] = ()
    data: Rows = field(default_factory=list)


def winner_table(found: "Evidence") -> Table:
    """Who wins at each loss."""
    dense = found.study.curve.where(sparsity=0)
    rows = []
    for winner in winners(found.study):
        loss = f"{winner.points:g} point{'' if winner.points == 1 else 's'}"
        if winner.settings:
            loss += f", {winner.settings}"
        if not winner.methods:
            rows.append([loss, "no method: the lowest level loses more", "0", "", ""])
            continue
        names = [Label.parse(method).method for method in winner.methods]
        removed = winner.removed
        of = [p for p in dense.where(method=winner.methods[0]) if p.seed in removed.values]
        others = [Label.parse(method).method for method in winner.open]
        rows.append(
            [
                loss,
                " = ".join(names),
                interval(removed.mean, removed.low, removed.high, 1),
                f"{100 * sum(p.measure() for p in of) / len(of):.2f}",
                ", ".join(others) or ("all others" if winner.told else "-"),
            ]
        )
        if not others and winner.told:
            rows[-1][-1] = "told from all others"
    how = permutation(max(map(len, seeds_of(found.study.curve).values())))
    text = (
        f"The largest part of the {what_goes(found.study)} that goes at such a loss against the "
        "same network whole, "
        "mean over seeds, with its bootstrap interval of 95 %. What these seeds do not tell from "
        f"the winner is named ({how} test over pairs of one seed, corrected by Holm)."
    )
    if not rows:
        whole = any(summary.within for summary in found.study.summaries)
        text = (
            "Nobody: single weights are masked, and no network is smaller for it."
            if whole
            else "Nobody: networks were not measured whole, at level 0, which losses are against."
        )
    columns = ("loss", "winner", "removed, %", "accuracy before, %", "not told from it")
    return Table("winners", "The winner at your loss", text, columns, rows)


def difference_table(found: "Evidence") -> Table:
    """Paired differences to the reference."""
    data = difference_rows(found.study)
    levels = sorted({row["sparsity"] for row in data})
    cells = {
        (row["method"], row["sparsity"]): f"{interval(row['mean'], row['low'], row['high'], 2)}, "
        f"p\u00a0{row['p_holm']:.3g}"
        for row in data
    }
    methods = dict.fromkeys(row["method"] for row in data)
    rows = [[method, *(cells.get((method, level), "-") for level in levels)] for method in methods]
    how = permutation(max((row["seeds"] for row in data), default=0))
    text = f"In pairs of one seed, in points, with 95 % t intervals; p by {how}, corrected "
    text += (
        "over the levels by Holm. Uncorrected ones and the number of seeds are in differences.csv."
    )
    columns = ("method", *(f"{100 * level:g} % removed" for level in levels))
    return Table("differences", f"Differences to {found.study.reference}", text, columns, rows)


def summary_table(found: "Evidence") -> Table:
    """Each method in a few numbers."""
    rows = []
    for s in summary_rows(found.study):
        if "area" not in s:
            continue
        cells = [interval(s["area"], s["area_low"], s["area_high"], 2)]
        for points in WITHIN:
            key = f"within_{points:g}"
            cells.append(interval(s[key], s[f"{key}_low"], s[f"{key}_high"], 1))
        rows.append([s["taken"], short(s["score"]), *cells])
    text = "Mean accuracy over the curve, in %, and the largest % removed that loses at most so "
    text += "many points, with 95 % intervals; candidate and score are what validation data chose."
    columns = ("method", "score", "curve", *(f"within {points:g}" for points in WITHIN))
    return Table("summaries", "In a few numbers", text, columns, rows)


def candidate_table(found: "Evidence") -> Table:
    """The grid that was chosen from."""
    data = candidate_rows(found)
    rows = []
    for row in data:
        mean = f"{100 * row['mean']:.2f}" if "mean" in row else "not measured"
        what = [row["method"], row["candidate"] or "-", short(row["score"])]
        rows.append([*what, mean, "chosen" if row["chosen"] else ""])
    text = (
        "Mean over the curve on validation data, and over the seeds that all candidates of a "
        "method have; the best of each method was taken."
    )
    columns = ("method", "candidate", "score", "validation, %", "")
    return Table("candidates", "The grid of candidates", text, columns, rows, data)


def setting_table(found: "Evidence") -> Table:
    """What differs in the options of the methods, and nothing else."""
    chosen: dict[str, dict[str, str]] = {}
    for method in found.study.taken:
        for run in found.runs_of(method)[:1]:
            if Label.parse(method).method not in found.trains:
                flat = flatten(run.fit).items()
                # what is measured of it stands among the candidates, and seeds are those of all
                alike = ("seed", "_everything", "prune.scores")
                chosen[method] = {k: v for k, v in flat if not k.endswith(alike)}
    names = [*dict.fromkeys(key for options in chosen.values() for key in options)]
    differing = [n for n in names if len({options.get(n, "") for options in chosen.values()}) > 1]
    title, text = "Settings that differ", "All else is the same for every method."
    if not any(chosen.values()):
        return Table("settings", title, "Not known: the folders of the runs are not there.")
    if not differing:
        return Table(
            "settings", title, "No option differs: methods differ in how neurons are ranked."
        )
    rows = [[m, n, o[n]] for m, o in chosen.items() for n in differing if n in o]
    return Table("settings", title, text, ("method", "option", "value"), rows)


def effort_table(found: "Evidence") -> Table:
    """What each method cost to find."""
    data = effort_rows(found)
    title = "What it took"
    if not data:
        text = "Not known: no run recorded its time. Runs do since this version of ewnprune."
        return Table("effort", title, text)
    rows = []
    for row in data:
        shared = f" (those of {row['trains']})" if row["trains"] else ""
        trials = f"{row['candidates']} x {row['scores']}"
        cells = [row["method"], f"{row['runs']}{shared}", trials, str(row["epochs"] or "not known")]
        rows.append([*cells, f"{row['seconds']:,.0f}"])
    text = "Over all seeds. Trials are candidates, each trained, times scores, which cost no "
    text += "training. Seconds are those of the attempt that ended a run's training, and of all "
    text += "measuring."
    columns = ("method", "runs", "trials", "epochs", "seconds")
    return Table("effort", title, text, columns, rows, data)


def layer_table(found: "Evidence") -> Table:
    """Which layers narrow; methods that leave the same are one."""
    data, title = layer_rows(found), "Neurons left of each layer"
    if not data:
        text = (
            "Not recorded: runs of older versions, or of which costs, inputs or a pruned network "
            "were measured. To have it, run the study anew in another --folder."
        )
        return Table("layers", title, text)
    levels = sorted({row["sparsity"] for row in data})
    tables: dict[tuple[Any, ...], list[str]] = {}
    for method in dict.fromkeys(row["method"] for row in data):
        of = [row for row in data if row["method"] == method]
        lines = []
        for layer, total in dict.fromkeys((row["layer"], row["total"]) for row in of):
            left = {r["sparsity"]: r["left"] for r in of if r["layer"] == layer}
            cells = (f"{left[level]:.4g}" if level in left else "-" for level in levels if level)
            lines.append((layer, str(total), *cells))
        tables.setdefault(tuple(lines), []).append(method)
    rows = [[", ".join(who), *line] for lines, who in tables.items() for line in lines]
    columns = ("method", "layer", "whole", *(f"at {100 * x:g} %" for x in levels if x))
    return Table("layers", title, "Mean over seeds.", columns, rows, data)


def class_table(found: "Evidence") -> Table:
    """Accuracy of each class, whole and pruned."""
    data, title = class_rows(found), "Accuracy of each class, whole and pruned"
    level = class_level(data)
    if level is None:
        text = (
            "Not recorded: runs of older versions, without test data, or of another task than "
            "classification. To have it, run the study anew in another --folder."
        )
        return Table("class_accuracy", title, text)
    lost = losses(data, level)
    means = {(row["method"], row["class"], row["sparsity"]): row["mean"] for row in data}
    methods = list(dict.fromkeys(method for method, _ in lost))
    order = forgotten_first(lost)
    rows = []
    for name in order[:CLASSES_SHOWN]:
        cells = []
        for method in methods:
            values = (means.get((method, name, at)) for at in (0.0, level))
            cells.append(" → ".join("-" if v is None else f"{100 * v:.1f}" for v in values))
        rows.append([name, *cells])
    text = f"In %, whole → {100 * level:g} % removed, mean over seeds; "
    text += "first the classes that lose most."
    if len(order) > CLASSES_SHOWN:
        text += f" {CLASSES_SHOWN} of {len(order)} classes; the file has all."
    return Table("class_accuracy", title, text, ("class", *methods), rows, data)


TABLES: Sequence[Callable[["Evidence"], Table]] = (
    difference_table,
    summary_table,
    candidate_table,
    setting_table,
    effort_table,
    layer_table,
    class_table,
)
