"""MNIST in small: 2,000 training images, 4,000 test images, 256 hidden neurons.

Enough to see when EWN starts to concentrate its norm on few neurons: not yet at log L = -10, in
part at -100, and at -300 so much that most neurons can go.
"""

from pathlib import Path
from typing import Any

from matplotlib.figure import Figure
from tqdm import tqdm

from ewnprune.experiments.descent import COLORS, METHODS, Method
from ewnprune.experiments.mnist_digits import Digits, load_digits
from ewnprune.experiments.mnist_runs import run_folder, tables
from ewnprune.experiments.mnist_train import train
from ewnprune.experiments.verdict import Criterion, above, below, write_csv, write_figure

_HIDDEN = 256


def run(
    out: Path, seeds: int = 1, deep: bool = False, data_dir: str | None = None
) -> list[Criterion]:
    """Run the experiment, to log L = -100 or, if deep, to -300 without SWN, the slowest.

    Writes ``depths.csv``, ``prune.csv``, ``epochs.csv`` and the figure.
    """
    # 6,000 of the images that full MNIST keeps for testing, in the order of the file
    _, images = load_digits(data_dir)
    data = Digits(images.x[:2000], images.y[:2000])
    test = Digits(images.x[2000:6000], images.y[2000:6000])
    depths = {m: (10, 100, 300) if deep and m != "SWN" else (10, 100) for m in METHODS}
    numbers = range(seeds)
    total = seeds * sum(levels[-1] for levels in depths.values())
    with tqdm(total=total, desc="mnist-small", unit="nat", leave=False) as bar:
        for seed in numbers:
            for method in METHODS:
                folder = run_folder(out, method, seed)
                train(method, seed, data, _HIDDEN, depths[method], folder, bar)
    runs = [(method, seed) for method in METHODS for seed in numbers]
    levels, curves, epochs = tables(out, runs, depths, test)
    write_csv(out / "depths.csv", levels)
    write_csv(out / "prune.csv", curves)
    write_csv(out / "epochs.csv", epochs)
    write_figure(out, _figure(epochs, curves))
    return _judge(levels, curves, deep)


def _judge(
    levels: list[dict[str, Any]], curves: list[dict[str, Any]], deep: bool
) -> list[Criterion]:
    def fractions(method: Method, depth: int) -> list[float]:
        wanted = {"method": method, "depth": depth}
        return [row["effective_fraction"] for row in levels if wanted.items() <= row.items()]

    name = "effective neurons, fraction"
    criteria = [
        below("N1", f"EWN at -100: {name}", max(fractions("EWN", 100)), 0.65),
        above("N1", f"SWN at -100: {name}", min(fractions("SWN", 100)), 0.92),
        above("N1", f"none at -100: {name}", min(fractions("none", 100)), 0.88),
    ]
    if deep:
        criteria.append(below("N2", f"EWN at -300: {name}", max(fractions("EWN", 300)), 0.12))
        for percent, bound in ((80, 0.04), (90, 0.12)):
            mean = {}
            for method in ("EWN", "none"):
                wanted = {"method": method, "depth": 300, "criterion": "norm", "pruned": percent}
                found = [r["test_acc"] for r in curves if wanted.items() <= r.items()]
                mean[method] = sum(found) / len(found)
            what = f"EWN minus none at -300: accuracy with {percent} % removed by norm"
            criteria.append(above("N2", what, mean["EWN"] - mean["none"], bound))
    return criteria + [
        above("N3", f"{method} at -10: {name}", min(fractions(method, 10)), 0.98)
        for method in METHODS
    ]


def _figure(epochs: list[dict[str, Any]], curves: list[dict[str, Any]]) -> Figure:
    figure = Figure(figsize=(5.2, 7.4), layout="constrained")  # one above the other, for phones
    top, bottom = figure.subplots(2)
    deepest = {m: max(r["depth"] for r in curves if r["method"] == m) for m in METHODS}
    shown = min(deepest["EWN"], deepest["none"])
    for method in METHODS:
        path = [r for r in epochs if r["method"] == method and r["seed"] == 0 and r["accepted"]]
        top.plot(
            [-r["log_loss"] for r in path], [r["effective_fraction"] for r in path],
            color=COLORS[method], label=method,
        )  # fmt: skip
        for depth, style in ((10, ":"), (shown, "-")):
            wanted = {"method": method, "seed": 0, "depth": depth, "criterion": "norm"}
            chosen = [r for r in curves if wanted.items() <= r.items()]
            if chosen:
                bottom.plot(
                    [r["pruned"] for r in chosen], [100 * r["test_acc"] for r in chosen], style,
                    color=COLORS[method], label=f"{method}, $\\log L = -{depth}$",
                )  # fmt: skip
    top.set(xlabel=r"$-\log L$", ylabel="effective neurons, fraction", ylim=(0, 1.02))
    top.set(xlim=(0, None))
    bottom.set(xlabel="hidden neurons removed by norm (%)", ylabel="test accuracy (%)")
    top.legend()
    bottom.legend(fontsize="small")
    return figure
