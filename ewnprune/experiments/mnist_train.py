"""The paper's training on MNIST, fast: epochs judged one by one, down to any depth of the loss.

Deep down, most images are classified so well that they no longer count: what an image adds to the
gradient is about its share of the loss. The easiest images, with a share of 1e-7 together, are
therefore left out for a block of epochs, of the steps and of the loss that is judged. At the end of
the block all are looked at. Should those left out have come to a share of 1e-6, the block is taken
back and done again with all images.

The share moves within an epoch, and early on by orders of magnitude: so none is left out above
log L = -8. Below it those left out have some millionths of the gradient of an epoch that is kept,
and of each of its batches (``python -m benchmarks.left_out``).
"""

import math
import time
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple, NoReturn

import numpy as np
import torch
from torch import Tensor, nn
from tqdm import tqdm

from ewnprune.experiments.descent import Method
from ewnprune.experiments.mnist_digits import (
    BATCH,
    HARMLESS,
    Digits,
    counting,
    may_leave_out,
    share_of,
    shuffled,
)
from ewnprune.experiments.mnist_state import (
    CHUNK,
    SAVE_EVERY,
    Run,
    begin,
    each_log_loss,
    exhausted,
    give_up,
    missing,
    nats,
    save,
    save_passed,
)
from ewnprune.experiments.two_layer import Descent, TwoLayer

_BLOCK = 20  # epochs


class Chosen(NamedTuple):
    """The images that count, those with the largest loss first.

    Attributes:
        digits: images and labels.
        place: ``(N,)``, where each image of the whole data is found in them, -1 if left out.
    """

    digits: Digits
    place: Tensor


def choose(each: Tensor, data: Digits, left_out: float) -> Chosen:
    """All images but the easiest ones, which together have a share of ``left_out`` in the loss."""
    hardest = each.argsort(descending=True, stable=True)
    chosen = hardest[counting(each, left_out)[hardest]]
    place = torch.full_like(hardest, -1)
    place[chosen] = torch.arange(len(chosen), device=place.device)
    return Chosen(Digits(data.x[chosen], data.y[chosen]), place)


@torch.no_grad()
def judged_log_loss(model: nn.Module, chosen: Chosen, highest: float) -> float:
    """Log of the mean loss, or a lower bound of it that is above ``highest`` already."""
    total, offset = torch.tensor(-torch.inf, dtype=torch.float64), float(np.log(len(chosen.place)))
    net, (x, y) = TwoLayer.of(model), chosen.digits
    for part in zip(x.split(CHUNK), y.split(CHUNK), strict=True):
        losses = net.log_losses(*part).double()
        total = torch.logaddexp(total, losses.logsumexp(0).cpu())
        if total.item() - offset > highest:
            break
    return total.item() - offset


@torch.no_grad()
def epoch(run: Run, chosen: Chosen) -> bool:
    """One pass over all images in batches; those left out add nothing to their batch.

    Returns:
        Whether it came to its end. It does not if a gradient of the output layer overflows: from
        then on its weights, and every loss, are infinite or not numbers.
    """
    controller, (x, y) = run.controller, chosen.digits
    lr = controller.optimizer.param_groups[0]["lr"]
    descent = Descent(run.method, TwoLayer.of(run.model), run.squared_norms(), lr)
    log_scale = controller.state.log_scale.item()
    order = shuffled(len(chosen.place), run.seed, len(run.epochs)).to(x.device)
    for batch in chosen.place[order].split(BATCH):
        found = batch[batch >= 0]
        if not len(found):  # the gradient is zero, and a step would change nothing
            continue
        log_size = float(np.log(len(batch)))
        if not descent.step(x[found], y[found], log_scale + log_size):
            return False
    return True


def train(
    method: Method,
    seed: int,
    data: Digits,
    hidden: int,
    depths: Sequence[int],
    folder: Path,
    bar: "tqdm[NoReturn]",
) -> None:
    """Train until ``log L`` has passed every depth; goes on where an interrupted run stopped.

    Writes ``depth<d>.pt`` (the weights when ``log L`` first falls below ``-d``, and at the start
    for d = 0), and ``state.pt`` to go on from.

    Raises:
        RuntimeError: 10,000 epochs kept are not enough.
    """
    if not missing(depths, folder):
        bar.update(max(depths))
        return
    run, left = begin(method, seed, data, hidden, depths, folder)
    # weights of dead neurons become denormal numbers, which slow a CPU down tenfold
    torch.set_flush_denormal(True)
    try:
        _until(left, max(depths), run, data, folder, bar)
    finally:
        torch.set_flush_denormal(False)


def _until(
    depths: list[int], goal: int, run: Run, data: Digits, folder: Path, bar: "tqdm[NoReturn]"
) -> None:
    saved = clock = time.monotonic()
    bar.update(nats(run, goal))
    each = each_log_loss(run.model, data)
    while depths and not exhausted(run):
        begun, before = run.state(), each
        for left_out in (may_leave_out(run.controller.log_loss), 0.0):
            chosen = choose(before, data, left_out)
            clock = _block(run, chosen, depths[0], goal, clock, bar)
            each = each_log_loss(run.model, data)
            if not share_left_out(each, chosen) > HARMLESS:
                break
            bar.update(-nats(run, goal))
            run.load(begun)
            bar.update(nats(run, goal))
        save_passed(run, depths, folder)
        if time.monotonic() - saved > SAVE_EVERY:
            saved = time.monotonic()
            save(folder / "state.pt", run.state())
    if depths:
        give_up(run, folder, depths[0])


def share_left_out(each: Tensor, chosen: Chosen) -> float:
    """What the images left out now add to the loss, as a fraction of it."""
    return share_of(chosen.place < 0, each).item()


def _block(
    run: Run, chosen: Chosen, depth: int, goal: int, clock: float, bar: "tqdm[NoReturn]"
) -> float:
    """A block of epochs, or fewer if the depth is reached; returns when it ended."""
    controller, shown = run.controller, nats(run, goal)
    for _ in range(_BLOCK):
        ended = epoch(run, chosen)
        attempted = judged_log_loss(run.model, chosen, controller.log_loss) if ended else math.nan
        decision = controller.judge(attempted)
        now = time.monotonic()
        run.record(decision, len(chosen.digits.y), now - clock)
        clock = now
        bar.update(nats(run, goal) - shown)
        shown = nats(run, goal)
        bar.set_postfix_str(f"log L {decision.log_loss:.2f}, epoch {len(run.epochs)}")
        if decision.log_loss < -depth or exhausted(run):
            break
    return clock
