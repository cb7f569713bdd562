"""Pruning ResNet-20 on CIFAR-10 without finetuning: accuracy against MACs, by method.

    python -m benchmarks.resnet20 --epochs 40 --data_dir ... --methods recipe

trains each method with one seed, on all 50,000 training images, and prunes the network one-shot:
levels are fractions of the whole network's MACs, every group of filters is cut by the same
fraction, and the pruned networks have statistics estimated anew on 20 training batches, which
trains no weight. One level leaves the MACs that NVIDIA ModelOpt's notebook has. Accuracy is that of
all 10,000 test images. Strengths were set beforehand and not tuned.

A method has a folder under ``--runs`` with a checkpoint of each epoch, where a training that was
stopped goes on, with another ``--accelerator`` too, and ``benchmarks/resnet20.csv`` is written as
it goes: what is there is not run again. Of the plain network of seed 0 there is a curve per group
of layers as well, on every tenth test image, and its heat map. ``--table`` only shows the file.
"""

import argparse
from collections.abc import Callable, Iterable, Sequence
from itertools import islice
from pathlib import Path
from time import process_time
from typing import cast

import pytorch_lightning as pl
import torch
from pytorch_lightning.callbacks import ModelCheckpoint
from torch import nn

from benchmarks.machine import describe
from benchmarks.resnet20_table import show
from ewnprune import (
    EWN,
    AlphaLearningRate,
    DGating,
    FactorDecay,
    GroupLasso,
    NestedTraining,
    NetworkSlimming,
    Neurons,
    plot_heat_map,
    sparsity_curve,
)
from ewnprune.callback import WeightNormPruning
from ewnprune.callback.progress import progress_bar
from ewnprune.curve.curve import Curve
from ewnprune.curve.files import read_curve, write_curve
from ewnprune.pruning.score_names import Score
from lightning_modules import CIFAR10DataModule, Classifier, ImageLoader, ResNet20

FILE = Path(__file__).with_suffix(".csv")
FIGURES = Path(__file__).parents[1] / "docs" / "figures"
LEFT = 59.2 / 81.2  # of the MACs, in https://github.com/NVIDIA/Model-Optimizer
LEVELS = (0.0, 0.1, 0.2, 1 - LEFT, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9)
ALONE = (0.0, 0.1, 0.3, 0.5, 0.7, 0.9)
SCORES = ("raw_norm", "norm_product")
BATCHES = 20


def _nested(*levels: float) -> NestedTraining:
    return NestedTraining(0.5, levels or (0.15, 0.3, 0.5), score="norm_product")


def _recipe(*levels: float) -> list[pl.Callback]:
    ewn = WeightNormPruning(EWN(batchnorm=True), (0,))
    return [AlphaLearningRate(10), _nested(*levels), ewn]


METHODS: dict[str, Callable[[], list[pl.Callback]]] = {
    "plain": lambda: [WeightNormPruning(None, (0,))],
    "network_slimming": lambda: [NetworkSlimming(1e-4), WeightNormPruning(None, (0,))],
    "group_lasso": lambda: [GroupLasso(1e-3, until=0.8), WeightNormPruning(None, (0,))],
    "d_gating": lambda: [FactorDecay(1e-3), WeightNormPruning(DGating(depth=3), (0,))],
    "nested": lambda: [_nested(), WeightNormPruning(None, (0,))],
    "recipe": _recipe,
    # 13, 27 and 54 filters stay: ``LEFT`` of the MACs
    "recipe_one_level": lambda: _recipe(0.16),
    "nested_one_level": lambda: [_nested(0.16), WeightNormPruning(None, (0,))],
}


def _sgd(parameters: Iterable[nn.Parameter]) -> torch.optim.Optimizer:
    """SGD with decay of weights alone: that of ``alpha`` would pull every scale towards 1."""
    every = list(parameters)
    weights, others = ([p for p in every if (p.dim() > 1) == many] for many in (True, False))
    groups = [{"params": weights, "weight_decay": 5e-4}, {"params": others}]
    return torch.optim.SGD(groups, lr=0.1, momentum=0.9)


def train(
    method: str, epochs: int, data: CIFAR10DataModule, folder: Path, accelerator: str = "cpu"
) -> nn.Module:
    """A trained network, plain; all training images, none held out. Goes on where it stopped."""
    pl.seed_everything(data.seed, verbose=False)
    # channels last, and bfloat16 for the products: half of the time on a processor that has it
    network = ResNet20().to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    # not save_last: without a checkpoint of another name it is written at the very end alone
    saved = ModelCheckpoint(
        folder, "last", save_on_train_epoch_end=True, enable_version_counter=False
    )
    trainer = pl.Trainer(
        max_epochs=epochs, accelerator=accelerator, devices=1, precision="bf16-mixed", logger=False,
        enable_model_summary=False, limit_val_batches=0, num_sanity_val_steps=0,
        callbacks=[*METHODS[method](), saved, progress_bar()],
    )  # fmt: skip
    last = folder / "last.ckpt"
    trainer.fit(
        Classifier(network, _sgd), datamodule=data, ckpt_path=last if last.exists() else None
    )
    return network


def every(step: int, data: CIFAR10DataModule) -> ImageLoader:
    """One in so many test images, of all classes: they lie in the order of those."""
    whole = data.test_dataloader()
    labels = cast(torch.Tensor, whole.labels)[::step]
    return ImageLoader(whole.images[::step], labels, data.batch_size, mean=data.mean, std=data.std)


def score_by_scale(model: nn.Module) -> Score:
    """By ``|gamma|`` of the BatchNorm behind a convolution, as Network Slimming's authors rank."""

    def scale(neurons: Neurons) -> torch.Tensor:
        norm = model.get_submodule(neurons.layer.replace("conv", "norm"))
        return cast(torch.Tensor, norm.weight).detach().abs()

    return scale


def scores_of(method: str, model: nn.Module) -> list[str | Score]:
    """By which filters are ranked: for Network Slimming by its authors' score as well."""
    return [*SCORES, score_by_scale(model)] if method == "network_slimming" else [*SCORES]


def measure(model: nn.Module, data: CIFAR10DataModule, scores: Sequence[str | Score]) -> Curve:
    """The curves of one trained network on test data, by each score."""
    training = list(islice(data.train_dataloader(), BATCHES))
    return sparsity_curve(
        model, data.test_dataloader(), LEVELS, scores, level_of="macs", recalibrate=training,
        seed=data.seed,
    )  # fmt: skip


def sensitivity(model: nn.Module, data: CIFAR10DataModule) -> Curve:
    """What pruning each group alone costs the plain network, with statistics of its own."""
    training = list(islice(data.train_dataloader(), BATCHES // 4))
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


def main() -> None:
    """Run what the command line asks for."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--epochs", type=int, default=40)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--methods", nargs="+", choices=list(METHODS), default=list(METHODS))
    parser.add_argument("--data_dir", help="see CIFAR10DataModule")
    parser.add_argument("--accelerator", default="cpu", help="the Trainer's: to train on")
    parser.add_argument("--runs", type=Path, default=Path("runs/resnet20"), help="checkpoints")
    parser.add_argument("--table", action="store_true", help="show what was measured before")
    args = parser.parse_args()
    found = read_curve(FILE) if FILE.exists() else Curve()
    data = CIFAR10DataModule(args.data_dir, val_size=0, seed=args.seed)
    for method in [] if args.table else args.methods:
        if found.where(method=method, epoch=args.epochs, seed=args.seed).points:
            continue
        started = process_time()
        folder = args.runs / f"{method}-{args.epochs}-{args.seed}"
        model = train(method, args.epochs, data, folder, args.accelerator)
        trained = process_time()
        curve = measure(model, data, scores_of(method, model))
        # read again: another process may have written meanwhile
        found = read_curve(FILE) if FILE.exists() else Curve()
        found = found + curve.tagged(method=method, split="test", epoch=args.epochs)
        write_curve(found, FILE)
        # the figure in docs/published.md
        if (method, args.seed, args.epochs) == ("plain", 0, parser.get_default("epochs")):
            curve = sensitivity(model, data)
            write_curve(curve, FIGURES / "resnet20_sensitivity.csv")
            draw(curve)
        spent = f"{trained - started:.0f} s to train, {process_time() - trained:.0f} s to prune"
        print(f"{method}: {spent}, CPU time", describe(), sep="\n", flush=True)
    if not found.points:
        parser.error(f"nothing is measured in {FILE} yet: leave out --table")
    show(found, LEVELS, 1 - LEFT)


if __name__ == "__main__":
    main()
