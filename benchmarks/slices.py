"""Train once, slice to any size: is a slice as good as a network of its size trained from scratch?

For each seed one network is trained (plain, SWN or EWN) and cut to each width by
`ewnprune.remove_neurons`, with and without the repair of means; a dense network of each width is
trained from scratch for the same number of epochs. All are evaluated on the test data once.

    python -m benchmarks.slices --network MLP --epochs 3 --seeds 0 1 2

writes ``docs/figures/slices_<data>_<network>.csv``. ``--time`` measures the latency of each size
anew, all sizes in turns so that a busy machine is so for all, and ``--table`` only shows the file:
it prints the table and draws accuracy against measured latency.
"""

import argparse
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import matplotlib as mpl
import numpy as np
import pytorch_lightning as pl
import torch
from matplotlib.figure import Figure
from matplotlib.ticker import LogLocator
from torch import nn

from ewnprune import EWN, SWN, sparsity_curve
from ewnprune.callback import WeightNormPruning
from ewnprune.curve.curve import Curve
from ewnprune.curve.files import read_curve, write_curve
from ewnprune.drawing import STYLE, line_styles, save_figure
from ewnprune.model.latency import measure_latency
from lightning_modules import CNN, MLP, Classifier, MNISTDataModule

FOLDER = Path(__file__).parent.parent / "docs" / "figures"
LEVELS = (0.0, 0.5, 0.8, 0.9, 0.95)
SCORE = "norm_product"
PARAMETRIZATIONS = {"plain": None, "SWN": SWN(), "EWN": EWN()}


def build(network: str, sparsity: float) -> nn.Module:
    """A network with the widths that removal at this level leaves."""
    if network == "MLP":
        return MLP(hidden=(1024 - round(sparsity * 1024),))
    return CNN(channels=[n - round(sparsity * n) for n in (16, 32)])


def train(network: nn.Module, data: MNISTDataModule, method: str, epochs: int, seed: int) -> None:
    """Train in place; the network comes back plain."""
    pl.seed_everything(seed, verbose=False)
    parametrization = PARAMETRIZATIONS[method]
    callback = [] if parametrization is None else [WeightNormPruning(parametrization, (0,))]
    trainer = pl.Trainer(
        max_epochs=epochs, accelerator="cpu", logger=False, enable_progress_bar=False,
        enable_model_summary=False, enable_checkpointing=False, callbacks=callback,
        limit_val_batches=0,
    )  # fmt: skip
    trainer.fit(Classifier(network), datamodule=data)


def run(network: str, fashion: bool, epochs: int, seed: int, methods: list[str]) -> Iterator[Curve]:
    """One curve for each way to come by networks of each size."""
    data = MNISTDataModule(fashion=fashion, seed=seed)
    for method in methods:
        pl.seed_everything(seed, verbose=False)
        trained = build(network, 0)
        train(trained, data, method, epochs, seed)
        # test images are for the evaluation only: what removal looks at is a training batch
        calibration = next(iter(data.train_dataloader()))[0]
        for name, realize in (("slice", "remove"), ("repaired slice", "repair")):
            yield sparsity_curve(
                trained,
                data.test_dataloader(),
                LEVELS,
                SCORE,
                realize=realize,
                example_input=calibration,
                method=f"{method}, {name}",
                seed=seed,
                latency_seconds=0.01,
            )
    points = []
    for level in LEVELS:
        pl.seed_everything(seed, verbose=False)
        scratch = build(network, level)
        train(scratch, data, "plain", epochs, seed)
        (point,) = sparsity_curve(
            scratch, data.test_dataloader(), (0,), method="from scratch", seed=seed
        )
        points.append(replace(point, sparsity=float(level), score=SCORE))
    yield Curve(tuple(points))


def timed(curve: Curve, network: str) -> Curve:
    """The curve with the measured latency of each size, for a batch of 128."""
    networks = {str(level): build(network, level).eval() for level in LEVELS}
    latencies = measure_latency(networks, torch.zeros(128, 1, 28, 28), seconds=1)
    milliseconds = {level: latencies[str(level)].milliseconds for level in LEVELS}
    points = [replace(p, metrics={"latency_ms": milliseconds[p.sparsity]}) for p in curve]
    return Curve(tuple(points))


def show(path: Path) -> None:
    """Print a table in Markdown, and draw accuracy against measured latency."""
    curve = read_curve(path)
    methods = list(dict.fromkeys(point.method for point in curve))
    print(f"{path.stem}, seeds {sorted({point.seed for point in curve})}\n")
    print("| neurons removed | parameters |", *(f"{m} |" for m in methods))
    print("| --- | --- |", *("--- |" for _ in methods))
    latency = {}
    for level in LEVELS:
        cells = []
        for method in methods:
            points = curve.where(method=method, sparsity=float(level)).points
            rates = np.array([100 * point.measure() for point in points])
            spread = f" ± {rates.std(ddof=1):.2f}" if len(rates) > 1 else ""
            cells.append(f"{rates.mean():.2f}{spread} |")
            times = [p.metrics["latency_ms"] for p in points if "latency_ms" in p.metrics]
            if times:
                latency.setdefault(method, []).append(
                    (np.median(times), rates.mean(), rates.std(ddof=1))
                )
        small = curve.where(method=methods[0], sparsity=float(level)).points[0]
        print(f"| {100 * level:g} % | {small.parameters.left:,} |", *cells)
    draw(latency, path.with_suffix(".png"))


def draw(latency: dict[str, list[tuple[float, float, float]]], path: Path) -> None:
    """Draw each method's accuracy against milliseconds, with the standard deviation over seeds."""
    with mpl.rc_context(STYLE):
        figure = Figure(figsize=(6.5, 5), layout="constrained")
        axes = figure.add_subplot()
        for (method, rows), style in zip(latency.items(), line_styles([*latency]), strict=True):
            times, means, deviations = zip(*rows, strict=True)
            axes.errorbar(
                times, means, deviations, marker="o", lw=2, capsize=4, elinewidth=1.2,
                label=method, **style,
            )  # fmt: skip
        axes.set(xlabel="ms for 128 images, one thread, log scale", ylabel="test accuracy (%)")
        axes.set(xscale="log", ylim=(None, 102))
        axes.xaxis.set_major_locator(LogLocator(10, (1, 2, 5)))
        axes.xaxis.set_major_formatter("{x:g}")
        axes.xaxis.set_minor_formatter("")
        axes.legend(loc="lower right")
        save_figure(figure, path, dpi=130)


def main() -> None:
    """Run what the command line asks for."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--network", choices=("MLP", "CNN"), default="MLP")
    parser.add_argument("--fashion", action="store_true")
    parser.add_argument("--epochs", type=int, default=3)
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--methods", nargs="+", choices=list(PARAMETRIZATIONS), default=["EWN"])
    parser.add_argument("--time", action="store_true", help="measure the latencies anew")
    parser.add_argument("--table", action="store_true", help="show what was measured before")
    args = parser.parse_args()
    torch.set_num_threads(1)
    name = f"slices_{'fashion' if args.fashion else 'mnist'}_{args.network.lower()}"
    path = FOLDER / f"{name}.csv"
    if args.time:
        write_curve(timed(read_curve(path), args.network), path)
    elif not args.table:
        curve = Curve()
        for seed in args.seeds:
            for part in run(args.network, args.fashion, args.epochs, seed, args.methods):
                curve = curve + part
            write_curve(timed(curve, args.network), path)
    show(path)


if __name__ == "__main__":
    main()
