"""What EWN adds: {plain, SWN, EWN} x {nested or not} x {no penalty, group lasso, log-norm}.

    python -m benchmarks.control --data mnist

trains every arm for the same number of epochs and tunes each by the same number of trials: a Sobol
sequence over its settings (the learning rate; the strength of its penalty; under EWN the rate of
alpha), each trained with seed 100 and judged by the mean of the validation accuracies at all
levels, of the better of two scores. The best setting of an arm is then trained with seeds 0 to 4
and measured on test data. ``--table`` only shows the file, which is written as it goes: what is
there is not run again.

    python -m benchmarks.control --data mnist --epochs 20

trains some of the arms for longer, to a file of its own, with the learning rates that were chosen
so; the strengths of penalties beside nested training are tuned anew, by two trials each.

    python -m benchmarks.control --data fashion --as_on_mnist

trains the best arms with the settings that were chosen for 784-1024-10 on MNIST, and tunes nothing.
"""

import argparse
from collections.abc import Callable
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from time import process_time
from typing import Any

import pytorch_lightning as pl
import torch

from benchmarks.control_arms import ARMS, BEST, LONGER, Arm, trials
from benchmarks.control_table import show
from benchmarks.machine import describe, one_quiet_thread
from benchmarks.rows import have
from ewnprune import (
    EWN,
    SWN,
    AlphaLearningRate,
    GroupLasso,
    LogNormPenalty,
    LogSumPenalty,
    NestedTraining,
    sparsity_curve,
)
from ewnprune.callback import WeightNormPruning
from ewnprune.files import read_rows
from ewnprune.recipes.prunable import LEVELS
from lightning_modules import CNN, MLP, Classifier, MNISTDataModule

TUNING_SEED, SEEDS = 100, (0, 1, 2, 3, 4)
SCORES = ("norm_product", "norm_with_bias_product")


@dataclass(frozen=True)
class Data:
    """What is trained on what, for how long, and where the curve is looked at."""

    network: Callable[[], torch.nn.Module]
    fashion: bool
    epochs: int
    levels: tuple[float, ...]
    nested: tuple[float, ...]


DATA = {
    "mnist": Data(MLP, False, 3, (0.0, 0.9, 0.95, 0.98), LEVELS),
    "fashion": Data(MLP, True, 3, (0.0, 0.9, 0.95, 0.98), LEVELS),
    "cnn": Data(CNN, False, 2, (0.0, 0.5, 0.8, 0.9), (0.5, 0.8, 0.9)),
    "fashion_cnn": Data(CNN, True, 2, (0.0, 0.5, 0.8, 0.9), (0.5, 0.8, 0.9)),
}


def penalty_of(arm: Arm, strength: float) -> list[pl.Callback]:
    """The callback of an arm's penalty."""
    if arm.penalty == "none":
        return []
    if arm.penalty == "group lasso":
        return [GroupLasso(strength, until=0.8)]
    if arm.parametrization == "EWN":
        return [LogNormPenalty(strength, until=0.8)]
    return [LogSumPenalty(strength, until=0.8)]


def fit(
    of: Data, callbacks: list[pl.Callback], rate: float, seed: int, epochs: int
) -> tuple[Classifier, MNISTDataModule, float]:
    """A trained network, its data, set up for test data too, and the seconds of CPU time."""
    pl.seed_everything(seed, verbose=False)
    data = MNISTDataModule(fashion=of.fashion, seed=seed, shift=1)
    model = Classifier(
        of.network(), optimizer=lambda parameters: torch.optim.SGD(parameters, rate, momentum=0.9)
    )
    trainer = pl.Trainer(
        max_epochs=epochs, accelerator="cpu", logger=False, enable_progress_bar=False,
        enable_model_summary=False, enable_checkpointing=False, limit_val_batches=0,
        callbacks=callbacks,
    )  # fmt: skip
    begun = process_time()
    trainer.fit(model, datamodule=data)
    seconds = process_time() - begun
    data.setup("test")
    return model, data, seconds


def batches_for_statistics(data: MNISTDataModule) -> list[Any]:
    """Training batches by which the BatchNorms of a pruned network are estimated."""
    return list(islice(data.train_dataloader(), 20))


def run(
    name: str, arm: Arm, setting: dict[str, float], seed: int, split: str, epochs: int
) -> dict[str, Any]:
    """Train one network, and measure it on validation or test data."""
    of = DATA[name]
    parametrization = {"plain": None, "SWN": SWN(), "EWN": EWN(batchnorm=of.network is CNN)}
    callbacks: list[pl.Callback] = []
    if "alpha" in setting:
        callbacks.append(AlphaLearningRate(setting["alpha"]))
    callbacks += penalty_of(arm, setting.get("strength", 0.0))  # proximal steps go behind
    if arm.nested:
        callbacks.append(NestedTraining(0.5, of.nested))
    callbacks.append(WeightNormPruning(parametrization[arm.parametrization], (0.0,)))
    model, data, seconds = fit(of, callbacks, setting["rate"], seed, epochs)
    loader = data.val_dataloader() if split == "val" else data.test_dataloader()
    recalibrate = batches_for_statistics(data) if of.network is CNN else None
    curve = sparsity_curve(model, loader, of.levels, SCORES, recalibrate=recalibrate, seed=seed)
    found: dict[str, Any] = {}
    for score in SCORES:
        values = {p.sparsity: 100 * p.measure() for p in curve if p.score == score}
        found |= {f"{score} {level:g}": round(value, 2) for level, value in values.items()}
    return found | {"cpu_seconds": round(seconds, 1)}


def mean_of(row: dict[str, Any], score: str, levels: tuple[float, ...]) -> float:
    """The mean of the accuracies at all levels, in %."""
    return sum(float(row[f"{score} {level:g}"]) for level in levels) / len(levels)


def best_of(rows: list[dict[str, Any]], levels: tuple[float, ...]) -> dict[str, Any]:
    """The best trial of an arm."""
    return max(rows, key=lambda row: max(mean_of(row, score, levels) for score in SCORES))


def study(name: str, file: Path) -> None:
    """Tune every arm and measure what was chosen; what is in the file is not run again."""
    epochs = DATA[name].epochs
    for arm in ARMS:
        for setting in trials(arm.ranges):
            _have(file, name, arm, "val", TUNING_SEED, setting, epochs)
        chosen = _chosen(file, name, arm)
        for seed in SEEDS:
            _have(file, name, arm, "test", seed, chosen, epochs)


def study_longer(name: str, file: Path, into: Path, epochs: int) -> None:
    """Train some arms for longer, with penalties as they were chosen and lighter ones."""
    for arm in LONGER:
        settings = arm.longer(_chosen(file, name, arm))
        if len(settings) > 1:
            for setting in settings:
                _have(into, name, arm, "val", TUNING_SEED, setting, epochs)
        chosen = _chosen(into, name, arm) if len(settings) > 1 else settings[0]
        for seed in SEEDS[:3]:
            _have(into, name, arm, "test", seed, chosen, epochs)


def study_as_on_mnist(name: str, file: Path) -> None:
    """Train the best arms with the settings that were chosen on MNIST, and measure them."""
    for seed in SEEDS:
        for arm in BEST:
            setting = _chosen(file.with_name("control_mnist.csv"), "mnist", arm)
            _have(file, name, arm, "test", seed, setting, DATA[name].epochs)


def _chosen(file: Path, name: str, arm: Arm) -> dict[str, float]:
    best = best_of(_of(read_rows(file), arm), DATA[name].levels)
    return {item: float(best[item]) for item in arm.ranges}


def _of(rows: list[dict[str, Any]], arm: Arm) -> list[dict[str, Any]]:
    """The trials of an arm."""
    key = (arm.parametrization, str(arm.nested), arm.penalty, "val")
    names = ("parametrization", "nested", "penalty", "split")
    return [row for row in rows if tuple(row[item] for item in names) == key]


def _have(
    file: Path, name: str, arm: Arm, split: str, seed: int, setting: dict[str, float], epochs: int
) -> None:
    key = {
        "parametrization": arm.parametrization, "nested": arm.nested, "penalty": arm.penalty,
        "split": split, "seed": seed,
    } | {item: setting.get(item, "") for item in ("rate", "strength", "alpha")}  # fmt: skip
    have(file, key, lambda: [key | run(name, arm, setting, seed, split, epochs)])


def main() -> None:
    """Run what the command line asks for."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--data", choices=list(DATA), default="mnist")
    parser.add_argument("--epochs", type=int, help="train what was chosen for longer")
    parser.add_argument("--as_on_mnist", action="store_true", help="tune nothing")
    parser.add_argument("--table", action="store_true", help="show what was measured before")
    args = parser.parse_args()
    file = Path(__file__).with_name(f"control_{args.data}.csv")
    if args.as_on_mnist:
        file = file.with_stem(f"{file.stem}_as_on_mnist")
    longer = file.with_stem(f"{file.stem}_{args.epochs}")
    if not args.table:
        one_quiet_thread()
        if args.as_on_mnist:
            study_as_on_mnist(args.data, file)
        elif args.epochs is None:
            study(args.data, file)
        else:
            study_longer(args.data, file, longer, args.epochs)
        print(describe())
    of_longer = read_rows(longer) if args.epochs else None
    show(read_rows(file), of_longer, DATA[args.data].levels, SCORES)


if __name__ == "__main__":
    main()
