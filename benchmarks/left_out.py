"""What the images left out would add to the gradient, on the way of a small run with all of them.

    python -m benchmarks.left_out             # EWN on 2,000 images, to log L = -100
    python -m benchmarks.left_out --depth 300

`ewnprune reproduce mnist` leaves out images with a share of 1e-7 in the loss: on a CPU those of the
start of a block of 20 epochs, in a stack on a GPU anew for each epoch. Here nothing is left out;
what would be is measured. "Of an epoch" is the norm of the gradient of the images left out, summed
over the steps of an epoch, over that of all images; "of a batch" the same for the worst batch of
it. "Done twice": blocks, or epochs, at whose end those images had come to a share of 1e-6.
"""

import argparse
import math
import tempfile
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from statistics import median

import torch
from torch import Tensor

from benchmarks.deep import show
from ewnprune.experiments.mnist_digits import (
    BATCH,
    HARMLESS,
    LEFT_OUT,
    Digits,
    counting,
    load_digits,
    share_of,
    shuffled,
)
from ewnprune.experiments.mnist_state import Run, begin, each_log_loss
from ewnprune.experiments.two_layer import Descent, TwoLayer

BLOCK = 20
BINS = (1.0, -3.0, -6.4, -8.0, -12.0, -20.0, -50.0, -100.0, -300.0)


@dataclass
class Seen:
    """One epoch: where it began, and what those left out would have been."""

    log_loss: float
    accepted: bool
    images: int
    of_epoch: float
    of_batch: float
    again: bool


def epoch(run: Run, data: Digits, counts: Tensor) -> tuple[float, float]:
    """An epoch with all images, and the shares in its gradient of those that do not count."""
    descent = Descent(
        run.method, TwoLayer.of(run.model), run.squared_norms(),
        run.controller.optimizer.param_groups[0]["lr"],
    )  # fmt: skip
    log_scale, worst = run.controller.state.log_scale.item(), 0.0
    rest = torch.zeros_like(descent.net.weight)
    whole = torch.zeros_like(rest)
    for batch in shuffled(len(data.y), run.seed, len(run.epochs)).split(BATCH):
        x, y, scale = data.x[batch], data.y[batch], log_scale + math.log(len(batch))
        out = ~counts[batch]
        full = descent.net.gradients(x, y, scale)[0].weight
        part = descent.net.gradients(x[out], y[out], scale)[0].weight
        worst = max(worst, (part.norm() / full.norm()).nan_to_num(0.0).item())
        rest, whole = rest + part, whole + full
        if not descent.step(x, y, scale):
            break
    return (rest.norm() / whole.norm()).item(), worst


def follow(data: Digits, hidden: int, depth: int, block: int) -> list[Seen]:
    """EWN with all images down to a depth."""
    with tempfile.TemporaryDirectory() as folder:
        run, _ = begin("EWN", 0, data, hidden, [depth], Path(folder))
    seen: list[Seen] = []
    each = each_log_loss(run.model, data)
    counts = counting(each, LEFT_OUT)
    while run.controller.log_loss > -depth:
        start = run.controller.log_loss
        of_epoch, of_batch = epoch(run, data, counts)
        tried = each_log_loss(run.model, data)
        log_loss = tried.logsumexp(0).item() - math.log(len(tried))
        decision = run.controller.judge(log_loss if math.isfinite(log_loss) else math.nan)
        run.record(decision, int(counts.sum()), 0.0)
        each = tried if decision.accepted else each
        # a stack looks at what it tried, a block at where it ended
        again = share_of(~counts, tried if block == 1 else each).item() > HARMLESS
        seen.append(Seen(start, decision.accepted, int(counts.sum()), of_epoch, of_batch, again))
        if len(seen) % block == 0:
            counts = counting(each, LEFT_OUT)
    return seen


def rows(seen: list[Seen], block: int, images: int) -> list[list[str]]:
    """By depth."""
    found = []
    ends = seen[block - 1 :: block]
    for top, bottom in pairwise(BINS):
        inside = [s for s in seen if bottom < s.log_loss <= top]
        kept = [s for s in inside if s.accepted and math.isfinite(s.of_epoch)]
        undone = [s for s in inside if not s.accepted and math.isfinite(s.of_epoch)]
        if not kept:
            continue
        judged = [s for s in ends if bottom < s.log_loss <= top]
        found.append(
            [f"{min(top, 0):g} to {bottom:g}", f"{len(inside)}",
             f"{100 * median(s.images for s in inside) / images:.0f} %",
             *(f"{f(s.of_epoch for s in kept):.1e}" for f in (median, max)),
             f"{max(s.of_batch for s in kept):.1e}",
             f"{median([s.of_epoch for s in undone] or [0.0]):.1e}",
             f"{sum(s.again for s in judged)} of {len(judged)}"]
        )  # fmt: skip
    return found


if __name__ == "__main__":
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--depth", type=int, default=100)
    options = parser.parse_args()
    torch.set_num_threads(1)
    torch.set_flush_denormal(True)
    _, test = load_digits(None)
    few = Digits(test.x[:2000], test.y[:2000])
    for block in (BLOCK, 1):
        print(f"Chosen every {block} epochs:\n" if block > 1 else "Chosen for every epoch:\n")
        show(
            "log L, epochs, images, kept: of an epoch (median), (max), of a batch (max), "
            "undone: of an epoch (median), done twice",
            rows(follow(few, 256, options.depth, block), block, 2000),
        )
