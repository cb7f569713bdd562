"""Gradient descent under EWN and SWN as optimizers of plain weights, by the steps of `steps`.

The iterates are those of SGD on the parametrized network to rounding, with plain weights, plain
checkpoints and little more work than plain SGD.
"""

import math
from collections.abc import Callable, Iterable
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from ewnprune.model.layers import LayerPatterns, neuron_dim, neuron_groups, select_layers
from ewnprune.training.steps import Method, change
from ewnprune.training.unfit import plain_weight
from ewnprune.training.weight_space import groups_by_mark


class _WeightSpaceSGD(Optimizer):
    method: Method

    def __init__(
        self,
        params: Iterable[Any],
        lr: float,
        weight_decay: float = 0.0,
        weight_norm: bool | None = None,
        dim: int = 0,
        groups: int = 1,
    ) -> None:
        for name, value in (("lr", lr), ("weight_decay", weight_decay)):
            one = isinstance(value, int | float) or (
                isinstance(value, Tensor) and value.numel() == 1
            )
            if not one or not 0 <= value < math.inf:
                raise ValueError(f"{name}={value}: expected a number >= 0")
        defaults = {
            "lr": lr if isinstance(lr, Tensor) else float(lr),
            "weight_decay": float(weight_decay),
            "weight_norm": weight_norm,
            "dim": dim,
            "groups": groups,
        }
        super().__init__(params, defaults)

    def add_param_group(self, param_group: dict[str, Any]) -> None:
        for group in (by_mark := groups_by_mark(param_group, self.defaults["weight_norm"])):
            self.add_param_group(group)
        if by_mark:
            return
        super().add_param_group(param_group)
        group = self.param_groups[-1]
        for p in group["params"]:
            if group["weight_norm"] and p.dim() < 2:
                raise ValueError(
                    f"weight_norm=True for a parameter of shape {tuple(p.shape)}: expected two or "
                    "more dimensions, one row per neuron; put biases in a group with "
                    "weight_norm=False, or make the groups with neuron_param_groups(model)"
                )
            if p.dtype in (torch.float16, torch.bfloat16):
                raise ValueError(
                    f"{type(self).__name__}: a parameter is {p.dtype}, too coarse for small steps; "
                    "keep the weights in float32 (precision='16-mixed' or 'bf16-mixed' does)"
                )

    @torch.no_grad()
    def step(self, closure: Callable[[], float] | None = None) -> float | None:  # type: ignore[override]
        loss = None
        if closure is not None:
            with torch.enable_grad():
                loss = closure()
        for group in self.param_groups:
            plain: list[tuple[Tensor, Tensor]] = []
            normalized: list[tuple[Tensor, Tensor]] = []
            for p in group["params"]:
                if p.grad is None:
                    continue
                if p.grad.is_sparse:
                    raise ValueError(
                        f"{type(self).__name__}: a gradient is sparse; use sparse=False in the "
                        "embedding"
                    )
                chosen = p.dim() > 1 if group["weight_norm"] is None else group["weight_norm"]
                (normalized if chosen else plain).append((p, p.grad))
            if plain:
                _sgd_step(plain, group)
            if normalized:
                self._normalized_step(normalized, group)
        return loss

    def _normalized_step(self, pairs: list[tuple[Tensor, Tensor]], group: dict[str, Any]) -> None:
        weights, grads, squared_norms = [], [], []
        products: list[list[Tensor]] = [[], [], []]
        for p, grad in pairs:
            w, g = _split(p, group["groups"]), _split(grad, group["groups"])
            kept = {group["dim"] % w.dim()} if group["groups"] == 1 else {0, group["dim"] + 1}
            reduced = [d for d in range(w.dim()) if d not in kept]
            products[0].append(torch.linalg.vector_norm(w, dim=reduced, keepdim=True).square())
            products[1].append((w * g).sum(reduced, keepdim=True))
            products[2].append(torch.linalg.vector_norm(g, dim=reduced, keepdim=True).square())
            if "n" not in self.state[p]:
                self.state[p]["n"] = torch.ones_like(products[0][-1])
            weights.append(w)
            grads.append(g)
            squared_norms.append(self.state[p]["n"])
        # all neurons of all parameters at once: the kernels on small tensors would take longer
        ww, wg, gg, n = (_join(tensors) for tensors in (*products, squared_norms))
        kappa, move, more = (
            _part(number, squared_norms)
            for number in change(ww, wg, gg, n, group["lr"], group["weight_decay"], self.method)
        )
        changes = torch._foreach_mul(weights, kappa)
        torch._foreach_addcmul_(changes, grads, move, -1.0)
        torch._foreach_add_(weights, changes)
        torch._foreach_addcmul_(squared_norms, squared_norms, more)


def _join(tensors: list[Tensor]) -> Tensor:
    return tensors[0] if len(tensors) == 1 else torch.cat([t.flatten() for t in tensors])


def _part(joined: Tensor, shapes: list[Tensor]) -> list[Tensor]:
    if len(shapes) == 1:
        return [joined]
    parts = joined.split([t.numel() for t in shapes])
    return [part.view_as(t) for part, t in zip(parts, shapes, strict=True)]


def _split(x: Tensor, groups: int) -> Tensor:
    return x if groups == 1 else x.unflatten(0, (groups, -1))


def _sgd_step(pairs: list[tuple[Tensor, Tensor]], group: dict[str, Any]) -> None:
    params, grads = [p for p, _ in pairs], [g for _, g in pairs]
    if group["weight_decay"]:
        grads = list(torch._foreach_add(grads, params, alpha=group["weight_decay"]))
    torch._foreach_add_(params, grads, alpha=-float(group["lr"]))


class EWNSGD(_WeightSpaceSGD):
    """Plain gradient descent under exponential weight normalization, on plain weights.

    The iterates are those of ``torch.optim.SGD`` without momentum on a model with `EWN` attached
    (``||v|| = 1`` at the start), to rounding. Momentum is refused: its buffers live in ``(s, v)``
    and have no counterpart here.

    ``state[weight]["n"]`` holds ``||v||^2`` of each neuron; it starts at 1 and never falls.

    Args:
        params: parameters or groups; `neuron_param_groups` makes groups by layer.
        lr: learning rate.
        weight_decay: adds ``weight_decay / 2 * ||w||^2`` to the objective, for normalized weights
            and the others alike, as the same option of SGD does for a plain network. For EWN it
            equals that penalty, written on ``w``, in the loss of the parametrized network:
            ``alpha`` falls by ``lr * weight_decay * ||w||^2`` in a step. It is not SGD's own
            ``weight_decay`` on ``(alpha, v)``, which would draw every norm towards 1.
        weight_norm: whether a group's parameters are normalized; ``None``: those of two or more
            dimensions are (the last layer as well), biases are not; under a callback with
            ``weight_space=True`` those of the layers that it was told to choose.
        dim: the dimension that counts the neurons; 1 for transposed convolutions.
        groups: groups of a transposed convolution, which split its neurons.

    Raises:
        ValueError: a normalized parameter has one dimension, a parameter is of 16 bits, or a
            number is out of range.

    >>> model = nn.Sequential(nn.Linear(2, 3), nn.ReLU(), nn.Linear(3, 2))
    >>> optimizer = EWNSGD(neuron_param_groups(model), lr=0.1)
    >>> [(len(group["params"]), group["weight_norm"]) for group in optimizer.param_groups]
    [(1, True), (3, False)]
    """

    method = "EWN"


class SWNSGD(_WeightSpaceSGD):
    """Plain gradient descent under standard weight normalization, on plain weights.

    As `EWNSGD`, for `SWN`. The sign of ``gamma`` needs no storing: ``(gamma, v)`` and
    ``(-gamma, -v)`` take the same step, and a step may turn ``w`` round.

    Args:
        params: as in `EWNSGD`.
        lr: learning rate.
        weight_decay: adds ``weight_decay / 2 * ||w||^2`` to the objective. For SWN that is SGD's
            ``weight_decay`` on ``gamma`` and none on ``v``.
        weight_norm: as in `EWNSGD`, and so are the other arguments.
        dim: as in `EWNSGD`.
        groups: as in `EWNSGD`.
    """

    method = "SWN"


def neuron_param_groups(
    model: nn.Module,
    layers: LayerPatterns | None = None,
    exclude: LayerPatterns | None = None,
) -> list[dict[str, Any]]:
    """Parameter groups for `EWNSGD` and `SWNSGD`: the weights of the layers chosen, and the rest.

    Args:
        model: a plain model.
        layers: as in `select_layers`: by default all Linear and convolutions but the last.
        exclude: layers to leave.

    Raises:
        ValueError: a pattern matches nothing, or the weight of a chosen layer is no parameter.
    """
    by_layout: dict[tuple[int, int], list[nn.Parameter]] = {}
    for name, layer in select_layers(model, layers, exclude).chosen.items():
        layout = (neuron_dim(layer), neuron_groups(layer))
        by_layout.setdefault(layout, []).append(plain_weight(name, layer))
    taken = {p for weights in by_layout.values() for p in weights}
    rest = [p for p in model.parameters() if p not in taken]
    result: list[dict[str, Any]] = [
        {"params": list(dict.fromkeys(weights)), "weight_norm": True, "dim": dim, "groups": groups}
        for (dim, groups), weights in by_layout.items()
    ]
    return [*result, {"params": rest, "weight_norm": False}] if rest else result
