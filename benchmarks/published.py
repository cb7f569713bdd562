"""LeNet-300-100 and LeNet-5-Caffe on MNIST, made small, beside the numbers that papers print.

    python -m benchmarks.published --network lenet300 --training steps
    python -m benchmarks.published --network lenet5 --training once

Errors are those of the last epoch, on test data, of seeds that nothing was chosen with. ``--trial``
measures a setting on the validation data of another seed: the learning rate of training in steps,
the strength of the penalty of one training. ``--setting`` is what trials chose. Results go to
``benchmarks/published.csv`` as they come, and what is there is not run again; ``--table`` only
shows the file.
"""

import argparse
import logging
import warnings
from pathlib import Path
from typing import Any

import numpy as np
import torch
from scipy import stats

from benchmarks.machine import describe
from benchmarks.published_once import once
from benchmarks.published_steps import PLANS, steps
from ewnprune.files import read_rows, write_rows

FILE = Path(__file__).with_suffix(".csv")
SEEDS, TRIAL_SEED = (0, 1, 2, 3, 4), 100
CHOSEN = {
    ("lenet300", "steps"): 4e-3,
    ("lenet300", "once"): 3e-4,
    ("lenet300", "once_lasso"): 1e-3,
    ("lenet5", "steps"): 2e-3,
    ("lenet5", "once"): 3e-4,
    ("lenet5", "once_lasso"): 1e-3,
}
HOW = {
    "steps": "with training on after each cut",
    "once": "one training, no finetuning",
    "once_and_on": "one training, one cut, and training on",
    "once_lasso": "one training without EWN, no finetuning",
    "once_lasso_and_on": "one training without EWN, one cut, and training on",
}

Row = dict[str, Any]


def show(rows: list[Row]) -> None:
    """Print the mean of each network and size, with a t interval, in Markdown."""
    for network in PLANS:
        for split in ("test", "val"):
            for training, how in HOW.items():
                key = {"network": network, "split": split, "training": training}
                found = [row for row in rows if all(row[k] == v for k, v in key.items())]
                if found:
                    print(f"\n{network}, {how}, {split} data\n")
                    _table(found)


def _table(rows: list[Row]) -> None:
    print("| setting | left | MACs | epochs | error, % [95 %] | of each seed |")
    print("| --- | --- | --- | --- | --- | --- |")
    sizes: dict[tuple[str, ...], list[Row]] = {}
    for row in rows:  # pixels that are left differ from seed to seed
        width = row["widths"].partition("-")[2] if row["training"] != "steps" else row["widths"]
        sizes.setdefault((row["setting"], width), []).append(row)
    for (setting, _), of in sizes.items():
        errors = np.array([float(row["error"]) for row in of])
        interval = ""
        if len(errors) > 1:
            low, high = stats.t.interval(0.95, len(of) - 1, errors.mean(), stats.sem(errors))
            interval = f" [{low:.2f}, {high:.2f}]"
        left = ", ".join(dict.fromkeys(row["widths"] for row in of))
        macs = np.mean([int(row["macs"]) for row in of])
        print(
            f"| {setting} | {left} | {macs:,.0f} | {of[0]['epochs']} | "
            f"{errors.mean():.2f}{interval} | {', '.join(f'{e:.2f}' for e in errors)} |"
        )


def main() -> None:
    """Run what the command line asks for."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--network", choices=list(PLANS), default="lenet300")
    parser.add_argument("--training", choices=["steps", "once", "once_lasso"], default="steps")
    parser.add_argument("--seeds", type=int, nargs="+", default=SEEDS)
    parser.add_argument("--setting", type=float, help="what trials chose, if left out")
    parser.add_argument("--trial", action="store_true", help="on validation data of another seed")
    parser.add_argument("--table", action="store_true", help="show what was measured before")
    args = parser.parse_args()
    if not args.table:
        torch.set_num_threads(1)
        warnings.simplefilter("ignore")
        logging.getLogger("pytorch_lightning").setLevel(logging.ERROR)
        setting = args.setting or CHOSEN[args.network, args.training]
        split, seeds = ("val", [TRIAL_SEED]) if args.trial else ("test", args.seeds)
        for seed in seeds:
            key = (args.network, args.training, str(seed), split, str(setting))
            names = ("network", "training", "seed", "split", "setting")
            if not any(tuple(row[name] for name in names) == key for row in read_rows(FILE)):
                new = []
                if args.training == "steps":
                    found = steps(args.network, setting, seed, split)
                else:
                    found = once(args.network, args.training, setting, seed, split)
                for row in found:
                    print(*row.values(), flush=True)
                    new.append({name: str(value) for name, value in row.items()})
                write_rows(FILE, [*read_rows(FILE), *new], line_end="\n")
        print(describe())
    show(read_rows(FILE))


if __name__ == "__main__":
    main()
