"""The formulas themselves: weight-space steps, gradient flow in weight space, convergence rates."""

import math
from collections.abc import Callable
from pathlib import Path
from typing import Literal

import torch
from matplotlib.figure import Figure
from torch import Tensor
from tqdm import tqdm

from ewnprune.experiments.descent import COLORS
from ewnprune.experiments.verdict import (
    Criterion,
    below,
    within,
    write_csv,
    write_figure,
)
from ewnprune.training.steps import weight_space_step

_Kind = Literal["EWN", "SWN"]
_KINDS: tuple[_Kind, ...] = ("EWN", "SWN")
_NEURONS, _INPUTS = 24, 5
_Flow = Callable[[list[Tensor]], list[Tensor]]


def _weight(kind: _Kind, s: Tensor, v: Tensor) -> Tensor:
    direction: Tensor = v / v.norm(dim=1, keepdim=True)
    return (s.exp() if kind == "EWN" else s) * direction


def _draw(kind: _Kind, seed: int) -> tuple[Tensor, Tensor, Callable[[Tensor], Tensor]]:
    """``s`` of either sign, ``||v||`` from 0.5 to 2, and a quadratic loss.

    Its minimum lies to the side of the first weights and beyond, so that none comes near zero on
    its way, where a weight under SWN has no direction to flow in.
    """
    random = torch.Generator().manual_seed(seed)

    def normal(*shape: int) -> Tensor:
        return torch.randn(shape, generator=random, dtype=torch.float64)

    s, v = normal(_NEURONS, 1) / 2, normal(_NEURONS, _INPUTS)
    length = 0.5 + 1.5 * torch.rand(_NEURONS, 1, generator=random, dtype=torch.float64)
    v = length * v / v.norm(dim=1, keepdim=True)
    w, root = _weight(kind, s, v), normal(_INPUTS, _INPUTS)
    target = 2 * w + w.norm(dim=1, keepdim=True) * normal(_NEURONS, _INPUTS) / 2
    return s, v, lambda x: ((x - target) @ root).square().sum() / _INPUTS


def _parameter_gradients(
    kind: _Kind, s: Tensor, v: Tensor, loss: Callable[[Tensor], Tensor]
) -> tuple[Tensor, Tensor]:
    s, v = s.detach().requires_grad_(), v.detach().requires_grad_()
    ds, dv = torch.autograd.grad(loss(_weight(kind, s, v)), (s, v))
    return ds, dv


def _weight_gradient(w: Tensor, loss: Callable[[Tensor], Tensor]) -> Tensor:
    w = w.detach().requires_grad_()
    (g,) = torch.autograd.grad(loss(w), w)
    return g


def step_error(kind: _Kind, seed: int, steps: int = 300) -> float:
    """Largest relative difference between descent on ``(s, v)`` and the weight-space step.

    The rate is one at which descent is stable: where it is chaotic, rounding alone parts the two.
    """
    eta = 0.002
    s, v, loss = _draw(kind, seed)
    w, n, worst = _weight(kind, s, v), v.square().sum(1, keepdim=True), 0.0
    for _ in range(steps):
        ds, dv = _parameter_gradients(kind, s, v, loss)
        s, v = s - eta * ds, v - eta * dv
        w, n = weight_space_step(w, _weight_gradient(w, loss), n, eta, kind)
        exact = _weight(kind, s, v)
        worst = max(worst, ((w - exact).norm(dim=1) / exact.norm(dim=1)).max().item())
    return worst


def weight_flow(kind: _Kind, w: Tensor, g: Tensor, squared_norm: Tensor) -> Tensor:
    """dw/dt under gradient flow on ``(s, v)`` with ``||v||^2`` as given.

    EWN: ``-[(w.g) w + (||w||^2 / ||v||^2) Pg]``, which is ``-||w||^2 g`` where ``||v|| = 1``.
    SWN: ``-[what (what.g) + (||w||^2 / ||v||^2) Pg]``.
    """
    ww = w.square().sum(1, keepdim=True)
    wg = (w * g).sum(1, keepdim=True)
    across = ww / squared_norm * (g - w * wg / ww)
    return -(w * wg * (1 if kind == "EWN" else 1 / ww) + across)


def _runge_kutta(flow: _Flow, state: list[Tensor], dt: float, steps: int) -> list[Tensor]:
    def moved(by: float, slopes: list[Tensor]) -> list[Tensor]:
        return [x + by * k for x, k in zip(state, slopes, strict=True)]

    for _ in range(steps):
        k1 = flow(state)
        k2 = flow(moved(dt / 2, k1))
        k3 = flow(moved(dt / 2, k2))
        k4 = flow(moved(dt, k3))
        state = [
            x + dt / 6 * (a + 2 * b + 2 * c + d)
            for x, a, b, c, d in zip(state, k1, k2, k3, k4, strict=True)
        ]
    return state


def flow_errors(kind: _Kind, seed: int, steps: int = 500) -> tuple[float, float]:
    """Difference of the two flows at the end, relative, and the relative drift of ``||v||``."""
    s, v, loss = _draw(kind, seed)
    n = v.square().sum(1, keepdim=True)

    def of_parameters(state: list[Tensor]) -> list[Tensor]:
        return [-d for d in _parameter_gradients(kind, state[0], state[1], loss)]

    def of_weight(state: list[Tensor]) -> list[Tensor]:
        return [weight_flow(kind, state[0], _weight_gradient(state[0], loss), n)]

    s_end, v_end = _runge_kutta(of_parameters, [s, v], 5e-4, steps)
    (w_end,) = _runge_kutta(of_weight, [_weight(kind, s, v)], 5e-4, steps)
    exact = _weight(kind, s_end, v_end)
    error = ((w_end - exact).norm(dim=1) / exact.norm(dim=1)).max().item()
    drift = (v_end.norm(dim=1) / v.norm(dim=1) - 1).abs().max().item()
    return error, drift


def chain(
    method: Literal["EWN", "none"], depth: int, eta: float = 0.05, steps: int = 1_000_000
) -> list[tuple[int, float, float]]:
    """Descent on ``exp(-w^depth)``, a product of equal weights from ``w^depth = 2``.

    Returns:
        ``(step, u, depth * eta * step * L * u^p)`` with ``u = -log L``; p is 2 for EWN and
        ``2 - 2 / depth`` for none. The last number tends to 1 if the rates of the theory hold.
    """
    u = 2.0
    w, alpha = u ** (1 / depth), math.log(u) / depth
    power = 2 if method == "EWN" else 2 - 2 / depth
    marks = {round(10 ** (k / 8)) for k in range(8, 49)} | {steps}
    seen = []
    for k in range(1, steps + 1):
        if method == "EWN":
            alpha += eta * math.exp(-u) * u
            u = math.exp(depth * alpha)
        else:
            w += eta * math.exp(-u) * w ** (depth - 1)
            u = w**depth
        if k in marks:
            seen.append((k, u, depth * eta * k * math.exp(-u) * u**power))
    return seen


def run(out: Path) -> list[Criterion]:
    """Run the checks; writes ``chain.csv`` and a figure of the rates."""
    criteria = []
    for kind in _KINDS:
        what = f"{kind}: 300 steps in weight space against descent on s and v, 10 draws"
        criteria.append(below("M1", what, max(step_error(kind, k) for k in range(10)), 1e-12))
    for kind in _KINDS:
        error, drift = map(max, zip(*(flow_errors(kind, k) for k in range(3)), strict=True))
        criteria.append(
            below("M2", f"{kind}: flow in weight space against that of s, v", error, 1e-6)
        )
        criteria.append(below("M2", f"{kind}: drift of ||v|| along the flow", drift, 1e-6))
    chains = {}
    with tqdm(total=6, desc="flow", unit="chain", leave=False) as bar:
        for method, low, high in (("EWN", 1.0, 1.2), ("none", 0.99, 1.12)):
            for depth in (1, 2, 4):
                points = chains[method, depth] = chain(method, depth)  # type: ignore[arg-type]
                power = "2" if method == "EWN" else "(2 - 2/D)"
                what = f"{method}: D eta t L u^{power} after 1e6 steps, D = {depth}"
                criteria.append(within("M3", what, points[-1][2], low, high))
                bar.update()
    write_csv(
        out / "chain.csv",
        [
            {"method": method, "depth": depth, "step": k, "u": u, "D_eta_t_L_u^p": value}
            for (method, depth), points in chains.items()
            for k, u, value in points
        ],
    )
    write_figure(out, _figure(chains))
    return criteria


def _figure(chains: dict[tuple[str, int], list[tuple[int, float, float]]]) -> Figure:
    figure = Figure(figsize=(5.6, 4), layout="constrained")
    axes = figure.add_subplot()
    for (method, depth), points in chains.items():
        power = "2" if method == "EWN" else "2-2/D"
        axes.plot(
            [k for k, _, _ in points], [value for _, _, value in points],
            color=COLORS["EWN" if method == "EWN" else "none"], alpha=0.25 + 0.25 * (depth - 1),
            label=f"{method}, D = {depth}: $p = {power}$",
        )  # fmt: skip
    axes.axhline(1, color="gray", linewidth=0.5)
    axes.set(
        xlabel="steps $t$", ylabel=r"$D\,\eta\,t\,L\,(\log 1/L)^p$", xscale="log", ylim=(0, 1.6)
    )
    axes.legend(fontsize="small")
    return figure
