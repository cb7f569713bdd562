"""Rows of a given length, ``length * v / ||v||``, and their gradients: fused where they can be."""

from typing import Any, cast

import torch
from torch import Tensor, nn


def of_length(rows: Tensor, length: Tensor, reduced: list[int]) -> Tensor:
    """``length * v / ||v||`` for each neuron, and zero for a neuron whose ``v`` is zero.

    Args:
        rows: ``v``.
        length: signed lengths, of size 1 in the dimensions reduced.
        reduced: the dimensions of ``v`` that a neuron extends over.

    >>> of_length(torch.tensor([[3.0, 4.0], [0.0, 0.0]]), torch.tensor([[10.0], [1.0]]), [1])
    tensor([[6., 8.],
            [0., 0.]])
    """
    if torch.compiler.is_compiling() or torch._C._are_functorch_transforms_active():
        return of_length_plainly(rows, length, reduced)  # they fuse or trace it themselves
    weight, _norm_of_v = _OfLength.apply(rows, length, reduced)
    return cast(Tensor, weight)


def of_length_plainly(rows: Tensor, length: Tensor, reduced: list[int]) -> Tensor:
    """`of_length` in one line of torch, with the gradients that autograd finds."""
    return rows * (length / _positive(row_norms(rows, reduced)))


class _OfLength(torch.autograd.Function):
    """`of_length` with its gradient by hand, which makes no copies of the weight.

    Autograd would go over the plain form eleven times and keep ``v`` twice. The kernels of torch's
    ``weight_norm`` take each row once, while it is in the cache, and a GPU has fewer to start; not
    so their gradient's gradient, which lacks the part through the norm.
    """

    @staticmethod
    def forward(
        ctx: Any, rows: Tensor, length: Tensor, reduced: list[int]
    ) -> tuple[Tensor, Tensor]:
        # saved here: with a setup_context of its own each call inspects the signature, for 0.1 ms
        ctx.reduced = reduced
        ctx.set_materialize_grads(False)
        weight = None
        if _suits_kernel(rows, reduced):
            weight, norm = torch._weight_norm_interface(rows, length.contiguous(), 0)
            # the kernel gives NaN for rows of zeros
            if _asking_waits(rows):
                zero = norm == 0
                weight.masked_fill_(zero, 0.0)
                norm.masked_fill_(zero, 1.0)
            elif not norm.all():
                weight = None
        if weight is None:
            norm = _positive(row_norms(rows, reduced))
            weight = rows * (length / norm)
        ctx.save_for_backward(rows, length, norm)
        ctx.mark_non_differentiable(norm)
        return weight, norm

    @staticmethod
    def backward(ctx: Any, grad: Tensor | None, _of_norm: None) -> tuple[Tensor | None, ...]:
        if grad is None:
            return None, None, None
        rows, length, norm = ctx.saved_tensors
        if torch.is_grad_enabled():  # this gradient will be differentiated
            norm = _positive(row_norms(rows, ctx.reduced))
        elif _suits_kernel(rows, ctx.reduced):
            kernel = torch.ops.aten._weight_norm_interface_backward
            return *kernel(grad.contiguous(), rows, length.contiguous(), norm, 0), None
        direction = rows / norm
        radial = grad * direction
        if ctx.reduced:  # an empty list would mean "all"
            radial = radial.sum(ctx.reduced, keepdim=True)
        return (grad - direction * radial) * (length / norm), radial, None


def _suits_kernel(rows: Tensor, reduced: list[int]) -> bool:
    if type(rows) not in (Tensor, nn.Parameter) or not rows.is_contiguous():
        return False
    # on a GPU the kernel takes square roots in float32, and counts entries in 32 bits
    suits = rows.device.type == "cpu" or (
        rows.is_cuda and rows.dtype == torch.float32 and 0 < rows.numel() < 2**31
    )
    return suits and reduced == list(range(1, rows.dim())) != []


def _asking_waits(rows: Tensor) -> bool:
    """Whether to read a number back is to wait for the device."""
    return rows.is_cuda


def _positive(norm: Tensor) -> Tensor:
    return norm.masked_fill(norm == 0, 1.0)


def row_norms(rows: Tensor, reduced: list[int]) -> Tensor:
    """``||row||`` of each neuron, of size 1 in the dimensions reduced."""
    # a one-dimensional weight has nothing to reduce over, and an empty list means "all"
    return torch.linalg.vector_norm(rows, dim=reduced, keepdim=True) if reduced else rows.abs()
