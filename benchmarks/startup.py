"""How long until something happens: ``ewnprune --help``, and ``ewnprune fit`` to its first step.

    python -m benchmarks.startup

Each is a fresh process, all in turns, with files already in the page cache. Beside wall time
stands CPU time, which a busy machine stretches less.
"""

import argparse
import os
import resource
import subprocess
import sys
import tempfile
import time
from statistics import median
from typing import Any

from pytorch_lightning import Callback

from benchmarks.machine import describe

FIT = ["-m", "ewnprune", "fit", "--trainer.enable_progress_bar=false"]
COMMANDS = {
    "python -c pass": ["-c", "pass"],
    "import torch": ["-c", "import torch"],
    "import LightningCLI": ["-c", "import pytorch_lightning.cli"],
    "ewnprune --help": ["-m", "ewnprune", "--help"],
    "ewnprune --version": ["-m", "ewnprune", "--version"],
    "ewnprune fit, to its first step": [*FIT, "--trainer.callbacks=benchmarks.startup.Stop"],
}


class Stop(Callback):
    """Ends the process after the first step."""

    def on_train_batch_end(self, *_: Any, **__: Any) -> None:
        os._exit(0)


def run(arguments: list[str], folder: str) -> tuple[float, float]:
    """Wall and CPU seconds of a Python process."""
    before, start = resource.getrusage(resource.RUSAGE_CHILDREN), time.perf_counter()
    environment = {**os.environ, "PYTHONPATH": os.getcwd()}
    subprocess.run(
        [sys.executable, *arguments], cwd=folder, env=environment, check=True, capture_output=True
    )
    wall, after = time.perf_counter() - start, resource.getrusage(resource.RUSAGE_CHILDREN)
    return wall, after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime


def main() -> None:
    """Measure, and print the table."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--rounds", type=int, default=5)
    rounds = parser.parse_args().rounds
    seconds: dict[str, list[tuple[float, float]]] = {name: [] for name in COMMANDS}
    with tempfile.TemporaryDirectory() as folder:
        for turn in range(rounds + 1):
            for name, arguments in COMMANDS.items():
                measured = run(arguments, folder)
                if turn:  # the first fills the page cache
                    seconds[name].append(measured)
    print(f"\n{rounds} rounds. {describe()}\n")
    print("| command | CPU s: min | median | max | wall s: min | median | max |")
    print("| --- | --- | --- | --- | --- | --- | --- |")
    for name, pairs in seconds.items():
        walls, cpus = zip(*pairs, strict=True)
        cells = (f"{f(values):.2f}" for values in (cpus, walls) for f in (min, median, max))
        print(f"| {name} | {' | '.join(cells)} |")
    over = [
        fit[1] - cli[1]
        for fit, cli in zip(
            seconds["ewnprune fit, to its first step"], seconds["import LightningCLI"], strict=True
        )
    ]
    print(f"\nfit to its first step over importing LightningCLI: {median(over):.2f} s of CPU")


if __name__ == "__main__":
    main()
