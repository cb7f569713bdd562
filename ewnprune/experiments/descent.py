"""Full-batch gradient descent in weight space, for runs stacked along the first dimension."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Literal, NoReturn

import torch
from torch import Tensor
from tqdm import tqdm

from ewnprune.drawing import method_colors
from ewnprune.training.loss_rate import LossDrivenRate, RateState
from ewnprune.training.steps import weight_space_step

Method = Literal["EWN", "SWN", "none"]
METHODS: tuple[Method, ...] = ("EWN", "SWN", "none")
COLORS = method_colors(METHODS)

LogLoss = Callable[[list[Tensor]], Tensor]
"""From the weights of each layer, ``(runs, neurons, inputs)``, to ``log L``, ``(runs,)``."""


def paper_rate(lr_limit: float, frac: float) -> LossDrivenRate:
    """The rule of the paper's small experiments.

    The authors raise the rate by a tenth while it is *below* the limit, so their cap lies above it.
    """
    lr = 0.01
    while lr < lr_limit:
        lr *= 1.1
    return LossDrivenRate(lr=0.01, lr_max=lr, power=1 / frac, lagged=True)


@dataclass
class Runs:
    """Runs of one method side by side.

    Attributes:
        weights: per layer, ``(runs, neurons, inputs)``.
        squared_norms: ``||v||^2`` of each neuron, ``(runs, neurons, 1)`` per layer.
        previous: the weights before the last step kept.
        gradients: of ``log L`` at the weights, per layer.
        state: learning rate, log loss and counts, ``(runs,)`` each.
    """

    weights: list[Tensor]
    squared_norms: list[Tensor]
    previous: list[Tensor]
    gradients: list[Tensor]
    state: RateState


def gradients(log_loss: LogLoss, weights: Sequence[Tensor]) -> tuple[Tensor, list[Tensor]]:
    """``log L`` of each run, and its gradient with respect to each layer."""
    leaves = [w.detach().requires_grad_() for w in weights]
    values = log_loss(leaves)
    return values.detach(), list(torch.autograd.grad(values.sum(), leaves))


def step(
    method: Method,
    weights: Sequence[Tensor],
    grads: Sequence[Tensor],
    squared_norms: Sequence[Tensor],
    eta: Tensor | float,
) -> tuple[list[Tensor], list[Tensor]]:
    """New weights and ``||v||^2`` of each layer after a step of gradient descent of size eta."""
    if method == "none":
        return [w - eta * g for w, g in zip(weights, grads, strict=True)], list(squared_norms)
    moved = [
        weight_space_step(w, g, n, eta, method)
        for w, g, n in zip(weights, grads, squared_norms, strict=True)
    ]
    return [w for w, _ in moved], [n for _, n in moved]


def unit_norms(weights: Sequence[Tensor]) -> list[Tensor]:
    """``||v||^2 = 1`` for every neuron."""
    return [torch.ones_like(w[..., :1]) for w in weights]


def descend(
    method: Method,
    weights: Sequence[Tensor],
    log_loss: LogLoss,
    rate: LossDrivenRate,
    limit: float,
    *,
    max_attempts: int,
    bar: "tqdm[NoReturn]",
    observe: Callable[[Runs], None] | None = None,
) -> Runs:
    """Gradient descent with the loss-driven rate, until every run has passed the limit.

    As in the paper, a run ends after the first step that *begins* at ``log L < -limit``.

    Args:
        method: "EWN", "SWN" or "none".
        weights: the initial weights of each layer, with ``||v|| = 1``.
        log_loss: the logarithm of the loss.
        rate: the rule for the learning rate.
        limit: depth of the loss, in nats.
        max_attempts: give up after so many steps, kept or undone.
        bar: moves on by one per attempt.
        observe: called before every attempt.
    """
    values, grads = gradients(log_loss, weights)
    runs = Runs(list(weights), unit_norms(weights), list(weights), grads, rate.start(values))
    running = torch.ones_like(values, dtype=torch.bool)
    for _ in range(max_attempts):
        if observe is not None:
            observe(runs)
        state = runs.state
        eta = rate.step_size(state) * torch.exp(state.log_loss - state.log_scale)
        tried, norms = step(
            method, runs.weights, runs.gradients, runs.squared_norms, eta.view(-1, 1, 1)
        )
        values, grads = gradients(log_loss, tried)
        kept, decided = rate.decide(state, values)
        last = running & kept & (state.log_loss < -limit)
        kept &= running
        runs.state = RateState(
            *(torch.where(running, a, b) for a, b in zip(decided, state, strict=True))
        )
        runs.previous = _where(kept, runs.weights, runs.previous)
        runs.weights = _where(kept, tried, runs.weights)
        runs.squared_norms = _where(kept, norms, runs.squared_norms)
        runs.gradients = _where(kept, grads, runs.gradients)
        bar.update()
        running &= ~last
        if not running.any():
            break
    return runs


def _where(chosen: Tensor, new: Sequence[Tensor], old: Sequence[Tensor]) -> list[Tensor]:
    mask = chosen.view(-1, 1, 1)
    return [torch.where(mask, a, b) for a, b in zip(new, old, strict=True)]
