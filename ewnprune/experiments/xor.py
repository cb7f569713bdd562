"""XOR: twenty neurons, of which EWN uses about four and the others use most or all.

A 2-20-1 ReLU network without biases; its output weights are +1 for half of the neurons and -1 for
the others, and stay.
"""

import math
from pathlib import Path
from statistics import median
from typing import Any, NoReturn

import torch
from matplotlib.figure import Figure
from torch import Tensor, nn
from tqdm import tqdm

from ewnprune.experiments.descent import COLORS, METHODS, Method, Runs, descend, paper_rate
from ewnprune.experiments.reference import read
from ewnprune.experiments.verdict import (
    Criterion,
    above,
    below,
    near,
    within,
    write_csv,
    write_figure,
)
from ewnprune.training.loss_rate import LossDrivenRate
from ewnprune.training.losses import log_softplus
from ewnprune.training.norms import effective_number

_X = torch.tensor([[1, 1], [-1, -1], [1, -1], [-1, 1]], dtype=torch.float64)
_Y = torch.tensor([-1, -1, 1, 1], dtype=torch.float64)
_OUT = torch.tensor([1.0] * 10 + [-1.0] * 10, dtype=torch.float64)
_AUTHORS_SEED = 9156
_CONTROLLERS: dict[str, dict[Method, LossDrivenRate]] = {
    "authors'": {"EWN": paper_rate(0.1, 5), "SWN": paper_rate(1, 15), "none": paper_rate(0.1, 15)},
    "equal": {method: paper_rate(0.1, 15) for method in METHODS},
}
_LIMIT = 50
_MAX_ATTEMPTS = 12_000


def _log_loss(weights: list[Tensor]) -> Tensor:
    outputs = _OUT @ torch.relu(weights[0] @ _X.T)
    return log_softplus(-_Y * outputs).logsumexp(-1)


def _start(seeds: list[int]) -> Tensor:
    weights = []
    with torch.random.fork_rng(devices=[]):
        for seed in seeds:
            torch.manual_seed(seed)
            weights.append(nn.Linear(2, 20, bias=False).weight.detach().double())
    return torch.stack(weights)


def run(out: Path, seeds: int = 20) -> list[Criterion]:
    """Run the experiment over the authors' seed and ``seeds`` others.

    Writes ``neurons.csv`` (final norms), ``runs.csv`` and the figure. Norms are those that the
    authors log: before the last step.
    """
    numbers = [_AUTHORS_SEED, *range(seeds)]
    start = _start(numbers)
    neurons, runs = [], []
    ends: dict[tuple[Method, LossDrivenRate], tuple[Runs, list[Tensor]]] = {}
    with tqdm(total=58_000, desc="xor", unit="step", leave=False) as bar:
        for controller, rules in _CONTROLLERS.items():
            for method, rule in rules.items():
                if (method, rule) not in ends:  # plain training has the same rule in both
                    ends[method, rule] = _descend(method, rule, start, bar)
                end, _ = ends[method, rule]
                norms = end.previous[0].norm(dim=-1)
                for i, seed in enumerate(numbers):
                    key = {"controller": controller, "method": method, "seed": seed}
                    runs.append(key | _summary(end, i, norms[i]))
                    neurons += [
                        key | {"neuron": u, "out_sign": int(_OUT[u]),
                               "norm_init": start[i, u].norm().item(), "norm": norms[i, u].item()}
                        for u in range(20)
                    ]  # fmt: skip
    write_csv(out / "neurons.csv", neurons)
    write_csv(out / "runs.csv", runs)
    paths = {m: torch.stack(ends[m, rule][1]) for m, rule in _CONTROLLERS["authors'"].items()}
    write_figure(out, _figure(paths, runs))
    return _judge(runs, neurons)


def _descend(
    method: Method, rule: LossDrivenRate, start: Tensor, bar: "tqdm[NoReturn]"
) -> tuple[Runs, list[Tensor]]:
    """All runs of one method, and the norms of the first run's neurons at every step."""
    path: list[Tensor] = []

    def observe(runs: Runs) -> None:
        if runs.state.accepted[0] == len(path):  # else its last attempt was undone, or it is over
            path.append(runs.weights[0][0].norm(dim=1))

    end = descend(
        method, [start], _log_loss, rule, _LIMIT,
        max_attempts=_MAX_ATTEMPTS, bar=bar, observe=observe,
    )  # fmt: skip
    return end, path


def _summary(end: Runs, i: int, norms: Tensor) -> dict[str, float]:
    return {
        "steps": int(end.state.accepted[i]),
        "undone": int(end.state.rejected[i]),
        "log_loss": end.state.log_loss[i].item(),
        "effective_neurons": effective_number(norms),
        "above_tenth_of_largest": int((norms > norms.max() / 10).sum()),
        "below_0.01": int((norms < 1e-2).sum()),
    }


def _judge(runs: list[dict[str, Any]], neurons: list[dict[str, Any]]) -> list[Criterion]:
    first = {
        r["method"]: r for r in runs if r["controller"] == "authors'" and r["seed"] == _AUTHORS_SEED
    }
    ours = {
        method: torch.tensor([
            n["norm"] for n in neurons
            if (n["controller"], n["method"], n["seed"]) == ("authors'", method, _AUTHORS_SEED)
        ], dtype=torch.float64)
        for method in METHODS
    }  # fmt: skip
    logged = {
        method: torch.tensor(
            [float(r["norm_final"]) for r in read("xor_neurons") if r["method"] == method],
            dtype=torch.float64,
        )
        for method in METHODS
    }
    top4 = logged["EWN"].topk(4).indices
    dead = int((ours["SWN"] < 1e-2).sum())
    return [
        near("X1", "EWN: steps, authors' seed", first["EWN"]["steps"], 2785, 2),
        below("X1", "EWN: the four largest norms against the log",
              _largest(ours["EWN"][top4], logged["EWN"][top4]), 0.01),
        near("X1", "none: steps, authors' seed", first["none"]["steps"], 1617, 2),
        below("X1", "none: all norms against the log",
              _largest(ours["none"], logged["none"]), 1e-3),
        *(c for controller in _CONTROLLERS for c in _judge_seeds(runs, controller)),
        above("X3", "SWN: neurons with norm below 0.01, authors' seed", dead, 2),
        within("X3", "SWN: effective neurons", first["SWN"]["effective_neurons"], 12, 15),
        near("X3", "SWN: largest norm", ours["SWN"].max().item(), 13.45, 0.15),
    ]  # fmt: skip


def _judge_seeds(runs: list[dict[str, Any]], controller: str) -> list[Criterion]:
    reached = {
        method: [
            r["effective_neurons"]
            for r in runs
            if (r["controller"], r["method"]) == (controller, method) and r["log_loss"] < -_LIMIT
        ]
        for method in METHODS
    }
    asked = sum((r["controller"], r["method"]) == (controller, "EWN") for r in runs)
    note = f"{controller} controllers"
    # a median of no runs is no number, and none that holds
    ewn, plain = (reached[method] or [math.nan] for method in ("EWN", "none"))
    return [
        within("X2", f"EWN: fewest effective neurons, {note}", min(ewn), 3.3, 5),
        within("X2", f"EWN: most effective neurons, {note}", max(ewn), 3.3, 5),
        below("X2", f"EWN: median over {len(reached['EWN'])} of {asked} runs, {note}",
              median(ewn), 4.5),
        above("X2", f"none: median over {len(reached['none'])} of {asked} runs, {note}",
              median(plain), 10),
    ]  # fmt: skip


def _largest(a: Tensor, b: Tensor) -> float:
    return (a - b).abs().max().item()


def _figure(paths: dict[Method, Tensor], runs: list[dict[str, Any]]) -> Figure:
    figure = Figure(figsize=(5.2, 11), layout="constrained")
    axes = figure.subplots(4)
    for ax, method in zip(axes, METHODS, strict=False):
        path = paths[method]
        for u in range(20):
            ax.plot(path[:, u].tolist(), color=COLORS[method], linewidth=0.8)
        for k in (50, 100, 500, 1000):
            values = [float(r[f"norm_s{k}"]) for r in read("xor_neurons") if r["method"] == method]
            ax.plot([k] * len(values), values, "k_", markersize=4, label="authors' logs")
        ax.set(title=f"{method}, seed {_AUTHORS_SEED}", ylabel="norm of a neuron")
    axes[0].legend(axes[0].get_lines()[-1:], ["authors' logs"])
    axes[2].set_xlabel("steps")
    for controller, shift, marker in (("authors'", -0.15, "o"), ("equal", 0.15, "^")):
        for x, method in enumerate(METHODS):
            values = [
                r["effective_neurons"]
                for r in runs
                if (r["controller"], r["method"]) == (controller, method)
                and r["log_loss"] < -_LIMIT
            ]
            axes[3].plot(
                [x + shift] * len(values), values, marker, color=COLORS[method], alpha=0.5,
                markersize=4, label=f"{controller} controllers" if x == 0 else None,
            )  # fmt: skip
    axes[3].set_xticks(range(3), METHODS)
    axes[3].set(title="all seeds", ylabel="effective neurons, of 20", ylim=(0, 25))
    axes[3].legend(fontsize="small", loc="upper center")
    return figure
