"""What float32 keeps of the growth of norms, deep down: one state, trained on in six ways.

    python -m benchmarks.growth_of_norms --run FOLDER

FOLDER is a run of `ewnprune reproduce`, such as reproduced/mnist-small/runs/EWN-0, at any depth.
From its last state, with the same order of images and at a constant rate, all take as many steps:
descent on (s, v) by plain formulas and autograd, in float64 and float32; in weight space in
float64; in float32 with the weight multiplied by a factor near 1, as `EWNSGD` once did; as it does
now; and as runs side by side take them, compiled with ``--device cuda``. The table has the change
of log L and, by log ||w|| at the start, the growth of log ||w||, summed over the neurons, as a
fraction of that in the first row.
"""

import argparse
import math
from collections.abc import Callable, Iterator
from itertools import count, pairwise
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from benchmarks.deep import show
from ewnprune.experiments.mnist_digits import BATCH, Digits, load_digits, shuffled
from ewnprune.experiments.mnist_stack import Stack, Steps
from ewnprune.experiments.two_layer import Descent, Method, TwoLayer
from ewnprune.training.losses import LogCrossEntropyLoss

EDGES = (-math.inf, 0.4, 0.5, 1.0, 2.0, 3.0, math.inf)
Start = tuple[Method, TwoLayer, Tensor, float, float]
"""Method, parameters, ``||v||^2``, learning rate, and the log of what the loss is divided by."""


def load(folder: Path) -> Start:
    """The last state of a run."""
    state: dict[str, Any] = torch.load(folder / "state.pt", weights_only=True, map_location="cpu")
    method: Any = folder.name.partition("-")[0]
    net = TwoLayer(*(state["model"][f"fc{k}"] for k in ("1.weight", "1.bias", "2.weight")))
    (n,) = (parameter["n"] for parameter in state["optimizer"]["state"].values())
    rate = state["controller"]["rate"]
    return method, net, n, state["optimizer"]["param_groups"][0]["lr"], rate["log_scale"].item()


def batches(data: Digits, steps: int) -> Iterator[tuple[Tensor, Tensor]]:
    """Images and labels of so many steps."""
    taken = (batch for k in count() for batch in shuffled(len(data.y), 0, k).split(BATCH))
    for _, batch in zip(range(steps), taken, strict=False):
        yield data.x[batch], data.y[batch]


def on_s_and_v(
    start: Start, data: Digits, steps: int, dtype: torch.dtype
) -> tuple[Tensor, TwoLayer]:
    """Descent on the parametrization's own variables; the norms and the weights it ends with."""
    method, net, n, lr, log_scale = start
    norm = net.weight.double().norm(dim=1, keepdim=True)
    s = norm.log() if method == "EWN" else norm
    v = net.weight.double() / norm * n.double().sqrt()
    leaves = [x.to(dtype, copy=True).requires_grad_() for x in (s, v, net.bias, net.out)]

    def weight(s: Tensor, v: Tensor) -> Tensor:
        return (s.exp() if method == "EWN" else s) * v / v.norm(dim=1, keepdim=True)

    for x, y in batches(data, steps):
        s, v, bias, out = leaves
        logits = torch.relu(x.to(dtype) @ weight(s, v).T + bias) @ out.T
        loss = (LogCrossEntropyLoss("sum")(logits, y) - log_scale - math.log(len(y))).exp()
        for leaf, g in zip(leaves, torch.autograd.grad(loss, leaves), strict=True):
            leaf.data.sub_(g, alpha=lr)
    s, v, bias, out = (x.detach().double() for x in leaves)
    return s.exp() if method == "EWN" else s.abs(), TwoLayer(weight(s, v), bias, out)


@torch.no_grad()
def in_weight_space(
    start: Start,
    data: Digits,
    steps: int,
    dtype: torch.dtype,
    kind: Callable[..., Descent] = Descent,
) -> tuple[Tensor, TwoLayer]:
    """The same in weight space."""
    method, net, n, lr, log_scale = start
    net = TwoLayer(*(p.to(dtype, copy=True) for p in net))
    descent = kind(method, net, n.to(dtype, copy=True), lr)
    for x, y in batches(data, steps):
        descent.step(x.to(dtype), y, log_scale + math.log(len(y)))
    net = TwoLayer(*(p.double() for p in net))
    return net.weight.norm(dim=1, keepdim=True), net


@torch.no_grad()
def stacked(start: Start, data: Digits, steps: int, device: str) -> tuple[Tensor, TwoLayer]:
    """The same in float32, as runs take their steps side by side on a GPU."""
    method, net, n, lr, log_scale = start
    data = Digits(data.x.to(device), data.y.to(device))
    stack = Stack.of([method], [TwoLayer(*(p.to(device) for p in net))])
    stack.n.copy_(n)
    stack.squares.copy_(stack.net.weight.square().sum(-1, keepdim=True))
    stack.lr.fill_(lr)
    stack.log_scale.fill_(log_scale)
    taking = Steps(stack, data)
    for k in range(-(-steps * BATCH // len(data.y))):
        left = steps * BATCH - k * len(data.y)
        order = shuffled(len(data.y), 0, k)[:left].unsqueeze(0).to(device)
        taking.take(order, torch.ones_like(order, dtype=torch.bool))
    net = TwoLayer(*(p[0].double().cpu() for p in stack.net))
    return net.weight.norm(dim=1, keepdim=True), net


class ByAFactor(Descent):
    """`Descent` as it was: the weight is multiplied by a factor near 1, and so is ``n``."""

    def step(self, x: Tensor, y: Tensor, log_scale: float) -> bool:
        """One step."""
        net, n, ww, lr = self.net, self.n, self._squares, self.lr
        lower, bias, out, products = net.signals(x, y, log_scale)
        net.bias.sub_(bias, alpha=lr)
        net.out.sub_(out, alpha=lr)
        wg, gg = products.unsqueeze(1), (lower * (x @ x.T @ lower)).sum(0).unsqueeze(1)
        cosine_part, t = wg / ww, lr / n * ww
        growth = 1 + t * lr / n * (gg - wg * cosine_part).clamp_min(0)
        radial = torch.exp(-lr * wg) if self.method == "EWN" else 1 - lr * cosine_part
        keep, move = radial * growth.rsqrt() * (1 + t * cosine_part), radial * growth.rsqrt() * t
        net.weight.mul_(keep).addmm_(lower.T * move, x, alpha=-1)
        n.mul_(growth)
        self._squares = keep.square() * ww - 2 * keep * move * wg + move.square() * gg
        return True


def log_loss(net: TwoLayer, data: Digits) -> float:
    """Log of the mean loss, in float64."""
    parts = zip(data.x.split(1000), data.y.split(1000), strict=True)
    losses = [net.log_losses(x.double(), y) for x, y in parts]
    return torch.cat(losses).logsumexp(0).item() - math.log(len(data.y))


def table(start: Start, data: Digits, steps: int, device: str) -> list[list[str]]:
    """The names of the columns, and a row for each arithmetic."""
    net = TwoLayer(*(p.double() for p in start[1]))
    before, norms = log_loss(net, data), net.weight.norm(dim=1, keepdim=True)
    inside = {f"{a:g} to {b:g}": (norms.log() > a) & (norms.log() <= b) for a, b in pairwise(EDGES)}
    inside = {name: part for name, part in inside.items() if part.any()}
    neurons = [int(part.sum()) for part in inside.values()]
    double, single = torch.float64, torch.float32
    exact: list[float] = []
    rows = [["arithmetic", "change of log L", *inside]]
    ended_by = {
        "s, v, float64": on_s_and_v(start, data, steps, double),
        "s, v, float32": on_s_and_v(start, data, steps, single),
        "weight space, float64": in_weight_space(start, data, steps, double),
        "... float32, by a factor": in_weight_space(start, data, steps, single, ByAFactor),
        "... float32": in_weight_space(start, data, steps, single),
        f"... float32, stacked on {device}": stacked(start, data, steps, device),
    }
    for name, (found, ended) in ended_by.items():
        sums = [(found / norms).log()[part].sum().item() for part in inside.values()]
        exact = exact or sums
        ratios = [f"{a / b:.3f}" for a, b in zip(sums, exact, strict=True)]
        rows.append([name, f"{log_loss(ended, data) - before:.4f}", *ratios])
    means = [f"{total / number:.1e}" for total, number in zip(exact, neurons, strict=True)]
    return [
        *rows,
        ["growth of log norm, mean", "", *means],
        ["neurons", "", *map(str, neurons)],
    ]


if __name__ == "__main__":
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--run", type=Path, required=True)
    parser.add_argument("--steps", type=int, help="by default one epoch")
    parser.add_argument("--lr", type=float, help="by default that of the run")
    parser.add_argument("--device", default="cpu", help="of the stacked steps, such as cuda")
    options = parser.parse_args()
    torch.set_num_threads(1)
    torch.set_flush_denormal(True)  # as in training
    start = load(options.run)
    training, test = load_digits(None)
    if len(start[1].bias) != 1024:  # mnist-small
        training = Digits(test.x[:2000], test.y[:2000])
    start = (*start[:3], options.lr or start[3], start[4])
    steps = options.steps or math.ceil(len(training.y) / BATCH)
    print(f"{start[0]} from log L = {start[4]:.1f}, learning rate {start[3]:.2g}, {steps} steps\n")
    header, *rows = table(start, training, steps, options.device)
    show(", ".join(header), rows)
