"""Deep training on MNIST: what an epoch costs, and how many of them a nat takes.

    python -m benchmarks.deep                # trains EWN to log L = -10 in runs/deep/EWN-0 first
    python -m benchmarks.deep --run FOLDER   # of a run of `ewnprune reproduce mnist`, at any depth
    python -m benchmarks.deep --factors      # other factors of the learning rate, in small

prints Markdown tables. The first has the epochs that the run took. The second has an epoch by
autograd with all images (plain) and as ``ewnprune reproduce mnist`` does it (fast), interleaved,
min / median / max, beside the floor: the products with the weight that the images which count take,
at the rate of one large product. All in one thread and in seconds of CPU time, which other work on
the machine disturbs less than the clock's.
"""

import argparse
import math
import tempfile
import time
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from itertools import chain
from pathlib import Path
from statistics import median
from typing import Any

import torch
from torch import Tensor
from tqdm import tqdm

from ewnprune.experiments import mnist_state, mnist_train, two_layer
from ewnprune.experiments.mnist_digits import LEFT_OUT, Digits, load_digits
from ewnprune.experiments.mnist_runs import history
from ewnprune.experiments.mnist_state import Run, each_log_loss, network
from ewnprune.experiments.mnist_train import choose
from ewnprune.training.loss_rate import LossController, LossDrivenRate, RateState
from ewnprune.training.losses import LogCrossEntropyLoss
from ewnprune.training.optimizers import EWNSGD, neuron_param_groups

FACTORS = [(1.1, 1.1), (1.1, 1.3), (1.1, 2), (1.05, 1.05), (1.05, 1.5), (1.2, 1.2)]


def cpu_time(work: Callable[[], object]) -> float:
    """Seconds that this thread computes, not those that it waits."""
    begun = time.thread_time()
    work()
    return time.thread_time() - begun


def spread(values: list[float]) -> str:
    """Min / median / max."""
    return f"{min(values):.2f} / {median(values):.2f} / {max(values):.2f}"


def plain_steps(controller: LossController, data: Digits, order: Tensor) -> None:
    """Steps by the model, autograd and the optimizer."""
    for batch in order.split(128):
        controller.optimizer.zero_grad()
        log_loss = LogCrossEntropyLoss()(controller.model(data.x[batch]), data.y[batch])
        controller.relative(log_loss).backward()
        controller.optimizer.step()


def plain_loss(controller: LossController, data: Digits) -> None:
    """The loss of every image by the model."""
    with torch.no_grad():
        for x, y in zip(data.x.split(5000), data.y.split(5000), strict=True):
            LogCrossEntropyLoss("none")(controller.model(x), y)


def measure(
    where: str, weights: dict[str, Tensor], data: Digits, rounds: int, share: float
) -> list[str]:
    """One row: an epoch from these weights, plain and fast, timed on a share of it."""
    model = network(1024, 0)
    model.load_state_dict(weights)
    each = each_log_loss(model, data)
    log_loss = (each.logsumexp(0) - math.log(len(each))).item()
    optimizer = EWNSGD(neuron_param_groups(model), lr=1.0)
    # a rate at which nothing moves: every epoch is measured from the same place
    controller = LossController(model, optimizer, log_loss, LossDrivenRate(lr=1e-12))
    run, chosen = Run("EWN", 0, controller, []), choose(each, data, LEFT_OUT)
    some = torch.randperm(len(each))[: int(share * len(each))]
    hard = torch.randperm(len(chosen.digits.y))[: int(share * len(chosen.digits.y))]
    part, steps = Digits(data.x[some], data.y[some]), chosen._replace(place=chosen.place[some])
    judged = chosen._replace(digits=Digits(chosen.digits.x[hard], chosen.digits.y[hard]))
    plain, fast = [], []
    for _ in range(rounds + 1):
        seconds = cpu_time(lambda: plain_steps(controller, data, some))
        plain.append((seconds + cpu_time(lambda: plain_loss(controller, part))) / share)
        seconds = cpu_time(lambda: mnist_train.epoch(run, steps))
        whole = cpu_time(lambda: mnist_train.judged_log_loss(model, judged, math.inf))
        fast.append((seconds + whole) / share)
    plain, fast = plain[1:], fast[1:]  # the first warms up
    images, rate = len(chosen.digits.y), product_rate()
    floor = 3 * 2 * images * 784 * 1024 / rate  # forward and backward, and the loss after the epoch
    return [
        where, f"{log_loss:.1f}", f"{100 * images / len(each):.0f} %", spread(plain), spread(fast),
        spread([a / b for a, b in zip(plain, fast, strict=True)]), f"{floor:.2f}",
        f"{rate / 1e9:.0f}",
    ]  # fmt: skip


def product_rate() -> float:
    """Floating-point operations per second in the product of two large matrices."""
    a = torch.randn(2048, 2048)
    seconds = [cpu_time(lambda: two_layer._product(a, a, a[0])) for _ in range(4)]
    return 2 * 2048**3 / min(seconds)


def epochs_per_depth(rows: list[dict[str, Any]], width: int = 10) -> list[list[str]]:
    """Rows by depth: epochs tried and kept, those that overflowed, images and seconds."""
    found = []
    for top in range(0, int(-rows[-1]["log_loss"]) + 1, width):
        inside = [r for r in rows if top <= -r["log_loss"] < top + width]
        if not inside:
            continue
        kept = sum(r["accepted"] for r in inside)
        overflowed = sum(math.isnan(r["attempted_log_loss"]) for r in inside)
        images = median(r["images"] for r in inside)
        nats = min(top + width, -rows[-1]["log_loss"]) - top
        found.append(
            [f"-{top} to -{top + nats:.0f}", f"{len(inside)}", f"{kept}", f"{overflowed}",
             f"{len(inside) / nats:.1f}", f"{100 * images / 60_000:.0f} %"]
        )  # fmt: skip
    return found


@dataclass(frozen=True)
class TwoFactors(LossDrivenRate):
    """Raises the rate by one factor and lowers it by another."""

    down: float = 1.1

    def decide(self, state: RateState, log_loss: Tensor) -> tuple[Tensor, RateState]:
        kept, decided = super().decide(state, log_loss)
        return kept, decided._replace(lr=torch.where(kept, decided.lr, state.lr / self.down))


def try_factors(images: Digits, depth: int) -> Iterator[list[str]]:
    """EWN on 2,000 images and 256 hidden neurons until log L = -depth, for each pair of factors."""
    few = Digits(images.x[:2000], images.y[:2000])
    for up, down in FACTORS:
        mnist_state.LossDrivenRate = lambda lr, u=up, d=down: TwoFactors(lr=lr, factor=u, down=d)
        with tempfile.TemporaryDirectory() as name, tqdm(disable=True) as bar:
            begun = time.thread_time()
            mnist_train.train("EWN", 0, few, 256, [depth], Path(name), bar)
            seconds = time.thread_time() - begun
            rows = history(Path(name))
        kept = sum(row["accepted"] for row in rows)
        yield [f"{up}", f"{down}", f"{len(rows)}", f"{kept}", f"{seconds:.1f}"]


def show(header: str, rows: Iterable[list[str]]) -> None:
    """Print a table in Markdown."""
    columns = header.split(", ")
    for cells in chain([columns, ["---"] * len(columns)], rows):
        print("| " + " | ".join(cells) + " |", flush=True)
    print()


def time_epochs(folder: Path, data: Digits, rounds: int, share: float) -> Iterator[list[str]]:
    """Rows of `measure` from where the run passed -10, and from where it is."""
    torch.set_flush_denormal(True)  # as in training
    for name, where, key in (("depth10.pt", "-10", "weights"), ("state.pt", "its end", "model")):
        weights = torch.load(folder / name, weights_only=True)[key]
        yield measure(where, weights, data, rounds, share)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--run", type=Path, default=Path("runs") / "deep" / "EWN-0")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--share", type=float, default=0.1, help="of an epoch, to be timed")
    parser.add_argument("--factors", action="store_true")
    parser.add_argument("--depth", type=int, default=40, help="of --factors")
    options = parser.parse_args()
    torch.set_num_threads(1)
    training, test = load_digits(None)
    if options.factors:
        header = "raised by, lowered by, epochs tried, kept, CPU seconds"
        show(header, try_factors(test, options.depth))
    else:
        with tqdm(total=10, desc="to -10", unit="nat") as bar:
            mnist_train.train("EWN", 0, training, 1024, [10], options.run, bar)
        header = "log L, epochs tried, kept, overflowed, tried per nat, images"
        show(header, epochs_per_depth(history(options.run)))
        header = "from, log L, images, plain (s), fast (s), plain / fast, floor (s), GFLOP/s"
        show(header, time_epochs(options.run, training, options.rounds, options.share))
