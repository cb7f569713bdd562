"""How many epochs EWN needs to log L = -100 if ``||v||^2`` is larger when it passes -10.

    python -m benchmarks.larger_n   # three seeds on 2,000 images, some minutes

Each run is trained to -10 as by `ewnprune reproduce mnist-small`, then once as it is and once with
``n = ||v||^2`` of every neuron multiplied by a factor, which leaves the network the same and its
directions slower.
"""

import argparse
import tempfile
from collections.abc import Iterator
from pathlib import Path

import torch
from tqdm import tqdm

from benchmarks.deep import show
from ewnprune.experiments.mnist_digits import Digits, load_digits
from ewnprune.experiments.mnist_runs import history
from ewnprune.experiments.mnist_train import train

FROM, TO = 10, 100


def epochs_kept(seed: int, data: Digits, factor: float) -> int:
    """Epochs kept on the way from -10 to -100."""
    with tempfile.TemporaryDirectory() as name, tqdm(disable=True) as bar:
        folder = Path(name)
        train("EWN", seed, data, 256, (FROM,), folder, bar)
        before = sum(row["accepted"] for row in history(folder))
        state = torch.load(folder / "state.pt", weights_only=True)
        for optimizer in (state["optimizer"], state["controller"]["optimizer"]):
            for parameter in optimizer["state"].values():
                parameter["n"].mul_(factor)
        torch.save(state, folder / "state.pt")
        train("EWN", seed, data, 256, (FROM, TO), folder, bar)
        return sum(row["accepted"] for row in history(folder)) - before


def rows(seeds: int, data: Digits, factor: float) -> Iterator[list[str]]:
    """A row for each seed."""
    for seed in range(seeds):
        plain, larger = (epochs_kept(seed, data, f) for f in (1.0, factor))
        yield [f"{seed}", f"{plain}", f"{larger}", f"{larger / plain:.3f}"]


if __name__ == "__main__":
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--factor", type=float, default=1.5)
    options = parser.parse_args()
    torch.set_num_threads(1)
    _, test = load_digits(None)
    few = Digits(test.x[:2000], test.y[:2000])
    header = f"seed, epochs kept, with n times {options.factor:g}, ratio"
    show(header, rows(options.seeds, few, options.factor))
