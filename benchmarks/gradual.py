"""Gradual against one-shot pruning and finetuning, and what distillation adds, at equal epochs.

    python -m benchmarks.gradual

784-1024-10 on MNIST, trained plainly, each way for the same number of epochs with the schedule of
the default fit over them (finetuning has one of its own for its epochs), pruned to 95 % of the
hidden neurons by incoming times outgoing norm. Writes ``benchmarks/gradual.csv``, one row per fit,
as it goes; what is there is not run again. No setting was tuned.
"""

import argparse
import tempfile
import time
import warnings
from collections.abc import Iterator
from pathlib import Path
from statistics import mean
from typing import Any

import pytorch_lightning as pl
import torch

from benchmarks.machine import describe
from ewnprune import (
    Distillation,
    Finetune,
    Gradual,
    NestedTraining,
    WeightNormPruning,
    sparsity_curve,
)
from ewnprune.files import read_rows, write_rows
from lightning_modules import MLP, Classifier, MNISTDataModule

FILE = Path(__file__).with_suffix(".csv")
EPOCHS, LEVEL, SEEDS, SCORE = 3, 0.95, (0, 1, 2), "norm_product"
LEVELS = (0.0, 0.9, LEVEL, 0.98)
SOFT = Distillation(temperature=2.0, weight=0.5)

# what the callback is told, and NestedTraining where it is there
WAYS: dict[str, tuple[dict[str, Any], dict[str, Any] | None]] = {
    "one-shot": ({}, None),
    "finetuned": ({"finetune": Finetune(1, LEVEL, SCORE)}, None),
    "finetuned, distilled": ({"finetune": Finetune(1, LEVEL, SCORE, SOFT)}, None),
    "gradual": ({"gradual": Gradual(LEVEL)}, None),
    "nested": ({}, {}),
    "nested, distilled": ({}, {"distill": SOFT}),
    "dense, of that size": ({}, None),
}


def run(way: str, seed: int, batches: float) -> dict[str, Any]:
    """Train one network, and measure it on test data."""
    options, nested = WAYS[way]
    pl.seed_everything(seed, verbose=False)
    network = MLP(hidden=(1024 - round(LEVEL * 1024),)) if way.startswith("dense") else MLP()
    pruning = WeightNormPruning(None, (0.0, LEVEL), [SCORE], **options)
    more = [] if nested is None else [NestedTraining(0.5, score=SCORE, **nested)]
    finetuned = options.get("finetune")
    model, data = Classifier(network), MNISTDataModule(seed=seed)
    with tempfile.TemporaryDirectory() as folder:
        trainer = pl.Trainer(
            max_epochs=EPOCHS - (finetuned.epochs if finetuned else 0), accelerator="cpu",
            limit_train_batches=batches, callbacks=[*more, pruning], logger=False,
            enable_checkpointing=False, enable_progress_bar=False, enable_model_summary=False,
            default_root_dir=folder,
        )  # fmt: skip
        begun = time.process_time()
        trainer.fit(model, datamodule=data)
        seconds = time.process_time() - begun
    data.setup("test")
    curve = sparsity_curve(model, data.test_dataloader(), LEVELS, (SCORE,))
    row = {"way": way, "seed": seed, "epochs": EPOCHS, "cpu_seconds": round(seconds, 1)}
    return row | {f"{point.sparsity:g}": round(100 * point.accuracy, 2) for point in curve}


def table(rows: list[dict[str, Any]]) -> Iterator[str]:
    """The mean over seeds, and each seed at the level pruned to."""
    yield f"| way | 0 % | {LEVEL:.0%} | each seed at {LEVEL:.0%} | CPU s |"
    yield "| --- | --- | --- | --- | --- |"
    for way in WAYS:
        found = [row for row in rows if row["way"] == way]
        if found:
            of = {key: [float(row[key]) for row in found] for key in ("0", f"{LEVEL:g}")}
            dense = way.startswith("dense")
            whole, pruned = of["0"], of["0"] if dense else of[f"{LEVEL:g}"]
            seconds = mean(float(row["cpu_seconds"]) for row in found)
            yield (
                f"| {way} | {'' if dense else f'{mean(whole):.2f}'} | {mean(pruned):.2f} | "
                f"{', '.join(f'{value:.2f}' for value in pruned)} | {seconds:.0f} |"
            )


def main() -> None:
    """Run what is not in the file, and print the table."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--batches", type=int, help="a part of each epoch, to try it out")
    args = parser.parse_args()
    torch.set_num_threads(1)
    warnings.simplefilter("ignore")
    rows: list[dict[str, Any]] = [*read_rows(FILE)] if args.batches is None else []
    for seed in SEEDS:
        for way in WAYS:
            if not any(row["way"] == way and int(row["seed"]) == seed for row in rows):
                rows.append(run(way, seed, args.batches or 1.0))
                if args.batches is None:
                    write_rows(FILE, rows, line_end="\n")
    print(f"\n{describe()}\n", *table(rows), sep="\n")


if __name__ == "__main__":
    main()
