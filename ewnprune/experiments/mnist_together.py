"""The training of `mnist_train` on a GPU: all runs take their steps together.

Nothing is read back within an epoch. After it each run is judged by itself, on all images, so that
none depends on its company. Images that do not count are left out as on the CPU, from the same
depth on, but chosen anew for every epoch: of each batch those that count come first, and as many
are computed as any batch of any run needs.
"""

import math
import time
from collections.abc import Sequence
from functools import lru_cache
from pathlib import Path
from typing import NoReturn

import torch
from torch import Tensor
from tqdm import tqdm

from ewnprune.experiments.descent import Method
from ewnprune.experiments.mnist_digits import (
    HARMLESS,
    Digits,
    counting,
    may_leave_out,
    share_of,
    shuffled,
)
from ewnprune.experiments.mnist_stack import Stack, Steps, each_log_loss
from ewnprune.experiments.mnist_state import (
    SAVE_EVERY,
    Run,
    begin,
    exhausted,
    give_up,
    missing,
    nats,
    save,
    save_passed,
)
from ewnprune.experiments.two_layer import TwoLayer

_order = lru_cache(maxsize=64)(shuffled)


def train_together(
    wanted: Sequence[tuple[Method, int, Path]],
    data: Digits,
    hidden: int,
    depths: Sequence[int],
    bar: "tqdm[NoReturn]",
) -> None:
    """Train as `mnist_train.train` does, which can go on from the files, and the other way round.

    Args:
        wanted: method, seed and folder of each run.
        data: the images, on the device to compute on.
        hidden: neurons of the hidden layer.
        depths: of the loss, in nats, to save the weights at.
        bar: moves on by the nats of all runs.

    Raises:
        RuntimeError: 10,000 epochs kept are not enough for a run; the others have ended.
    """
    goal = max(depths)
    begun = []
    for method, seed, folder in wanted:
        if missing(depths, folder):
            begun.append((*begin(method, seed, data, hidden, depths, folder), folder))
        else:
            bar.update(goal)
    bar.update(sum(nats(run, goal) for run, _, _ in begun))
    running = [(run, left, folder) for run, left, folder in begun if left]
    while running:
        runs = [run for run, _, _ in running]
        stack = Stack.of([r.method for r in runs], [TwoLayer.of(r.model) for r in runs])
        _until_one_ends(running, stack, data, goal, bar)
        for run, _, folder in running:
            save(folder / "state.pt", run.state())
        running = [(run, left, f) for run, left, f in running if left and not exhausted(run)]
    for run, left, folder in begun:
        if left:
            give_up(run, folder, left[0])


def _held(run: Run) -> list[Tensor]:
    """What a run holds of its `Stack.tensors`."""
    return [*TwoLayer.of(run.model), run.squared_norms()]


def _take(stack: Stack, runs: Sequence[Run]) -> None:
    """Copy what the runs hold into the stack, and prepare its epoch."""
    for place, run in enumerate(runs):
        for mine, theirs in zip(stack.tensors(place), _held(run), strict=True):
            mine.copy_(theirs)
        stack.lr[place] = run.controller.optimizer.param_groups[0]["lr"]
        stack.log_scale[place] = run.controller.state.log_scale.item()
    stack.squares.copy_(stack.net.weight.square().sum(-1, keepdim=True))


@torch.no_grad()
def _until_one_ends(
    running: Sequence[tuple[Run, list[int], Path]],
    stack: Stack,
    data: Digits,
    goal: int,
    bar: "tqdm[NoReturn]",
) -> None:
    runs, images = [run for run, _, _ in running], len(data.y)
    steps = Steps(stack, data)
    left_out = data.x.new_tensor(
        [[may_leave_out(run.controller.log_loss)] for run in runs], dtype=torch.float64
    )
    _take(stack, runs)
    each = each_log_loss(stack, data)
    saved = clock = time.monotonic()
    shown = sum(nats(run, goal) for run in runs)
    while all(left and not exhausted(run) for run, left, _ in running):
        orders = [_order(images, run.seed, len(run.epochs)) for run in runs]
        order, counts = torch.stack(orders).to(data.x.device), counting(each, left_out)
        steps.take(order, counts.gather(1, order))
        for run in runs:  # while the GPU works
            _order(images, run.seed, len(run.epochs) + 1)
        tried = each_log_loss(stack, data)
        log_sum = tried.logsumexp(1)
        share = share_of(~counts, tried).tolist()
        log_loss, counted = (log_sum - math.log(images)).tolist(), counts.sum(1).tolist()
        now = time.monotonic()
        for k, (run, left, folder) in enumerate(running):
            # should images that were left out have come to count, the epoch is done again with all
            if share[k] > HARMLESS:
                left_out[k] = 0.0
                continue
            for mine, theirs in zip(stack.tensors(k), _held(run), strict=True):
                theirs.copy_(mine)
            finite = math.isfinite(log_loss[k])
            decision = run.controller.judge(log_loss[k] if finite else math.nan)
            run.record(decision, counted[k], now - clock)
            if decision.accepted:
                each[k] = tried[k]
            left_out[k] = may_leave_out(decision.log_loss)
            save_passed(run, left, folder)
        _take(stack, runs)
        before, shown = shown, sum(nats(run, goal) for run in runs)
        bar.update(shown - before)
        deepest, shallowest = (f(run.controller.log_loss for run in runs) for f in (min, max))
        bar.set_postfix_str(f"log L {deepest:.1f} to {shallowest:.1f}")
        clock = now
        if now - saved > SAVE_EVERY:
            saved = now
            for run, _, folder in running:
                save(folder / "state.pt", run.state())
