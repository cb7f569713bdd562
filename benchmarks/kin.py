"""EWN and its kin on MNIST, 784-1024-10, each method tuned on validation data of another seed.

    python -m benchmarks.kin --trial    # every trial of every method, with seed 100
    python -m benchmarks.kin            # then what they chose, with seeds 0 to 4, on test data

trains every method of `ewnprune compare` that has candidates, and plain training and EWN as they
are, with the schedule of the default fit, and prunes one-shot without finetuning. A method has
sixteen trials: its four candidates and four stronger ones, at two learning rates; fewer where two
are the same, and plain training and EWN have the rates alone. One setting and one score serve the
whole curve: those with the best mean over all levels.

It writes ``benchmarks/kin.csv`` as it goes, one row per network and level; what is there is not run
again. ``--table`` only shows the file. It is `ewnprune compare` in one process, without a folder
for each run, and with Torch-Pruning's own method, which ranks by itself, in it.
"""

import argparse
import io
import time
from collections import defaultdict
from collections.abc import Iterator
from contextlib import redirect_stdout
from functools import partial
from pathlib import Path
from statistics import mean
from typing import Any

import numpy as np
import pytorch_lightning as pl
import torch

from benchmarks.depgraph import LEVELS, pruned_accuracies, train
from benchmarks.intervals import differences, means
from benchmarks.kin_trials import LIBRARY, NAMES, RATES, TRAINED, callbacks, candidates
from benchmarks.machine import describe, one_quiet_thread
from benchmarks.rows import have
from ewnprune import sparsity_curve
from ewnprune.files import read_rows
from ewnprune.study.methods import NEURON_SCORES
from lightning_modules import MLP

FILE = Path(__file__).with_suffix(".csv")
SEEDS, TRIAL_SEED = (0, 1, 2, 3, 4), 100
SETTING = ("candidate", "rate")

Row = dict[str, Any]


def run(method: str, candidate: str, rate: float, seed: int, epochs: int) -> Iterator[Row]:
    """Train one network, and measure it on validation and test data."""
    pl.seed_everything(seed, verbose=False)
    begun = time.process_time()
    made = callbacks(method, candidates(method)[candidate])
    with redirect_stdout(io.StringIO()):
        model, data = train(MLP(), epochs, seed, *made, rate=rate)
    seconds = f"{time.process_time() - begun:.1f}"
    head = {"candidate": candidate, "rate": f"{rate:g}", "seed": str(seed), "epochs": str(epochs)}
    if not all(parameter.isfinite().all() for parameter in model.parameters()):
        for level in LEVELS:  # at this rate it diverges, and nothing is right
            yield {"method": method, **head, **_measured("diverged", level, 0, 0, seconds)}
        return
    splits = data.val_dataloader(), data.test_dataloader()
    if method == LIBRARY:
        for level in LEVELS:
            rates = pruned_accuracies(model.network, level, *map(list, splits))
            yield {"method": method, **head, **_measured("its own", level, *rates, seconds)}
        return
    scores = dict.fromkeys(NEURON_SCORES, method)
    for name, trained in NAMES.items():
        if trained == method != name:
            scores["magnitude"] = name
    of_both = [sparsity_curve(model, loader, LEVELS, [*scores]) for loader in splits]
    for score, name in scores.items():
        for level in LEVELS:
            rates = [c.where(score=score, sparsity=level).points[0].accuracy for c in of_both]
            yield {"method": name, **head, **_measured(score, level, *rates, seconds)}


def _measured(score: str, level: float, val: float, test: float, seconds: str) -> Row:
    rates = {"val": f"{100 * val:.2f}", "test": f"{100 * test:.2f}"}
    return {"score": score, "sparsity": f"{level:g}", **rates, "cpu_seconds": seconds}


def chosen(rows: list[Row], name: str) -> tuple[str, str, str]:
    """The candidate, rate and score of a method that are best on validation data of the trials."""
    found: dict[tuple[str, str, str], list[float]] = defaultdict(list)
    for row in _trials(rows, name):
        found[row["candidate"], row["rate"], row["score"]].append(float(row["val"]))
    return max(found, key=lambda key: mean(found[key]))


def _trials(rows: list[Row], name: str) -> list[Row]:
    return [row for row in rows if row["method"] == name and int(row["seed"]) == TRIAL_SEED]


def curves(rows: list[Row], epochs: int) -> dict[str, np.ndarray]:
    """Test accuracy in % of what was chosen, ``(seeds, levels)``, of the methods with all seeds."""
    rows = [row for row in rows if int(row["epochs"]) == epochs]
    found = {}
    for name in NAMES:
        if not _trials(rows, name):
            continue
        best = dict(zip((*SETTING, "score"), chosen(rows, name), strict=True)) | {"method": name}
        of = [row for row in rows if all(row[key] == value for key, value in best.items())]
        test = {(int(r["seed"]), float(r["sparsity"])): float(r["test"]) for r in of}
        if all((seed, level) in test for seed in SEEDS for level in LEVELS):
            found[name] = np.array([[test[seed, level] for level in LEVELS] for seed in SEEDS])
    return found


def table(rows: list[Row], epochs: int) -> Iterator[str]:
    """Each method as it was chosen, mean and deviation; then the recipe less each, in pairs."""
    found = curves(rows, epochs)
    of_epochs = [row for row in rows if int(row["epochs"]) == epochs]
    levels = "".join(f" {100 * level:g} % |" for level in LEVELS)
    yield f"| method | chosen | rate | score |{levels}"
    yield "| --- | --- | --- | --- |" + " --- |" * len(LEVELS)
    for name, rates in found.items():
        candidate, rate, score = chosen(of_epochs, name)
        cells = [f" {cell} |" for cell in means(rates)]
        yield f"| `{name}` | {candidate} | {rate} | `{score}` |{''.join(cells)}"
    if "prunable" in found:
        yield from ("", f"| prunable less |{levels}", "| --- |" + " --- |" * len(LEVELS))
        for name, rates in found.items():
            if name != "prunable":
                less = differences(found["prunable"], rates, digits=1)
                yield " ".join([f"| `{name}` |", *(f"{cell} |" for cell in less)])


def main() -> None:
    """Run what is not in the file, and print the tables."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--epochs", type=int, default=2)
    parser.add_argument("--methods", nargs="+", choices=TRAINED, default=TRAINED)
    parser.add_argument("--trial", action="store_true", help="on validation data of another seed")
    parser.add_argument("--table", action="store_true", help="show what was measured before")
    args = parser.parse_args()
    one_quiet_thread()
    torch.set_flush_denormal(True)  # weights that decay to nothing are slow to compute with
    for method, candidate, rate, seed in [] if args.table else planned(args):
        key = {"method": method, "candidate": candidate, "rate": f"{rate:g}", "seed": seed}
        training = partial(run, method, candidate, rate, seed, args.epochs)
        have(FILE, key | {"epochs": args.epochs}, training)
    print(f"\n{describe()}\n", *table(read_rows(FILE), args.epochs), sep="\n")


def planned(args: argparse.Namespace) -> Iterator[tuple[str, str, float, int]]:
    """The trainings that are asked for: all trials, or what they chose with every seed."""
    if args.trial:
        for method in args.methods:
            for candidate in candidates(method):
                for rate in RATES:
                    yield method, candidate, rate, TRIAL_SEED
        return
    rows = [row for row in read_rows(FILE) if int(row["epochs"]) == args.epochs]
    for name, trained in NAMES.items():
        if trained in args.methods:
            if not _trials(rows, name):
                raise SystemExit(f"{FILE.name} has no trials of {name}: run --trial first")
            candidate, rate, _ = chosen(rows, name)
            for seed in SEEDS:
                yield trained, candidate, float(rate), seed


if __name__ == "__main__":
    main()
