"""D-Gating: a neuron's weights as a vector times several numbers, so that decay makes it sparse."""

from functools import reduce
from operator import mul

import torch
from torch import Tensor

from ewnprune.training.parametrizations import NeuronParametrization, at_least_float32


class DGating(NeuronParametrization):
    """D-Gating, ``w = omega * gamma_1 * ... * gamma_{D-1}``: ``D`` factors per neuron.

    Weight decay ``strength / D * (||omega||^2 + sum_d gamma_d^2)`` on all factors, which
    `FactorDecay` adds, is ``strength * sum_u ||w_u||^(2/D)`` at its least over the factors of the
    same ``w``, where ``||omega|| = |gamma_d|``; and so the minima of the loss with the one are
    those with the other: group lasso for ``D = 2``, less convex the deeper. Without decay it is
    another path through the same weights. Kolb, Frost, Bischl & Ruegamer (NeurIPS 2025),
    https://arxiv.org/abs/2509.23898.

    The factors start balanced, ``|gamma_d| = ||omega|| = ||w||^(1/D)``, so that ``w`` starts as it
    was. ``original0`` holds the gates, of shape ``(D - 1, ...)``, and ``original1`` is ``omega``.
    The learning rate of a neuron's weights is ``||w||^(2 - 2/D)``, and ``D`` times that along them
    (docs/theory.md): small neurons learn slowly, and the authors take rates 3 to 4 times those of
    plain training.

    Args:
        depth: ``D``, the number of factors, >= 2.
        dim: see `NeuronParametrization`.

    Raises:
        ValueError: a depth below 2.

    >>> gates, omega = DGating(depth=3, dim=0).right_inverse(torch.tensor([[0.0, 8.0]]))
    >>> gates.flatten(), omega
    (tensor([2., 2.]), tensor([[0., 2.]]))
    >>> DGating(depth=3, dim=0)(gates, omega)
    tensor([[0., 8.]])
    """

    has_scale = False

    def __init__(self, depth: int = 2, dim: int | None = None) -> None:
        if depth < 2:
            raise ValueError(f"DGating(depth={depth}): expected at least 2 factors")
        super().__init__(dim)
        self.depth = depth

    def extra_repr(self) -> str:
        return ", ".join(filter(None, [f"depth={self.depth}", super().extra_repr()]))

    def forward(self, *originals: Tensor) -> Tensor:
        """The weight, in the shape and dtype of ``omega``, from the gates and ``omega``."""
        gates, omega = originals
        rows = self._split(at_least_float32(omega))
        weight = rows * reduce(mul, at_least_float32(gates).unbind())
        return weight.reshape(omega.shape).to(omega.dtype)

    def right_inverse(self, weight: Tensor) -> tuple[Tensor, ...]:
        """Gates and ``omega`` that give this weight, balanced."""
        norm, direction = self.norm_and_direction(self._split(at_least_float32(weight)))
        gate = norm.pow(1 / self.depth)
        omega = direction * gate
        gates = gate.to(weight.dtype).expand(self.depth - 1, *gate.shape).clone()
        return gates, omega.reshape(weight.shape).to(weight.dtype)

    def masked(self, keep: Tensor, *originals: Tensor) -> tuple[Tensor, ...]:
        """Gates and ``omega`` of the same weight with zeros where ``keep`` is False."""
        gates, omega = originals
        return gates, torch.where(keep, omega, 0)

    def get_extra_state(self) -> Tensor:
        """A mark in the state dict: EWN and torch's ``weight_norm`` use the same keys."""
        return torch.tensor([2.0, self.depth], device="cpu")

    def set_extra_state(self, state: Tensor) -> None:
        """Nothing to restore: the mark tells which formula the keys beside it belong to."""
