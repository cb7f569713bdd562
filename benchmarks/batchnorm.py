"""Pruning a CNN with BatchNorm: with and without statistics of its own, and by which norm.

The network of ``configs/mnist_cnn_prunable.yaml``, 16 and 32 filters, trained on MNIST in several
ways and pruned one-shot. Each trained network has four curves on the test data: filters go by their
own norm (``raw_norm``) or with the BatchNorm folded in (``norm``, and times the outgoing norm,
``norm_product``), and the running statistics of the pruned networks are those of the whole one or
are estimated anew on 20 training batches.

    python -m benchmarks.batchnorm --epochs 2 --seeds 0 1 2

writes ``benchmarks/batchnorm.csv`` as it goes; ``--table`` only shows the file. With ``--fashion``
it is Fashion-MNIST; give it a file of its own, ``--output benchmarks/batchnorm_fashion.csv``.
"""

import argparse
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from itertools import islice
from pathlib import Path

import numpy as np
import pytorch_lightning as pl

from benchmarks.machine import describe
from ewnprune import (
    EWN,
    SWN,
    AlphaLearningRate,
    LogNormPenalty,
    NestedTraining,
    NetworkSlimming,
    sparsity_curve,
)
from ewnprune.callback import WeightNormPruning
from ewnprune.curve.curve import Curve
from ewnprune.curve.files import read_curve, write_curve
from ewnprune.training.parametrizations import NeuronParametrization
from lightning_modules import CNN, Classifier, MNISTDataModule

FILE = Path(__file__).with_suffix(".csv")
LEVELS = (0.0, 0.5, 0.7, 0.8, 0.9)
SCORES = ("raw_norm", "norm", "norm_product")
BATCHES = 20


@dataclass(frozen=True)
class Method:
    """How to train.

    Attributes:
        parametrization: what the callback attaches.
        callbacks: makes the callbacks beside it.
    """

    parametrization: NeuronParametrization | None = None
    callbacks: Callable[[], list[pl.Callback]] = field(default=list)


def _nested() -> NestedTraining:
    return NestedTraining(0.5, (0.5, 0.8, 0.9), score="norm_product")


METHODS = {
    "plain": Method(),
    "SWN": Method(SWN()),
    "EWN on the filter": Method(EWN()),
    "L1 on gamma": Method(callbacks=lambda: [NetworkSlimming(3e-3)]),
    "EWN of BatchNorm, penalty": Method(
        EWN(batchnorm=True), lambda: [AlphaLearningRate(10), LogNormPenalty(1e-3, until=0.8)]
    ),
    "plain, nested": Method(callbacks=lambda: [_nested()]),
    "EWN of BatchNorm, nested": Method(
        EWN(batchnorm=True), lambda: [AlphaLearningRate(10), _nested()]
    ),
}


def train(
    method: str, epochs: int, seed: int, fashion: bool = False
) -> tuple[Classifier, MNISTDataModule]:
    """A trained network, plain, and its data."""
    pl.seed_everything(seed, verbose=False)
    data, model = MNISTDataModule(fashion=fashion, seed=seed, shift=1), Classifier(CNN())
    how = METHODS[method]
    pruning = WeightNormPruning(how.parametrization, (0,))
    trainer = pl.Trainer(
        max_epochs=epochs, accelerator="cpu", logger=False, enable_progress_bar=False,
        enable_model_summary=False, enable_checkpointing=False, limit_val_batches=0,
        callbacks=[*how.callbacks(), pruning],
    )  # fmt: skip
    trainer.fit(model, datamodule=data)
    return model, data


def curves(method: str, epochs: int, seed: int, fashion: bool = False) -> Iterator[Curve]:
    """The curves of one trained network, on the test data."""
    model, data = train(method, epochs, seed, fashion)
    training = list(islice(data.train_dataloader(), BATCHES))
    for recalibrate in (None, training):
        curve = sparsity_curve(
            model, data.test_dataloader(), LEVELS, SCORES, recalibrate=recalibrate, seed=seed
        )
        how = "old statistics" if recalibrate is None else "own statistics"
        yield curve.tagged(method=f"{method}, {how}", split="test")


def show(curve: Curve) -> None:
    """Print tables in Markdown: mean and standard deviation over the seeds."""
    seeds = sorted({point.seed for point in curve if point.seed is not None})
    print(f"Test accuracy, %, seeds {seeds}\n")
    print("| training | score | statistics | seeds |", *(f"{100 * lv:g} % |" for lv in LEVELS))
    print("| --- | --- | --- | --- |", *("--- |" for _ in LEVELS))
    for method in dict.fromkeys(point.method for point in curve):
        for score in SCORES:
            cells = []
            for level in LEVELS:
                points = curve.where(method=method, score=score, sparsity=level).points
                rates = np.array([100 * point.measure() for point in points])
                spread = f" ± {rates.std(ddof=1):.1f}" if len(rates) > 1 else ""
                cells.append(f"{rates.mean():.1f}{spread} |")
            training, _, statistics = method.rpartition(", ")
            print(f"| {training} | `{score}` | {statistics.split()[0]} | {len(rates)} |", *cells)


def main() -> None:
    """Run what the command line asks for."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--epochs", type=int, default=2)
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--methods", nargs="+", choices=list(METHODS), default=list(METHODS))
    parser.add_argument("--fashion", action="store_true", help="Fashion-MNIST in place of MNIST")
    parser.add_argument("--output", type=Path, help="by default that of the data")
    parser.add_argument("--table", action="store_true", help="show what was measured before")
    args = parser.parse_args()
    file = args.output or (FILE.with_stem(f"{FILE.stem}_fashion") if args.fashion else FILE)
    if not args.table and args.output is None and args.methods != list(METHODS):
        parser.error("some of the methods would replace the file of all: say --output")
    if not args.table:
        curve = Curve()
        for seed in args.seeds:
            for method in args.methods:
                for part in curves(method, args.epochs, seed, args.fashion):
                    curve = curve + part
                write_curve(curve, file)
        print(describe())
    show(read_curve(file))


if __name__ == "__main__":
    main()
