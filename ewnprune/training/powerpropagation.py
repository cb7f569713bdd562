"""Powerpropagation: a power of the weights, so that large ones learn fast and small ones slowly."""

import torch
from torch import Tensor

from ewnprune.training.lengths import row_norms
from ewnprune.training.parametrizations import NeuronParametrization, at_least_float32


class Powerpropagation(NeuronParametrization):
    """Powerpropagation, ``w = v * |v|^(a - 1)`` for each weight, or for each neuron.

    The gradient with respect to ``v`` is that of ``w`` times ``a * |v|^(a - 1)``: weights near zero
    hardly move, and stay where pruning finds them. It starts from
    ``v = sign(w) |w|^(1 / a)``, so that ``w`` starts as it was. Schwarz, Jayakumar, Pascanu, Latham
    & Teh (NeurIPS 2021), https://arxiv.org/abs/2110.00296, who take ``a`` from 1, plain training,
    to 5.

    With ``per_neuron`` it is ``w_u = v_u * ||v_u||^(a - 1)``, which is not in the paper: the length
    of ``v`` learns at ``a * ||v||^(a - 1)`` and its direction at ``||v||^(a - 1)`` times the rate,
    so that the learning rate of ``w_u`` is ``||w_u||^(2 - 2 / a)``, times ``a^2`` along ``w_u``. It
    comes near EWN's ``||w_u||^2`` as ``a`` grows.

    Args:
        exponent: ``a``, >= 1.
        per_neuron: take the power of each neuron's norm, in place of each weight's size.
        dim: see `NeuronParametrization`.

    Raises:
        ValueError: an exponent below 1.

    >>> (v,) = Powerpropagation(2, dim=0).right_inverse(torch.tensor([[9.0, -4.0], [0.0, 0.25]]))
    >>> v
    tensor([[ 3.0000, -2.0000],
            [ 0.0000,  0.5000]])
    >>> Powerpropagation(2, per_neuron=True, dim=0)(torch.tensor([[3.0, 4.0]]))
    tensor([[15., 20.]])
    """

    has_scale = False
    num_originals = 1

    def __init__(
        self, exponent: float = 2.0, per_neuron: bool = False, dim: int | None = None
    ) -> None:
        if not exponent >= 1:
            raise ValueError(f"Powerpropagation(exponent={exponent}): expected a number >= 1")
        super().__init__(dim)
        self.exponent, self.per_neuron = exponent, per_neuron

    def extra_repr(self) -> str:
        own = f"exponent={self.exponent:g}", "per_neuron=True" if self.per_neuron else ""
        return ", ".join(filter(None, [*own, super().extra_repr()]))

    def forward(self, *originals: Tensor) -> Tensor:
        """The weight, in the shape and dtype of ``v``."""
        (v,) = originals
        if self.exponent == 1:
            return v.clone()
        rows = self._split(at_least_float32(v))
        if self.per_neuron:
            weight = rows * _power(row_norms(rows, self._reduced(rows)), self.exponent - 1)
        else:
            weight = rows.sign() * rows.abs().pow(self.exponent)
        return weight.reshape(v.shape).to(v.dtype)

    def right_inverse(self, weight: Tensor) -> tuple[Tensor, ...]:
        """``v`` that gives this weight."""
        rows = self._split(at_least_float32(weight))
        if self.per_neuron:
            norm, direction = self.norm_and_direction(rows)
            v = direction * norm.pow(1 / self.exponent)
        else:
            v = rows.sign() * rows.abs().pow(1 / self.exponent)
        return (v.reshape(weight.shape).to(weight.dtype),)

    def masked(self, keep: Tensor, *originals: Tensor) -> tuple[Tensor, ...]:
        """``v`` of the same weight with zeros where ``keep`` is False."""
        (v,) = originals
        kept = torch.where(keep, v, 0)
        if not self.per_neuron:
            return (kept,)
        before, after = (
            row_norms(rows, self._reduced(rows))
            for rows in (self._split(at_least_float32(v)), self._split(at_least_float32(kept)))
        )
        share = before / torch.where(after > 0, after, 1.0)
        longer = self._split(kept) * _power(share, 1 - 1 / self.exponent)
        return (longer.reshape(v.shape).to(v.dtype),)

    def get_extra_state(self) -> Tensor:
        """A mark in the state dict, with all that tells the formula."""
        dim = -1 if self.dim is None else self.dim
        return torch.tensor([3.0, self.exponent, self.per_neuron, dim, self.groups], device="cpu")

    def set_extra_state(self, state: Tensor) -> None:
        """Nothing to restore: the mark tells which formula the keys beside it belong to."""


def _power(x: Tensor, exponent: float) -> Tensor:
    """``x^exponent``, and 0 with a gradient of 0 where ``x`` is 0."""
    positive = x > 0
    return torch.where(positive, torch.where(positive, x, 1.0).pow(exponent), 0.0)
