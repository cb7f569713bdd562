"""Conv-Rate: how fast linear networks of depth 1 to 4 lower the loss at a constant rate.

All start from the same linear map. Depth hardly matters to EWN, whose loss falls as
1 / (t (log t)^2) at any depth, while plain descent on d layers goes as 1 / (t (log t)^(2 - 2/d)).
"""

from itertools import pairwise
from pathlib import Path
from typing import NoReturn

import numpy as np
import torch
from matplotlib.figure import Figure
from torch import Tensor, nn
from tqdm import tqdm

from ewnprune.experiments.descent import COLORS, METHODS, Method, step, unit_norms
from ewnprune.experiments.reference import read
from ewnprune.experiments.verdict import (
    Criterion,
    below,
    near,
    within,
    write_csv,
    write_figure,
)

_DEPTHS = (1, 2, 3, 4)
_WIDTH = 100
_STEPS = 5000
_ETA = 1e-3
# losses after 4,999 steps over several seeds, depths 2, 3 and 4; the criterion widens them by 10 %
_SEEN: dict[Method, tuple[tuple[float, float], ...]] = {
    "EWN": ((0.0079, 0.0091), (0.0060, 0.0068), (0.0040, 0.0045)),
    "SWN": ((0.0079, 0.0090), (0.0059, 0.0067), (0.0040, 0.0045)),
    "none": ((0.0082, 0.0092), (0.0037, 0.0043), (0.0020, 0.0022)),
}
_RATIOS: dict[Method, tuple[float, float]] = {"EWN": (2.0, 0.3), "SWN": (28, 4), "none": (70, 8)}


def _problem() -> tuple[Tensor, Tensor]:
    """The points times their labels, ``(20, 2)``, and the linear map to start from, ``(1, 2)``."""
    random = np.random.RandomState(6782)
    first = np.vstack([[1, 1], random.uniform(1.5, 2, (59, 2))])[:10]
    second = np.vstack([[-1, 1], random.uniform(-1.5, -2, (59, 2))])[:10]
    return torch.from_numpy(np.vstack([-first, second])), torch.from_numpy(random.randn(1, 2))


def _start(depth: int, seeds: int, goal: Tensor) -> list[Tensor]:
    """Weights ``(seeds, out, in)`` whose product is the goal; hidden layers as nn.Linear's."""
    widths = [2] + [_WIDTH] * (depth - 1)
    drawn = []
    with torch.random.fork_rng(devices=[]):
        for seed in range(seeds):
            torch.manual_seed(seed)
            layers = [nn.Linear(a, b, bias=False) for a, b in pairwise(widths)]
            drawn.append([layer.weight.detach().double() for layer in layers])
    hidden = [torch.stack(layers) for layers in zip(*drawn, strict=True)]
    product = torch.eye(2, dtype=torch.float64).expand(seeds, 2, 2)
    for w in hidden:
        product = w @ product
    return [*hidden, goal @ torch.linalg.pinv(product)]


def _loss_and_gradients(weights: list[Tensor], points: Tensor) -> tuple[Tensor, list[Tensor]]:
    """Summed logistic loss of each run, and its gradients."""
    inputs = [points.T.expand(len(weights[0]), *points.T.shape)]
    for w in weights:
        inputs.append(w @ inputs[-1])
    margins = inputs.pop().squeeze(1)
    loss = torch.log1p(torch.exp(-margins)).sum(1)
    back = -torch.sigmoid(-margins).unsqueeze(1)
    grads = []
    for w, x in zip(reversed(weights), reversed(inputs), strict=True):
        grads.append(back @ x.mT)
        back = w.mT @ back
    return loss, grads[::-1]


def losses(method: Method, depth: int, seeds: int, bar: "tqdm[NoReturn]") -> Tensor:
    """Loss before each of 5,000 steps, ``(5000, seeds)``."""
    points, goal = _problem()
    weights = _start(depth, seeds, goal)
    # as the authors': the last layer's v is the weight itself, where the theory wants ||v|| = 1
    norms = [*unit_norms(weights[:-1]), weights[-1].square().sum(-1, keepdim=True)]
    seen = []
    for _ in range(_STEPS):
        loss, grads = _loss_and_gradients(weights, points)
        seen.append(loss)
        weights, norms = step(method, weights, grads, norms, _ETA)
        bar.update()
    return torch.stack(seen)


def run(out: Path, seeds: int = 3) -> list[Criterion]:
    """Run the experiment with several draws of the hidden layers.

    Writes ``losses.csv`` and the figure.
    """
    with tqdm(total=12 * _STEPS, desc="conv-rate", unit="step", leave=False) as bar:
        found = {
            (method, depth): losses(method, depth, seeds if depth > 1 else 1, bar)
            for method in METHODS
            for depth in _DEPTHS
        }
    shown = sorted({round(10 ** (k / 25)) for k in range(93)} | {0, _STEPS - 1})
    write_csv(
        out / "losses.csv",
        [
            {"method": method, "depth": depth, "seed": seed, "step": k,
             "loss": values[k, seed].item()}
            for (method, depth), values in found.items()
            for seed in range(values.shape[1])
            for k in shown
        ],
    )  # fmt: skip
    write_figure(out, _figure(found))
    return _judge(found)


def _judge(found: dict[tuple[Method, int], Tensor]) -> list[Criterion]:
    criteria = []
    rows = read("conv_rate_depth1")
    for method in METHODS:
        logged = torch.tensor([float(r[method]) for r in rows], dtype=torch.float64)
        off = (found[method, 1][:, 0] / logged - 1).abs().max().item()
        criteria.append(below("C1", f"{method}: 5,000 losses at depth 1, largest error", off, 1e-4))
    for method in METHODS:
        for depth, (low, high) in zip(_DEPTHS[1:], _SEEN[method], strict=True):
            last = found[method, depth][-1]
            for name, value in (("lowest", last.min()), ("highest", last.max())):
                what = f"{method}: {name} last loss of {len(last)} seeds, depth {depth}"
                criteria.append(within("C2", what, value.item(), 0.9 * low, 1.1 * high))
    for method in METHODS:
        ratio = (found[method, 1][-1] / found[method, 4][-1]).mean().item()
        what = f"{method}: last loss at depth 1 over that at depth 4"
        criteria.append(near("C3", what, ratio, *_RATIOS[method]))
    return criteria


def _figure(found: dict[tuple[Method, int], Tensor]) -> Figure:
    figure = Figure(figsize=(5.2, 9), layout="constrained")
    axes = figure.subplots(3, sharex=True, sharey=True)
    for ax, method in zip(axes, METHODS, strict=True):
        for depth in _DEPTHS:
            mean = found[method, depth].mean(1).tolist()
            ax.plot(
                range(_STEPS), mean, color=COLORS[method], alpha=0.25 + 0.25 * (depth - 1),
                label=f"depth {depth}",
            )  # fmt: skip
        for r in read("conv_rate_loss"):
            if r["method"] == method:
                points = {
                    int(key.split("_")[2]): float(value)
                    for key, value in r.items()
                    if key.startswith("loss_after_")
                }
                points.pop(0)
                ax.plot(points.keys(), points.values(), "k_")
        ax.set(title=method, ylabel="loss", xscale="log", yscale="log", xlim=(1, _STEPS))
        ax.legend(fontsize="small", title="marks: the authors' logs", title_fontsize="small")
    axes[-1].set_xlabel("steps")
    return figure
