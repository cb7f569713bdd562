"""Simple-Traj: one data point and two weights, each its own neuron.

On the point x = (2, 1) with label +1 and the loss exp(-w.x), plain descent moves along (2, 1),
while EWN keeps 1/w1 - 2/w2, and so ends along one axis: which, its sign at the start decides.
"""

from collections.abc import Sequence
from pathlib import Path
from typing import NoReturn

import torch
from matplotlib.figure import Figure
from torch import Tensor
from tqdm import tqdm

from ewnprune.experiments.descent import COLORS, Method, Runs, descend, paper_rate
from ewnprune.experiments.reference import read
from ewnprune.experiments.verdict import (
    Criterion,
    below,
    near,
    write_csv,
    write_figure,
)
from ewnprune.training.loss_rate import LossDrivenRate

_X = torch.tensor([2.0, 1.0], dtype=torch.float64)
_STARTS = ((1, 1), (3, 1), (1, 3), (5, 1), (1, 5))
_METHODS: tuple[Method, ...] = ("EWN", "none")


def _log_loss(weights: list[Tensor]) -> Tensor:
    return -(weights[0].squeeze(-1) @ _X)


def trajectories(
    method: Method, rule: LossDrivenRate, bar: "tqdm[NoReturn]"
) -> tuple[Tensor, Tensor]:
    """Weights after every step, ``(steps + 1, runs, 2)``, and the number of steps of each run.

    A run that has ended repeats its last point.
    """
    seen: list[Tensor] = []

    def observe(runs: Runs) -> None:
        seen.append(runs.weights[0].squeeze(-1))

    start = torch.tensor(_STARTS, dtype=torch.float64).unsqueeze(-1)
    end = descend(
        method, [start], _log_loss, rule, 50, max_attempts=50_000, bar=bar, observe=observe
    )
    return torch.stack([*seen, end.weights[0].squeeze(-1)]), end.state.accepted


def run(out: Path) -> list[Criterion]:
    """Run the experiment; writes ``trajectories.csv`` and the figure."""
    with tqdm(total=2828 + 565, desc="simple-traj", unit="step", leave=False) as bar:
        paths = {method: trajectories(method, paper_rate(0.1, 10), bar) for method in _METHODS}
        slower, _ = trajectories("EWN", paper_rate(0.01, 10), bar)
    write_csv(
        out / "trajectories.csv",
        [
            {
                "method": method,
                "w1_init": start[0],
                "w2_init": start[1],
                "step": step,
                "w1": path[step, i, 0].item(),
                "w2": path[step, i, 1].item(),
            }
            for method, (path, steps) in paths.items()
            for i, start in enumerate(_STARTS)
            for step in _shown(int(steps[i]))
        ],
    )
    write_figure(out, _figure(paths))
    return _judge(paths, slower)


def _shown(steps: int) -> Sequence[int]:
    return sorted({*range(0, steps + 1, max(1, steps // 100)), steps})


def _judge(paths: dict[Method, tuple[Tensor, Tensor]], slower: Tensor) -> list[Criterion]:
    logged = [
        r for method in _METHODS for r in read("simple_traj_endpoints") if r["method"] == method
    ]
    points = torch.tensor(
        [[float(r["w1_end"]), float(r["w2_end"])] for r in logged], dtype=torch.float64
    )
    ours = torch.cat([paths[method][0][-1] for method in _METHODS])
    steps = torch.cat([paths[method][1] for method in _METHODS]).tolist()
    wrong_steps = sum(a != int(r["steps"]) for a, r in zip(steps, logged, strict=True))
    ewn = 1 / paths["EWN"][0][..., 0] - 2 / paths["EWN"][0][..., 1]
    end = paths["EWN"][0][-1]
    winners = (torch.sign(ewn[0]) == torch.sign(end[:, 1] - end[:, 0])).sum().item()
    plain = paths["none"][0][..., 0] - 2 * paths["none"][0][..., 1]
    drift = (ewn[-1] - ewn[0]).abs().max().item()
    slow = 1 / slower[..., 0] - 2 / slower[..., 1]
    slow_drift = (slow[-1] - slow[0]).abs().max().item()
    return [
        below("ST1", "end points, largest difference from the log", _largest(ours, points), 1e-6),
        near("ST1", "runs whose number of steps differs from the log", wrong_steps, 0, 0),
        near("ST2", "EWN: winners told by the sign of 1/w1 - 2/w2, of 5", winners, 5, 0),
        below("ST2", "EWN: drift of 1/w1 - 2/w2", drift, 0.03),
        below("ST2", "EWN: the same with a tenth of the rate", slow_drift, drift),
        below("ST3", "none: drift of w1 - 2 w2", _largest(plain, plain[0]), 1e-6),
    ]


def _largest(a: Tensor, b: Tensor) -> float:
    return (a - b).abs().max().item()


def _figure(paths: dict[Method, tuple[Tensor, Tensor]]) -> Figure:
    figure = Figure(figsize=(5.2, 4.6), layout="constrained")
    axes = figure.add_subplot()
    for method, (path, _) in paths.items():
        for i in range(len(_STARTS)):
            axes.plot(
                *path[:, i].T.tolist(), color=COLORS[method], label=method if i == 0 else None
            )
    logged = read("simple_traj_endpoints")
    axes.plot(
        [float(r["w1_end"]) for r in logged],
        [float(r["w2_end"]) for r in logged],
        "kx", label="end points in the authors' logs", linestyle="none",
    )  # fmt: skip
    axes.set(xlabel="$w_1$", ylabel="$w_2$", xlim=(0, 30), ylim=(0, 50))
    axes.legend()
    return figure
