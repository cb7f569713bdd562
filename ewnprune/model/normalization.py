"""Norms that read across channels, without some of them: cut out, or masked.

A masked norm counts the channels that stay only. No mask on weights says that, but in a copy of a
model the norm itself can, and so the removal of what it reads across is verified like any other.
"""

from copy import deepcopy
from typing import Any

import torch
from torch import Tensor, nn

from ewnprune.model.tensors import without


def channel_dim(norm: nn.Module) -> int | None:
    """The dimension of its input that a norm reads across; None where that is not known.

    >>> channel_dim(nn.LayerNorm(4)), channel_dim(nn.GroupNorm(2, 4)), channel_dim(nn.Softmax())
    (-1, 1, None)
    """
    forward = getattr(type(norm), "forward", None)
    if isinstance(norm, nn.LayerNorm) and len(norm.normalized_shape) == 1:
        if forward is nn.LayerNorm.forward:
            return -1
        return 1 if type(norm).__name__ == "LayerNorm2d" else None  # of torchvision and timm
    return 1 if forward is nn.GroupNorm.forward else None


def shrink_norm(norm: Any, gone: list[int]) -> None:
    """Cut channels out of a LayerNorm or GroupNorm, in place."""
    group = isinstance(norm, nn.GroupNorm)
    keep = without(norm.num_channels if group else norm.normalized_shape[-1], gone)
    if group:
        norm.num_channels = int(keep.sum())
    else:
        norm.normalized_shape = (*norm.normalized_shape[:-1], int(keep.sum()))
    for name, parameter in norm._parameters.items():
        if parameter is not None:
            kept = parameter.detach()[..., keep.to(parameter.device)]
            norm._parameters[name] = nn.Parameter(kept, parameter.requires_grad)


def mask_norm(norm: Any, gone: list[int]) -> None:
    """Make a norm give zero for some channels, and leave them out of its mean and variance."""
    dim = channel_dim(norm)
    assert dim is not None
    small = deepcopy(norm)
    shrink_norm(small, gone)

    def masked(_: nn.Module, args: tuple[Tensor, ...], output: Tensor) -> Tensor:
        index = without(output.shape[dim], gone).nonzero().flatten().to(output.device)
        values = small(args[0].index_select(dim, index))
        return torch.zeros_like(output).index_copy(dim, index, values)

    norm.register_forward_hook(masked)
