"""EWN and its kin on MNIST, 784-1024-10, each method tuned by four trials on validation data.

    python -m benchmarks.kin --epochs 4 --seeds 0 1 2

trains every method of `ewnprune compare` that has candidates, and plain training and EWN as they
are, with the schedule of the default fit, and prunes one-shot without finetuning. It writes
``benchmarks/kin.csv`` as it goes, one row per network and level; what is there is not run again. In
the table the candidate and the score of a method are those with the best mean over all levels and
seeds on validation data, and accuracies are on test data; a method is in it when all of its trials
are in the file, for all the seeds. ``--table`` only shows the file.

It is `ewnprune compare` in one process, without a folder for each run, and with Torch-Pruning's own
method, which ranks by itself, in it.
"""

import argparse
import io
import time
import warnings
from collections import defaultdict
from collections.abc import Iterator
from contextlib import redirect_stdout
from importlib import import_module
from pathlib import Path
from statistics import mean, stdev
from typing import Any

import pytorch_lightning as pl
import torch

from benchmarks.depgraph import LEVELS, SparseLearning, pruned_accuracies, train
from benchmarks.machine import describe
from ewnprune import WeightNormPruning, sparsity_curve
from ewnprune.files import read_rows, write_rows
from ewnprune.study.methods import METHODS, NEURON_SCORES
from ewnprune.study.plan import merge
from lightning_modules import MLP

FILE = Path(__file__).with_suffix(".csv")
LIBRARY, REGS = "torch_pruning", (1e-4, 3e-4, 1e-3, 3e-3)
TRAINED = [
    *("none", "ewn"),
    *(name for name, m in METHODS.items() if m.candidates and name != "network_slimming"),
    LIBRARY,
]
OF_WEIGHTS = {m.trains: name for name, m in METHODS.items() if "magnitude" in m.scores}

Row = dict[str, Any]


def trials(method: str) -> dict[str, dict[str, Any]]:
    """The options of a method's candidates by their names, or its own under no name."""
    if method == LIBRARY:
        return {f"{reg:g}": {"reg": reg} for reg in REGS}
    known = METHODS[method]
    return {key: merge(known.fit, more) for key, more in (known.candidates or {"": {}}).items()}


def _made(spec: dict[str, Any] | None) -> Any:
    if spec is None:
        return None
    module, _, name = spec["class_path"].rpartition(".")
    return getattr(import_module(module), name)(**spec.get("init_args", {}))


def run(method: str, candidate: str, seed: int, epochs: int) -> Iterator[Row]:
    """Train one network, and measure it on validation and test data."""
    options = trials(method)[candidate]
    pl.seed_everything(seed, verbose=False)
    if method == LIBRARY:
        callbacks: list[pl.Callback] = [SparseLearning(options["reg"])]
    else:
        pruning = WeightNormPruning(_made(options["prune"]["parametrization"]), (0.0,))
        others = options.get("trainer", {}).get("callbacks", [])
        callbacks = [*map(_made, others), pruning]
    begun = time.process_time()
    with redirect_stdout(io.StringIO()):
        model, data = train(MLP(), epochs, seed, *callbacks)
    seconds = round(time.process_time() - begun, 1)
    head = {"method": method, "candidate": candidate, "seed": seed, "epochs": epochs}
    if method == LIBRARY:
        splits = [*data.val_dataloader()], [*data.test_dataloader()]
        for level in LEVELS:
            val, test = pruned_accuracies(model.network, level, *splits)
            yield head | _measured("its own", level, val, test, seconds)
    else:
        scores = (*NEURON_SCORES, *(("magnitude",) if method in OF_WEIGHTS else ()))
        curves = [
            sparsity_curve(model, loader, LEVELS, scores)
            for loader in (data.val_dataloader(), data.test_dataloader())
        ]
        for score in scores:
            name = OF_WEIGHTS[method] if score == "magnitude" else method
            for level in LEVELS:
                rates = [c.where(score=score, sparsity=level).points[0].accuracy for c in curves]
                yield head | {"method": name} | _measured(score, level, *rates, seconds)


def _measured(score: str, level: float, val: float, test: float, seconds: float) -> Row:
    rates = {"val": round(100 * val, 2), "test": round(100 * test, 2)}
    return {"score": score, "sparsity": level, **rates, "cpu_seconds": seconds}


def complete(rows: list[Row], seeds: list[int]) -> list[str]:
    """The methods all of whose trials were run with these seeds."""
    done = {(r["method"], r["candidate"], int(r["seed"])) for r in rows}
    names = {name: name for name in TRAINED}
    names |= {name: trained for trained, name in OF_WEIGHTS.items()}
    return [
        name
        for name, trained in names.items()
        if all((name, key, seed) in done for key in trials(trained) for seed in seeds)
    ]


def table(rows: list[Row], methods: list[str]) -> Iterator[str]:
    """Each method by what validation data chose: mean, and standard deviation over seeds."""
    yield "| method | chosen | score | seeds |" + "".join(f" {lv:.0%} |" for lv in LEVELS)
    yield "| --- | --- | --- | --- |" + " --- |" * len(LEVELS)
    for method in methods:
        best = chosen(rows, method)
        cells = []
        for level in LEVELS:
            rates = [float(r["test"]) for r in best if float(r["sparsity"]) == level]
            cells.append(f" {mean(rates):.1f}" + (f" ± {stdev(rates):.1f}" if rates[1:] else ""))
        seeds = sorted({str(row["seed"]) for row in best})
        said = (
            f"| `{method}` | {best[0]['candidate']} | `{best[0]['score']}` | {', '.join(seeds)} |"
        )
        yield said + "".join(f"{cell} |" for cell in cells)


def chosen(rows: list[Row], method: str) -> list[Row]:
    """The rows of a method's best candidate and score on validation data, for the whole curve."""
    found: dict[tuple[str, str], list[Row]] = defaultdict(list)
    for row in rows:
        if row["method"] == method:
            found[row["candidate"], row["score"]].append(row)
    return max(found.values(), key=lambda of: mean(float(row["val"]) for row in of))


def main() -> None:
    """Run what is not in the file, and print the table."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--epochs", type=int, default=4)
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--methods", nargs="+", choices=TRAINED, default=TRAINED)
    parser.add_argument("--table", action="store_true", help="show what was measured before")
    args = parser.parse_args()
    torch.set_num_threads(1)
    torch.set_flush_denormal(True)  # weights that decay to nothing are slow to compute with
    warnings.simplefilter("ignore")
    rows: list[Row] = [*read_rows(FILE)]
    done = {(r["method"], r["candidate"], int(r["seed"]), int(r["epochs"])) for r in rows}
    if not args.table:
        for seed in args.seeds:
            for method in args.methods:
                for candidate in trials(method):
                    if (method, candidate, seed, args.epochs) not in done:
                        rows += run(method, candidate, seed, args.epochs)
                        write_rows(FILE, rows, line_end="\n")
    asked = [
        row for row in rows if int(row["epochs"]) == args.epochs and int(row["seed"]) in args.seeds
    ]
    print(f"\n{describe()}\n", *table(asked, complete(asked, args.seeds)), sep="\n")


if __name__ == "__main__":
    main()
