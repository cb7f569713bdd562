"""Trials of "every image sees every network", MNIST, 784-1024-10, 20 epochs, on validation data.

    python -m benchmarks.every_trials --device cuda
    python -m benchmarks.every_trials --table

Settings are the rows of ``benchmarks/every_trials.csv``. Those of one round differ in nothing else
and train at once, each with eight seeds (`benchmarks.many_networks`: 96 networks are a minute of
an H100, and three hours of one core). Rows without accuracies are trained, so that a trial is a
line written into the file. The table has the best of each kind: where the level that falls
furthest below its aim does so the least, all levels counting a little. Aims are of test images, of
which 0.1 to 0.4 points more come out right than of these validation images.
"""

import argparse
from pathlib import Path

import numpy as np
import torch

from benchmarks.machine import describe
from benchmarks.many_networks import LEVELS, Setting, read_images, train_all
from ewnprune.files import read_rows, write_rows

FILE = Path(__file__).with_suffix(".csv")
KIND = ("parametrization", "batch", "sizes", "seeds")
AIMS = {0.0: 98.7, 0.9: 98.6, 0.95: 98.3, 0.98: 97.0}
EPOCHS = 20

Row = dict[str, str]


def setting_of(row: Row) -> Setting:
    """A row as the training takes it.

    >>> row = dict.fromkeys(Setting._fields, "0") | {"rate": "0.5", "weights": "0.25 0.75"}
    >>> setting_of(row).rate, setting_of(row).weights
    (0.5, (0.25, 0.75))
    """
    numbers = {name: float(row[name]) for name in Setting._fields if name != "weights"}
    return Setting(weights=tuple(map(float, row["weights"].split())), **numbers)


def fill(rows: list[Row], device: str) -> None:
    """Train the rows of one round, and write their accuracies into them."""
    first, last = map(int, rows[0]["seeds"].split("-"))
    found = train_all(
        [setting_of(row) for row in rows], [*range(first, last + 1)],
        rows[0]["parametrization"] == "EWN", tuple(map(int, rows[0]["sizes"].split("-"))),
        int(rows[0]["batch"]), EPOCHS, read_images(device),
    )  # fmt: skip
    for row, rates in zip(rows, found.mean(1), strict=True):
        row |= {f"{level:g}": f"{rate:.2f}" for level, rate in zip(LEVELS, rates, strict=True)}


def value(row: Row) -> float:
    """By how much it falls short of the aims: the worst level, and a quarter of the mean."""
    short = [float(row[f"{level:g}"]) - aim for level, aim in AIMS.items()]
    return float(min(short) + np.mean(short) / 4)


def show(rows: list[Row], best: int) -> None:
    """Print the best of each kind in Markdown."""
    for kind in dict.fromkeys(tuple(row[name] for name in KIND) for row in rows):
        of = [row for row in rows if tuple(row[name] for name in KIND) == kind and row["0"]]
        print(f"\n{len(of)} settings: ", *(f"{n} {k}," for n, k in zip(KIND, kind, strict=True)))
        names = (*Setting._fields, *(f"{level:g}" for level in LEVELS))
        print(f"\n| {' | '.join(names)} |\n|{' --- |' * len(names)}")
        for row in sorted(of, key=value, reverse=True)[:best]:
            print(f"| {' | '.join(row[name] for name in names)} |")


def main() -> None:
    """Train what has no accuracies yet, and print the best."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument("--best", type=int, default=3, help="rows of each kind to print")
    parser.add_argument("--table", action="store_true", help="show what was measured before")
    args = parser.parse_args()
    torch.backends.cuda.matmul.allow_tf32 = True
    rows = read_rows(FILE)
    for number in dict.fromkeys(row["round"] for row in rows):
        new = [row for row in rows if row["round"] == number and not row["0"]]
        if new and not args.table:
            fill(new, args.device)
            write_rows(FILE, rows, line_end="\n")
            print(f"round {number}: {len(new)} settings.", describe(), flush=True)
    show(rows, args.best)


if __name__ == "__main__":
    main()
