"""MNIST: the paper's figure, by norm alone, and every other pruning criterion in its table.

The published curves take, in every run and at every level, the best of two to four criteria *on
test data*. They are in the table too, under a name that says so; the others choose nothing.
"""

from collections.abc import Sequence
from pathlib import Path
from statistics import fmean
from typing import Any

from matplotlib.figure import Figure
from tqdm import tqdm

from ewnprune.experiments.descent import COLORS, METHODS, Method
from ewnprune.experiments.mnist_digits import load_digits
from ewnprune.experiments.mnist_runs import run_folder, tables
from ewnprune.experiments.mnist_together import train_together
from ewnprune.experiments.mnist_train import train
from ewnprune.experiments.reference import read
from ewnprune.experiments.verdict import Criterion, above, below, write_csv, write_figure

DEPTHS = (10, 100, 300)
_HIDDEN = 1024


def run(
    out: Path,
    seeds: int = 2,
    depth: int = 10,
    methods: Sequence[Method] = METHODS,
    data_dir: str | None = None,
    device: str = "cpu",
) -> list[Criterion]:
    """Train every method with every seed until log L = -depth, and prune on the way.

    Runs that reached that depth are not repeated; others go on where they stopped. Writes
    ``depths.csv``, ``prune.csv``, ``difference.csv`` (from the authors' means), ``epochs.csv`` and
    the figure.
    """
    depths = [d for d in DEPTHS if d <= depth]
    data, test = load_digits(data_dir, device)
    runs = [(method, seed) for seed in range(seeds) for method in methods]
    with tqdm(total=depth * len(runs), desc="mnist", unit="nat", leave=False) as bar:
        wanted = [(method, seed, run_folder(out, method, seed)) for method, seed in runs]
        if data.x.is_cuda:
            train_together(wanted, data, _HIDDEN, depths, bar)
        else:
            for method, seed, folder in wanted:
                train(method, seed, data, _HIDDEN, depths, folder, bar)
    levels, curves, epochs = tables(out, runs, dict.fromkeys(methods, depths), test)
    means = _means(curves)
    write_csv(out / "depths.csv", levels)
    write_csv(out / "prune.csv", curves)
    write_csv(out / "difference.csv", means)
    write_csv(out / "epochs.csv", epochs)
    write_figure(out, _figure(means, depths, methods))
    return _judge(levels, means)


def _means(curves: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Mean over seeds beside the authors' mean over theirs, and the difference."""
    logged = {
        (r["method"], -int(r["loss_level"]), r["criterion"], int(r["pct_pruned"])): float(r["mean"])
        for r in read("mnist_prune_mean")
    }
    names = ("method", "depth", "criterion", "pruned")
    values: dict[tuple[Any, ...], list[float]] = {}
    for row in curves:
        values.setdefault(tuple(row[name] for name in names), []).append(row["test_acc"])
    return [
        dict(zip(names, key, strict=True))
        | {"mean": fmean(found), "authors": logged[key], "difference": fmean(found) - logged[key]}
        for key, found in values.items()
    ]


def _judge(levels: list[dict[str, Any]], means: list[dict[str, Any]]) -> list[Criterion]:
    """The rows of the acceptance table that these runs can speak to."""

    def accuracy(method: Method, depth: int) -> float | None:
        wanted = {"method": method, "depth": depth, "criterion": "norm", "pruned": 90}
        return next((row["mean"] for row in means if wanted.items() <= row.items()), None)

    def fractions(depth: int, *methods: Method) -> list[float]:
        return [
            row["effective_fraction"]
            for row in levels
            if row["depth"] == depth and row["method"] in methods
        ]

    criteria = []
    for id, depth in (("N4", 10), ("N6", 300)):
        ewn, none = accuracy("EWN", depth), accuracy("none", depth)
        if ewn is None or none is None:
            continue
        what = f"at -{depth}: accuracy with 90 % removed by norm"
        if id == "N4":
            criteria.append(above(id, f"none minus EWN {what}", none - ewn, 0.05))
        else:
            criteria.append(above(id, f"EWN minus none {what}", ewn - none, 0.10))
            criteria.append(above(id, f"EWN {what}", ewn, 0.90))
    for id, depth, bound in (("N5", 100, 0.3), ("N6", 300, 0.04)):
        if found := fractions(depth, "EWN"):
            what = f"EWN at -{depth}: effective neurons, fraction, largest of {len(found)} runs"
            criteria.append(below(id, what, max(found), bound))
    if found := fractions(100, "SWN", "none"):
        what = f"SWN, none at -100: effective neurons, fraction, smallest of {len(found)} runs"
        criteria.append(above("N5", what, min(found), 0.85))
    return criteria


def _figure(
    means: list[dict[str, Any]], depths: Sequence[int], methods: Sequence[Method]
) -> Figure:
    """Pruning by norm, a panel for each depth below the other: readable on a phone."""
    figure = Figure(figsize=(4.8, 2.6 * len(depths)), layout="constrained")
    axes = figure.subplots(len(depths), squeeze=False, sharex=True, sharey=True)[:, 0]
    for ax, depth in zip(axes, depths, strict=True):
        for method in methods:
            wanted = {"method": method, "depth": depth, "criterion": "norm"}
            found = [r for r in means if wanted.items() <= r.items()]
            pruned = [r["pruned"] for r in found]
            ax.plot(pruned, [100 * r["mean"] for r in found], color=COLORS[method], label=method)
            ax.plot(pruned, [100 * r["authors"] for r in found], ":", color=COLORS[method])
        ax.set_title(f"log L = -{depth}", fontsize="medium")
        ax.set_ylabel("test accuracy (%)")
    axes[-1].set_xlabel("hidden neurons removed, smallest norms first (%)")
    axes[0].legend(title="dotted: the authors' runs", title_fontsize="small", fontsize="small")
    return figure
