"""Methods for networks with BatchNorms, on the CNN of `benchmarks.control`, tuned as its arms are.

    python -m benchmarks.kin_cnn

Group-HS, Network Slimming, and Torch-Pruning's sparse learning with its own ranking, none nested:
each has twelve trials of learning rate and strength with seed 100, judged by the mean of the
validation accuracies at all levels, of the best of its scores; then seeds 0 to 4 with what was
chosen, on test data. Data, epochs, levels, and how a pruned network gets its statistics, are the
control's, whose arms on plain layers are in the tables too. ``--table`` only shows the file, which
is written as it goes: what is there is not run again.
"""

import argparse
import copy
import io
from collections.abc import Callable, Iterator
from contextlib import redirect_stdout
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytorch_lightning as pl
from torch import nn
from torch.optim.swa_utils import update_bn

from benchmarks.control import (
    DATA,
    SCORES,
    SEEDS,
    TUNING_SEED,
    batches_for_statistics,
    fit,
)
from benchmarks.control_arms import RATE, trials
from benchmarks.control_table import chosen as chosen_arm
from benchmarks.depgraph import SparseLearning, accuracy, make_pruner
from benchmarks.intervals import differences, means
from benchmarks.machine import describe, one_quiet_thread
from benchmarks.resnet20 import score_by_scale
from benchmarks.rows import have
from ewnprune import GroupHS, NetworkSlimming, sparsity_curve
from ewnprune.files import read_rows
from lightning_modules import MNISTDataModule

FILE = Path(__file__).with_suffix(".csv")
OF = DATA["cnn"]
LIBRARY = "Torch-Pruning"
METHODS: dict[str, tuple[Callable[[float], pl.Callback], tuple[float, float]]] = {
    "Group-HS": (GroupHS, (1e-3, 1.0)),
    "Network Slimming": (NetworkSlimming, (1e-4, 3e-2)),
    LIBRARY: (SparseLearning, (1e-4, 3e-2)),
}
"""By its callback and the strengths between which it is searched."""
BESIDE = {
    "plain training": ("plain", "False", "none"),
    "group lasso": ("plain", "False", "group lasso"),
    "nested training": ("plain", "True", "none"),
}
"""Arms of the control."""

Row = dict[str, Any]


def run(method: str, setting: dict[str, float], seed: int, split: str) -> Iterator[Row]:
    """Train one network, and measure it on validation or test data, by each of its scores."""
    callback = METHODS[method][0](setting["strength"])
    with redirect_stdout(io.StringIO()):
        model, data, seconds = fit(OF, [callback], setting["rate"], seed, OF.epochs)
    key = {"method": method, "split": split, "seed": seed, **setting}
    for score, rates in _measured(method, model.network, data, split):
        shown = {f"{level:g}": f"{100 * r:.2f}" for level, r in zip(OF.levels, rates, strict=True)}
        row = key | {"score": score} | shown | {"cpu_seconds": f"{seconds:.1f}"}
        yield {name: str(value) for name, value in row.items()}


def _measured(
    method: str, network: nn.Module, data: MNISTDataModule, split: str
) -> Iterator[tuple[str, list[float]]]:
    loader = data.val_dataloader() if split == "val" else data.test_dataloader()
    statistics = batches_for_statistics(data)
    if method == LIBRARY:
        smaller = [_pruned_by_library(network, level, statistics) for level in OF.levels]
        yield "its own", [accuracy(each, loader) for each in smaller]
        return
    own = score_by_scale(network) if method == "Network Slimming" else "raw_norm"
    curve = sparsity_curve(network, loader, OF.levels, [*SCORES, own], recalibrate=statistics)
    for score in dict.fromkeys(point.score for point in curve):
        yield score, [point.measure() for point in curve if point.score == score]


def _pruned_by_library(network: nn.Module, level: float, statistics: list[Any]) -> nn.Module:
    smaller = copy.deepcopy(network)
    if level:
        make_pruner(smaller, pruning_ratio=level).step()
        update_bn(statistics, smaller)
    return smaller


def chosen(rows: list[Row], method: str) -> Row:
    """The row of the best trial of a method."""
    tried = [row for row in rows if row["method"] == method and row["split"] == "val"]
    return max(tried, key=lambda row: np.mean(_rates(row)))


def _rates(row: Row) -> list[float]:
    return [float(row[f"{level:g}"]) for level in OF.levels]


def study(methods: list[str]) -> None:
    """Tune methods and measure what was chosen; what is in the file is not run again."""
    for method in methods:
        strengths = METHODS[method][1]
        for setting in trials({"rate": RATE, "strength": strengths}):
            _have(method, setting, TUNING_SEED, "val")
        best = chosen(read_rows(FILE), method)
        for seed in SEEDS:
            setting = {name: float(best[name]) for name in ("rate", "strength")}
            _have(method, setting, seed, "test")


def _have(method: str, setting: dict[str, float], seed: int, split: str) -> None:
    key = {"method": method, "split": split, "seed": seed, **setting}
    have(FILE, key, partial(run, method, setting, seed, split))


def show(rows: list[Row]) -> None:
    """Print the means over seeds, and differences in pairs, in Markdown."""
    control, curves = read_rows(FILE.with_name("control_cnn.csv")), {}
    levels = "".join(f" {100 * level:g} % |" for level in OF.levels)
    print(f"| training | chosen | score |{levels}\n| --- | --- | --- |" + " --- |" * len(OF.levels))
    for name, arm in BESIDE.items():
        best, score, curves[name] = chosen_arm(control, None, arm, OF.levels, SCORES)
        _line(name, best, score, curves[name])
    measured = [m for m in METHODS if any(r["method"] == m and r["split"] == "test" for r in rows)]
    for method in measured:
        best = chosen(rows, method)
        same = ("method", "rate", "strength", "score")
        of = [row for row in rows if all(row[key] == best[key] for key in same)]
        found = np.array([_rates(row) for row in of if row["split"] == "test"])
        _line(method, best, best["score"], found)
        curves[method] = found
    print(f"\n| difference |{levels}\n| --- |" + " --- |" * len(OF.levels))
    for method in measured:
        for name in BESIDE:
            cells = differences(curves[method], curves[name], digits=1)
            print(f"| {method} less {name} |", *(f"{cell} |" for cell in cells))


def _line(name: str, best: Row, score: str, found: np.ndarray) -> None:
    setting = ", ".join(f"{key} {best[key]}" for key in ("rate", "strength") if best[key])
    cells = [f"{cell} |" for cell in means(found)]
    print(f"| {name} | {setting} | `{score}` |", *cells)


def main() -> None:
    """Run what the command line asks for."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--methods", nargs="+", choices=list(METHODS), default=list(METHODS))
    parser.add_argument("--table", action="store_true", help="show what was measured before")
    args = parser.parse_args()
    if not args.table:
        one_quiet_thread()
        study(args.methods)
        print(describe())
    show(read_rows(FILE))


if __name__ == "__main__":
    main()
