"""Pruning ResNet-20 on CIFAR-10, trained plainly and to be pruned. One seed: a lead, no result.

Each method trains once, and is then pruned one-shot by three scores, with the running statistics of
the whole network and with statistics estimated anew on 10 training batches; accuracy on every
fifth test image, 200 of each class. Levels are fractions of each group's filters. Of the plain
network there is a curve per group of layers as well, on every tenth test image, and its heat map.

    python -m benchmarks.resnet20 --epochs 2 --data_dir ...

adds to ``benchmarks/resnet20.csv`` the methods that are not in it yet, so that it can be stopped
and started again; ``--table`` only shows the file.
"""

import argparse
from collections.abc import Callable, Iterable
from itertools import islice
from pathlib import Path
from time import process_time
from typing import cast

import pytorch_lightning as pl
import torch
from torch import nn

from benchmarks.machine import describe
from ewnprune import EWN, AlphaLearningRate, NestedTraining, plot_heat_map, sparsity_curve
from ewnprune.callback import WeightNormPruning
from ewnprune.curve.curve import Curve
from ewnprune.curve.files import read_curve, write_curve
from lightning_modules import CIFAR10DataModule, Classifier, ImageLoader, ResNet20

FILE = Path(__file__).with_suffix(".csv")
FIGURES = Path(__file__).parents[1] / "docs" / "figures"
LEVELS = (0.0, 0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9)
ALONE = (0.0, 0.1, 0.3, 0.5, 0.7, 0.9)
SCORES = ("raw_norm", "norm", "norm_product")
BATCHES = 10


def _nested() -> NestedTraining:
    return NestedTraining(0.5, (0.3, 0.5, 0.7), score="norm_product")


METHODS: dict[str, Callable[[], list[pl.Callback]]] = {
    "plain": lambda: [WeightNormPruning(None, (0,))],
    "EWN of BatchNorm, nested": lambda: [
        AlphaLearningRate(10),
        _nested(),
        WeightNormPruning(EWN(batchnorm=True), (0,)),
    ],
    "plain, nested": lambda: [_nested(), WeightNormPruning(None, (0,))],
}


def _sgd(parameters: Iterable[nn.Parameter]) -> torch.optim.Optimizer:
    """SGD with decay of weights alone: that of ``alpha`` would pull every scale towards 1."""
    every = list(parameters)
    weights, others = ([p for p in every if (p.dim() > 1) == many] for many in (True, False))
    groups = [{"params": weights, "weight_decay": 5e-4}, {"params": others}]
    return torch.optim.SGD(groups, lr=0.1, momentum=0.9)


def train(method: str, epochs: int, data: CIFAR10DataModule) -> nn.Module:
    """A trained network, plain; all training images, none held out."""
    pl.seed_everything(data.seed, verbose=False)
    # channels last, and bfloat16 for the products: half of the time on a processor that has it
    network = ResNet20().to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    model = Classifier(network, _sgd)
    trainer = pl.Trainer(
        max_epochs=epochs, accelerator="cpu", precision="bf16-mixed", logger=False,
        enable_progress_bar=False, enable_model_summary=False, enable_checkpointing=False,
        limit_val_batches=0, num_sanity_val_steps=0, callbacks=METHODS[method](),
    )  # fmt: skip
    trainer.fit(model, datamodule=data)
    return network


def every(step: int, data: CIFAR10DataModule) -> ImageLoader:
    """One in so many test images, of all classes: they lie in the order of those."""
    whole = data.test_dataloader()
    labels = cast(torch.Tensor, whole.labels)[::step]
    return ImageLoader(whole.images[::step], labels, data.batch_size, mean=data.mean, std=data.std)


def curves(model: nn.Module, method: str, data: CIFAR10DataModule) -> Curve:
    """The curves of one trained network, on test data."""
    training = list(islice(data.train_dataloader(), BATCHES))
    found = Curve()
    for recalibrate in (None, training):
        curve = sparsity_curve(
            model, every(5, data), LEVELS, SCORES, recalibrate=recalibrate, seed=data.seed
        )
        how = "old statistics" if recalibrate is None else "own statistics"
        found = found + curve.tagged(method=f"{method}, {how}", split="test")
    return found


def sensitivity(model: nn.Module, data: CIFAR10DataModule) -> Curve:
    """What pruning each group alone costs the plain network, with statistics of its own."""
    training = list(islice(data.train_dataloader(), BATCHES // 2))
    curve = sparsity_curve(
        model, every(10, data), ALONE, "norm_product", per_layer=True, recalibrate=training,
        seed=data.seed,
    )  # fmt: skip
    return curve.tagged(method="plain", split="test")


def draw(curve: Curve) -> None:
    """The heat map of the sensitivity, beside its CSV."""
    place = FIGURES / "resnet20_sensitivity"
    title = (
        "ResNet-20 on CIFAR-10, trained plainly: what pruning one group of filters alone costs\n"
        "(conv, stage2.0.conv2 and stage3.0.conv2 stand for all filters that a stage adds up)"
    )
    plot_heat_map(curve, place.with_suffix(".png"), place.with_suffix(".svg"), title=title)


def show(curve: Curve) -> None:
    """Print a table in Markdown."""
    print("Test accuracy, %, one seed\n")
    print("| training | score | statistics |", *(f"{100 * lv:g} % |" for lv in LEVELS))
    print("| --- | --- | --- |", *("--- |" for _ in LEVELS))
    for method in dict.fromkeys(point.method for point in curve):
        training, _, statistics = method.rpartition(", ")
        for score in SCORES:
            points = curve.where(method=method, score=score).points
            cells = [f"{100 * point.measure():.1f} |" for point in points]
            print(f"| {training} | `{score}` | {statistics.split()[0]} |", *cells)
    points = curve.where(method=curve.points[0].method, score=SCORES[0]).points
    print("| MACs left, million | | |", *(f"{point.macs.left / 1e6:.1f} |" for point in points))


def main() -> None:
    """Run what the command line asks for."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--epochs", type=int, default=2)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--methods", nargs="+", choices=list(METHODS), default=list(METHODS))
    parser.add_argument("--data_dir", help="see CIFAR10DataModule")
    parser.add_argument("--output", type=Path, default=FILE)
    parser.add_argument("--table", action="store_true", help="show what was measured before")
    args = parser.parse_args()
    found = read_curve(args.output) if args.output.exists() else Curve()
    known = {point.method.rpartition(", ")[0] for point in found}
    data = CIFAR10DataModule(args.data_dir, val_size=0, seed=args.seed)
    for method in [] if args.table else args.methods:
        if method in known:
            continue
        started = process_time()
        model = train(method, args.epochs, data)
        trained = process_time()
        found = found + curves(model, method, data)
        write_curve(found, args.output)
        if method == "plain":
            curve = sensitivity(model, data)
            write_curve(curve, FIGURES / "resnet20_sensitivity.csv")
            draw(curve)
        spent = f"{trained - started:.0f} s to train, {process_time() - trained:.0f} s to prune"
        print(f"{method}: {spent}, CPU time", describe(), sep="\n", flush=True)
    if not found.points:
        parser.error(f"nothing is measured in {args.output} yet: leave out --table")
    show(found)


if __name__ == "__main__":
    main()
