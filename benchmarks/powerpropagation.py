"""Powerpropagation in its authors' own protocol: LeNet-300-100, single weights, 20 levels.

    python -m benchmarks.powerpropagation --exponents 1 2 3 4 5 --seeds 0

Schwarz et al. (NeurIPS 2021, https://arxiv.org/abs/2110.00296), as their notebook has it: pixels
from 0 to 1, weights from a truncated normal of variance 1 / fan-in, biases 0; SGD at 0.1, batches
of 60, 50,000 steps; then one-shot, without finetuning, the weights of the lowest size of each layer
go, down to ``geomspace(0.01, 1, 20)`` left, of the output layer twice as many. Exponent 1 is plain
training. Test accuracy; 5,000 of the 60,000 training images are held out, as there. Writes
``benchmarks/powerpropagation.csv`` as it goes, where what is there is not run again; ``--table``
only shows it.
"""

import argparse
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from statistics import mean, stdev
from time import process_time
from typing import Any

import numpy as np
import pytorch_lightning as pl
import torch
from torch import nn

from benchmarks.machine import describe, one_quiet_thread
from benchmarks.published_steps import error
from benchmarks.rows import have
from ewnprune import Powerpropagation, WeightNormPruning
from ewnprune.files import read_rows
from lightning_modules import MLP, Classifier, MNISTDataModule

FILE = Path(__file__).with_suffix(".csv")
LEFT = [float(f"{left:.4g}") for left in np.geomspace(0.01, 1, 20)[::-1]]
STEPS = 50_000

Row = dict[str, Any]


def _layers(network: nn.Module) -> list[nn.Linear]:
    return [module for module in network.modules() if isinstance(module, nn.Linear)]


@torch.no_grad()
def initialise(network: nn.Module) -> None:
    """Draw weights of variance ``1 / fan_in``, none beyond two deviations of what is cut."""
    for layer in _layers(network):
        cut = 0.8796  # what the deviation of a standard normal is, cut at two
        std = layer.in_features**-0.5 / cut
        nn.init.trunc_normal_(layer.weight, std=std, a=-2 * std, b=2 * std)
        nn.init.zeros_(layer.bias)


@torch.no_grad()
def keep_largest(network: nn.Module, left: float) -> None:
    """Leave so many of the weights of each layer, of the last one twice as many."""
    layers = _layers(network)
    for layer in layers:
        kept = left if layer is not layers[-1] else min(1.0, 2 * left)
        sizes = layer.weight.abs().flatten()
        lowest = sizes.argsort()[: len(sizes) - round(kept * len(sizes))]
        layer.weight.view(-1)[lowest] = 0


def run(exponent: float, seed: int, steps: int) -> Iterator[Row]:
    """Train one network, and measure it with ever fewer weights."""
    pl.seed_everything(seed, verbose=False)
    network = MLP(hidden=(300, 100), output_bias=True)
    initialise(network)
    power = None if exponent == 1 else Powerpropagation(exponent)
    model = Classifier(network, lambda p: torch.optim.SGD(p, 0.1), scheduler=None)
    trainer = pl.Trainer(
        max_steps=steps, accelerator="cpu", logger=False, enable_progress_bar=False,
        enable_model_summary=False, enable_checkpointing=False, limit_val_batches=0,
        callbacks=WeightNormPruning(power, (0,), layers="*"),
    )  # fmt: skip
    data = MNISTDataModule(batch_size=60, seed=seed)
    data.mean, data.std = 0.0, 1.0
    begun = process_time()
    trainer.fit(model, datamodule=data)
    seconds = round(process_time() - begun, 1)
    for left in LEFT:  # each of them a part of the one before
        keep_largest(network, left)
        yield {
            "exponent": f"{exponent:g}", "seed": seed, "steps": steps, "left": left,
            "accuracy": round(100 - error(network, data, "test"), 3), "cpu_seconds": seconds,
        }  # fmt: skip


def show(rows: list[Row]) -> None:
    """Print the table in Markdown: mean, and standard deviation over seeds."""
    shown = LEFT[::2] + LEFT[-1:]
    print("| exponent | seeds |", *(f"{100 * left:.3g} % |" for left in shown))
    print("| --- | --- |", *("--- |" for _ in shown))
    for exponent in dict.fromkeys(row["exponent"] for row in rows):
        of = [row for row in rows if row["exponent"] == exponent]
        cells = []
        for left in shown:
            found = [float(row["accuracy"]) for row in of if float(row["left"]) == left]
            cells.append(f"{mean(found):.1f}" + (f" ± {stdev(found):.1f} |" if found[1:] else " |"))
        print(f"| {exponent} | {len({row['seed'] for row in of})} |", *cells)


def main() -> None:
    """Run what the command line asks for."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--exponents", type=float, nargs="+", default=[1, 2, 3, 4, 5])
    parser.add_argument("--seeds", type=int, nargs="+", default=[0])
    parser.add_argument("--steps", type=int, default=STEPS)
    parser.add_argument("--table", action="store_true", help="show what was measured before")
    args = parser.parse_args()
    if not args.table:
        one_quiet_thread()
        torch.set_flush_denormal(True)  # weights that decay to nothing are slow to compute with
        for seed in args.seeds:
            for exponent in args.exponents:
                key = {"exponent": f"{exponent:g}", "seed": seed, "steps": args.steps}
                have(FILE, key, partial(run, exponent, seed, args.steps))
        print(describe())
    show([row for row in read_rows(FILE) if row["steps"] == str(args.steps)])


if __name__ == "__main__":
    main()
