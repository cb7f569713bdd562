"""The runs of lin-sep: their network and data, and what is seen of each point on the way."""

import math
from dataclasses import dataclass
from typing import NoReturn

import torch
from torch import Tensor, nn
from tqdm import tqdm

from ewnprune.experiments.descent import Method, Runs, descend, gradients, paper_rate, step
from ewnprune.training.losses import log_softplus
from ewnprune.training.relations import Relations, relate

_X = torch.tensor([[1, 1], [1.7225, 1.1077], [-1, 1], [-1.4815, -1.3916]], dtype=torch.float64)
_Y = torch.tensor([-1, -1, 1, 1], dtype=torch.float64)
_DEGREE = 3
GROWING: dict[Method, list[int]] = {"EWN": [5, 7, 8], "SWN": [5, 6, 8]}
FAR = 10_000
MARKS = [FAR ** (1 - k / 60) for k in range(23)]
"""Where on the way from 300, where the runs end, to there points are kept: even in its log."""


@dataclass
class Course:
    """A run, point by point: the relations of its nine neurons ``(points, 9)``, and the loss.

    Gradients are those of ``log L``. The margin is ``min y f(x) / ||weights||^3``.
    """

    found: Relations
    log_loss: Tensor
    margin: Tensor

    def at(self, depth: float) -> int:
        """The first point deeper than ``-depth``."""
        return int((self.log_loss < -depth).nonzero()[0])

    def spread(self, method: Method, quantity: str, point: int) -> float:
        """Largest over smallest product or quotient, among the neurons that grow."""
        values = getattr(self.found, quantity)[point, GROWING[method]]
        return float(values.max() / values.min())

    def wild(self, method: Method) -> slice:
        """From the first to the last point where a product jumps up and down, the step too large.

        A jump is by more than a fiftieth of the mean of the neurons that grow.
        """
        values = self.found.product[:, GROWING[method]]
        jumps = (values / values.mean(1, keepdim=True)).diff(dim=0)
        to_and_fro = (jumps[1:] * jumps[:-1] < 0) & (jumps[1:].abs() > 0.02)
        points = to_and_fro.any(1).nonzero().flatten() + 1
        return slice(int(points[0]), int(points[-1]) + 2)


class _Recorder:
    def __init__(self) -> None:
        self.points: list[tuple[Tensor, ...]] = []

    def __call__(self, weights: list[Tensor], grads: list[Tensor], log_loss: Tensor) -> None:
        layers = [relate(w[0], g[0]) for w, g in zip(weights, grads, strict=True)]
        found = [
            torch.cat(parts) for parts in zip(*(vars(x).values() for x in layers), strict=True)
        ]
        margin = _outputs(weights).min() / found[0].norm() ** _DEGREE
        self.points.append((*found, log_loss[0], margin))

    def course(self) -> Course:
        *found, log_loss, margin = (torch.stack(c) for c in zip(*self.points, strict=True))
        return Course(Relations(*found), log_loss, margin)


def _outputs(weights: list[Tensor]) -> Tensor:
    return _Y * (weights[1] @ torch.relu(weights[0] @ _X.T).square()).squeeze(-2)


def _log_loss(weights: list[Tensor]) -> Tensor:
    return log_softplus(-_outputs(weights)).logsumexp(-1)


def _start() -> list[Tensor]:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(2137)
        layers = [nn.Linear(2, 8, bias=False), nn.Linear(8, 1, bias=False)]
    return [layer.weight.detach().double().unsqueeze(0) for layer in layers]


def course_down(method: Method, bar: "tqdm[NoReturn]") -> tuple[Course, Runs]:
    """By the authors' rule to ``log L = -300``, and where that ends."""
    record = _Recorder()

    def observe(runs: Runs) -> None:
        if runs.state.accepted[0] == len(record.points):  # else the last attempt was undone
            record(runs.weights, runs.gradients, runs.state.log_loss)

    end = descend(
        method, _start(), _log_loss, paper_rate(0.01, 30), 300,
        max_attempts=50_000, bar=bar, observe=observe,
    )  # fmt: skip
    return record.course(), end


def go_on(
    weights: list[Tensor], squared_norms: list[Tensor], bar: "tqdm[NoReturn]"
) -> tuple[Course, list[float]]:
    """EWN in steps that lower log L by a quarter, to first order; and t L u^2 with u = -log L.

    t is the sum of the step sizes, that is, the time of gradient flow.
    """
    record, rates, log_t = _Recorder(), [], -math.inf
    marks = list(MARKS)
    while True:
        log_loss, grads = gradients(_log_loss, weights)
        u = -log_loss.item()
        while marks and u > marks[-1]:
            record(weights, grads, log_loss)
            rates.append(math.exp(log_t - u) * u * u)
            marks.pop()
        if not marks:
            return record.course(), rates
        speed = sum(
            (w.square().sum(-1) * g.square().sum(-1)).sum()
            for w, g in zip(weights, grads, strict=True)
        )
        eta = 0.25 / float(speed)
        log_t = float(torch.logaddexp(torch.tensor(log_t), torch.tensor(math.log(eta) + u)))
        weights, squared_norms = step("EWN", weights, grads, squared_norms, eta)
        bar.update()
