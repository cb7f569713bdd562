"""Normalizations: modules with something for each channel, and what they read beside it.

In eval mode a BatchNorm is a factor and a shift for each channel, which can be folded into the
layer before it.

A BatchNorm treats every channel by itself. A LayerNorm or GroupNorm reads across channels, so that
without some of them it gives other values for the rest; a masked one counts those that stay only.
"""

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm
from torch.nn.modules.instancenorm import _InstanceNorm

from ewnprune.model.tensors import replace_tensor

ACROSS = (nn.LayerNorm, nn.GroupNorm, nn.RMSNorm, nn.LocalResponseNorm, nn.Softmax, nn.Softmax2d)
"""Modules that read across channels, whether or not it is known how to leave some out."""


@dataclass(frozen=True)
class Normalization:
    """What a kind of module has for each channel.

    Attributes:
        width: the attribute that says how many channels there are.
        dim: the dimension of its input that counts them; None where that is not known.
        across: whether it reads across them.
    """

    width: str
    dim: int | None = 1
    across: bool = False


def normalization_of(module: nn.Module) -> Normalization | None:
    """The record of a module; None for one that has nothing for each channel.

    >>> normalization_of(nn.LayerNorm(4))
    Normalization(width='normalized_shape', dim=-1, across=True)
    >>> normalization_of(nn.Softmax()) is None
    True
    """
    if isinstance(module, _BatchNorm | _InstanceNorm):
        return Normalization("num_features")
    if isinstance(module, nn.PReLU):
        return Normalization("num_parameters") if module.num_parameters > 1 else None
    if isinstance(module, nn.GroupNorm):
        known = type(module).forward is nn.GroupNorm.forward
        return Normalization("num_channels", 1 if known else None, across=True)
    if isinstance(module, nn.LayerNorm | nn.RMSNorm):
        return Normalization("normalized_shape", _last_or_first(module), across=True)
    return None


def _last_or_first(norm: Any) -> int | None:
    if len(norm.normalized_shape) != 1:
        return None
    if type(norm).forward in (nn.LayerNorm.forward, nn.RMSNorm.forward):
        return -1
    return 1 if type(norm).__name__ == "LayerNorm2d" else None  # of torchvision and timm


def as_scale_and_shift(norm: Any) -> tuple[Tensor, Tensor] | None:
    """What a BatchNorm does in eval mode: a factor and a shift for each channel, in float32 or 64.

    None where that is not so: for another module, or one without running statistics.

    >>> norm = nn.BatchNorm1d(1, eps=0.0)
    >>> norm.running_mean.fill_(3.0), norm.running_var.fill_(4.0)
    (tensor([3.]), tensor([4.]))
    >>> as_scale_and_shift(norm)
    (tensor([0.5000]), tensor([-1.5000]))
    """
    if not isinstance(norm, _BatchNorm) or norm.running_var is None or norm.running_mean is None:
        return None
    precise = torch.promote_types(norm.running_var.dtype, torch.float32)
    with torch.no_grad():
        scale = (norm.running_var.to(precise) + norm.eps).rsqrt()
        if norm.weight is not None:
            scale = norm.weight.to(precise) * scale
        shift = -norm.running_mean.to(precise) * scale
        if norm.bias is not None:
            shift = shift + norm.bias.to(precise)
    return scale, shift


def channels_of(module: Any) -> int:
    """How many channels a module of `normalization_of`, or an Embedding, has something for."""
    if isinstance(module, nn.Embedding):
        return int(module.embedding_dim)
    record = normalization_of(module)
    assert record is not None
    width = getattr(module, record.width)
    return int(width[-1] if isinstance(width, tuple) else width)


def shrink_channels(module: Any, keep: Tensor) -> None:
    """Cut channels out of a normalization or an Embedding, in place.

    Args:
        module: see `normalization_of`.
        keep: which channels stay, ``(channels,)``.
    """
    channels = channels_of(module)
    for table in (module._parameters, module._buffers):
        for name, tensor in table.items():
            if tensor is not None and tensor.shape[-1:] == (channels,):
                index = keep.nonzero().flatten().to(tensor.device)
                replace_tensor(module, name, tensor.detach().index_select(-1, index))
    left = int(keep.sum())
    if isinstance(module, nn.Embedding):
        module.embedding_dim = left
        return
    record = normalization_of(module)
    assert record is not None
    width = getattr(module, record.width)
    setattr(module, record.width, (*width[:-1], left) if isinstance(width, tuple) else left)
