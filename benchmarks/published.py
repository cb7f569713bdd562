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
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.intervals import difference, mean_of
from benchmarks.machine import describe, one_quiet_thread
from benchmarks.published_once import once
from benchmarks.published_steps import PLANS, steps
from benchmarks.rows import have
from ewnprune.files import read_rows

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
                found = _of(rows, network=network, split=split, training=training)
                if found:
                    print(f"\n{network}, {how}, {split} data\n")
                    _table(found)
        _pairs(_of(rows, network=network, split="test"))


def _of(rows: list[Row], **key: str) -> list[Row]:
    return [row for row in rows if all(row[name] == value for name, value in key.items())]


def _by_size(rows: list[Row]) -> dict[tuple[str, str], list[Row]]:
    """By setting and size, without the number of pixels, which differs from seed to seed."""
    sizes: dict[tuple[str, str], list[Row]] = {}
    for row in rows:
        width = row["widths"].partition("-")[2] if row["training"] != "steps" else row["widths"]
        sizes.setdefault((row["setting"], width), []).append(row)
    return sizes


def _errors(rows: list[Row]) -> dict[int | None, float]:
    return {int(row["seed"]): float(row["error"]) for row in rows}


def _table(rows: list[Row]) -> None:
    print("| setting | left | MACs | epochs | error, % [95 %] | of each seed |")
    print("| --- | --- | --- | --- | --- | --- |")
    for (setting, _), of in _by_size(rows).items():
        errors = _errors(of)
        left = ", ".join(dict.fromkeys(row["widths"] for row in of))
        macs = np.mean([int(row["macs"]) for row in of])
        print(
            f"| {setting} | {left} | {macs:,.0f} | {of[0]['epochs']} | {mean_of(errors)} | "
            f"{', '.join(f'{e:.2f}' for e in errors.values())} |"
        )


def _pairs(rows: list[Row]) -> None:
    """Print how many more errors EWN makes than its control, in pairs of one seed."""
    print("\n| EWN less its control, test data | setting | left | points [95 %] |")
    print("| --- | --- | --- | --- |")
    for training in ("once", "once_and_on"):
        control = training.replace("once", "once_lasso")
        other = {size: of for (_, size), of in _by_size(_of(rows, training=control)).items()}
        for (setting, size), of in _by_size(_of(rows, training=training)).items():
            if size in other:
                cell = difference(_errors(of), _errors(other[size]))
                print(f"| `{training}` less `{control}` | {setting} | {size} | {cell} |")


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
        one_quiet_thread()
        setting = args.setting or CHOSEN[args.network, args.training]
        split, seeds = ("val", [TRIAL_SEED]) if args.trial else ("test", args.seeds)
        for seed in seeds:
            key = {"network": args.network, "training": args.training, "seed": seed}
            if args.training == "steps":
                training = partial(steps, args.network, setting, seed, split)
            else:
                training = partial(once, args.network, args.training, setting, seed, split)
            have(FILE, key | {"split": split, "setting": setting}, training)
        print(describe())
    show(read_rows(FILE))


if __name__ == "__main__":
    main()
