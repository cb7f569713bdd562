"""How many pixels of MNIST a network needs: accuracy against the pixels that it reads.

    python -m benchmarks.pixels            # trains 3 seeds of each method for 2 epochs
    python -m benchmarks.pixels --table    # shows the file that it wrote

784-300-100-10, trained plain, under EWN, by the recipe of docs/recipe.md, and with a length for
each pixel in the first layer, the others plain: SWN's (``SWN(dim=1)``), or the gates of
``EWN(inputs=True)`` at ten times the rate, without and with a log-norm penalty; one thread. Pixels
go by the norm of the weights that read them times their standard deviation over 20 training
batches, or at random; to the network one that went is 0 (the mean grey of MNIST), or is replaced by
its own mean over a training batch (repaired). Writes ``docs/figures/pixels.csv``, in which methods
not run stay as they were, and a figure of the pixels that networks of the first seed read.
"""

import argparse
from functools import partial
from itertools import islice
from pathlib import Path
from statistics import mean

import pytorch_lightning as pl
import torch
from matplotlib.figure import Figure
from torch import nn

from benchmarks.machine import describe
from ewnprune import (
    EWN,
    SWN,
    AlphaLearningRate,
    Curve,
    LogNormPenalty,
    NestedTraining,
    WeightNormPruning,
    read_curve,
    remove_with_notes,
    sparsity_curve,
    write_curve,
)
from ewnprune.drawing import save_figure
from ewnprune.export.features import show_features
from lightning_modules import MLP, Classifier, MNISTDataModule

OUT = Path(__file__).parent.parent / "docs" / "figures"
PIXELS = (784, 500, 400, 300, 200, 150, 100, 70, 50, 30)
SHOWN = (200, 100, 50)
METHODS = ("plain", "EWN", "recipe", "SWN of pixels", "gates", "gates, 1e-3", "gates, 2e-3")
_LEVELS = [1 - pixels / 784 for pixels in PIXELS]


def train(method: str, epochs: int, seed: int, data: MNISTDataModule) -> nn.Module:
    """A trained network, plain again."""
    pl.seed_everything(seed, verbose=False)
    network = MLP(hidden=(300, 100))
    model = Classifier(network)
    callbacks = [] if method == "plain" else [WeightNormPruning(EWN(), (0,))]
    if method == "SWN of pixels":
        callbacks = [WeightNormPruning(SWN(dim=1), (0,), layers="*.fc1")]
    if method.startswith("gates"):
        gates = WeightNormPruning(EWN(inputs=True), (0,), layers="*.fc1")
        strength = float(method.partition(", ")[2] or 0)
        penalty = LogNormPenalty(strength, until=0.8)
        callbacks = [AlphaLearningRate(rate=10), penalty, gates]
    if method == "recipe":
        model = Classifier(network, optimizer=partial(torch.optim.SGD, lr=0.2, momentum=0.9))
        nested = NestedTraining(share=0.5, sparsities=(0.9, 0.945, 0.95, 0.98))
        penalty = LogNormPenalty(strength=7e-5, until=0.8)
        callbacks = [AlphaLearningRate(rate=10), nested, penalty, *callbacks]
    trainer = pl.Trainer(
        max_epochs=epochs, accelerator="cpu", logger=False, enable_progress_bar=False,
        enable_model_summary=False, enable_checkpointing=False, callbacks=callbacks,
        limit_val_batches=0,
    )  # fmt: skip
    trainer.fit(model, datamodule=data)
    return network


def run(epochs: int, seeds: list[int], methods: list[str]) -> tuple[Curve, Figure]:
    """All curves, on test data, and the pixels that networks of the first seed read."""
    curve = Curve()
    figure = Figure(figsize=(2.1 * len(SHOWN), 2.25 * len(methods)), dpi=150, layout="constrained")
    panels = figure.subplots(len(methods), len(SHOWN), squeeze=False)
    for seed in seeds:
        for row, method in enumerate(methods):
            data = MNISTDataModule(seed=seed)
            network = train(method, epochs, seed, data)
            # test images are for the evaluation only
            training = list(islice(data.train_dataloader(), 20))
            for scores, realize, name in (
                (["norm", "random"], "mask", method),
                (["norm"], "repair", f"{method}, repaired"),
            ):
                curve += sparsity_curve(
                    network, data.test_dataloader(), _LEVELS, scores, inputs=True,
                    realize=realize, recalibrate=training, example_input=training[0][0],
                    method=name, seed=seed, latency_seconds=0.01,
                )  # fmt: skip
            if seed != seeds[0]:
                continue
            for axes, left in zip(panels[row], SHOWN, strict=True):
                removed = remove_with_notes(
                    network, 1 - left / 784, training[0][0][:1], inputs=True, recalibrate=training
                )
                assert removed.inputs is not None
                show_features(axes, removed.inputs)
                axes.set_title(f"{method}, {left} pixels", loc="left", fontsize=9, color="0.3")
    return curve, figure


def table(curve: Curve) -> str:
    """Mean over seeds, and how far they are apart, as Markdown."""
    lines = ["| method | pixels go | " + " | ".join(map(str, PIXELS)) + " |"]
    lines.append("| --- | --- |" + " --- |" * len(PIXELS))
    for method in dict.fromkeys(point.method for point in curve):
        for score in dict.fromkeys(point.score for point in curve.where(method=method)):
            cells = []
            for left in PIXELS:
                points = curve.where(method=method, score=score)
                values = [100 * p.measure() for p in points if p.inputs and p.inputs.left == left]
                cells.append(f"{mean(values):.1f} ({max(values) - min(values):.1f})")
            how = "at random" if score == "random" else "by norm x deviation"
            lines.append(f"| {method} | {how} | {' | '.join(cells)} |")
    return "\n".join(lines)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--epochs", type=int, default=2)
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--methods", nargs="+", choices=METHODS, default=list(METHODS))
    parser.add_argument("--figure", default="pixels.png")
    parser.add_argument("--table", action="store_true", help="only show the file")
    options = parser.parse_args()
    torch.set_num_threads(1)
    file = OUT / "pixels.csv"
    if not options.table:
        curve, figure = run(options.epochs, options.seeds, options.methods)
        known = read_curve(file) if file.exists() else Curve()
        again = {point.method for point in curve}
        kept = [part for part in dict.fromkeys(p.method for p in known) if part not in again]
        for method in reversed(kept):
            curve = known.where(method=method) + curve
        write_curve(curve, file)
        save_figure(figure, OUT / options.figure)
        print(describe())
    print(table(read_curve(file)))
