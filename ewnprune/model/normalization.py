"""Normalizations: modules with something for each channel, and what they read beside it.

In eval mode a BatchNorm is a factor and a shift for each channel, which can be folded into the
layer before it.

A BatchNorm treats every channel by itself. A LayerNorm or GroupNorm reads across channels, so that
without some of them it gives other values for the rest; a masked one counts those that stay only.
Norms that are not torch's (Llama's) are known by what they give.
"""

from collections.abc import Mapping
from copy import copy
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
        width: the attribute that says how many channels there are; empty where only the tensors do.
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
    return _measured(module)


def _measured(module: nn.Module) -> Normalization | None:
    """The record of a module of whatever class that gives what a LayerNorm or RMSNorm gives.

    It is run on random numbers: over the last dimension, and once more without some channels.
    """
    tensors = _tensors(module)
    if not tensors or module._modules or type(module).__module__.startswith("torch."):
        return None
    if any(t.is_meta or t.ndim != 1 or not t.is_floating_point() for t in tensors):
        return None
    (channels, *others) = {tensor.numel() for tensor in tensors}
    if others or channels < 4:
        return None
    twin = copy(module)  # with tensors and attributes of its own
    twin._parameters, twin._buffers = module._parameters.copy(), module._buffers.copy()
    scales = _scales_given(twin, channels)
    if scales is None:
        return None
    keep = torch.arange(channels, device="cpu") % 4 != 1
    _shrink_tensors(twin, channels, keep)
    _shrink_numbers(twin, channels, int(keep.sum()))
    fewer = _scales_given(twin, int(keep.sum()))
    # of what is left the same is expected; where it is not, nobody can mask it
    same = fewer is not None and _near(fewer, scales[:, keep], tensors[0].dtype)
    return Normalization("", -1 if same else None, across=True)


def _scales_given(module: nn.Module, channels: int) -> Tensor | None:
    """Scale and shift of each channel, ``(2, channels)``, if a module normalizes; else None."""
    like = _tensors(module)[0]
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(8, 2, channels, generator=generator, dtype=torch.float64, device="cpu") + 0.5
    x = (x * torch.logspace(0, 2, 16, dtype=torch.float64, device="cpu").view(8, 2, 1)).to(like)
    try:
        with torch.inference_mode(False), torch.no_grad():
            given = module.forward(x.clone())
    except Exception:  # of a module that takes something else, and is no norm
        return None
    if not isinstance(given, Tensor) or given.shape != x.shape or not given.isfinite().all():
        return None
    y, x = given.cpu().double().flatten(0, 1), x.cpu().double().flatten(0, 1)
    for shift in (torch.zeros(1, device="cpu"), x.mean(-1, keepdim=True)):
        normal = (x - shift) / (x - shift).square().mean(-1, keepdim=True).sqrt()
        about = normal - normal.mean(0)
        scale = (about * y).sum(0) / about.square().sum(0)
        offset = y.mean(0) - scale * normal.mean(0)
        if _near(scale * normal + offset, y, like.dtype):
            return torch.stack([scale, offset])
    return None


def _near(given: Tensor, expected: Tensor, dtype: torch.dtype) -> bool:
    tolerance = max(1e-3, 4 * torch.finfo(dtype).eps) * expected.abs().max()
    return bool((given - expected).abs().max() <= tolerance)


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
        weight = norm.weight  # once: a parametrization computes it anew each time
        if weight is not None:
            scale = weight.to(precise) * scale
        shift = -norm.running_mean.to(precise) * scale
        if norm.bias is not None:
            shift = shift + norm.bias.to(precise)
    return scale, shift


def as_scales_and_shifts(
    network: nn.Module, norms: Mapping[str, str]
) -> dict[str, tuple[Tensor, Tensor]]:
    """`as_scale_and_shift` of the BatchNorms behind some layers, by the names of those.

    Args:
        network: the network.
        norms: for each layer the name of its BatchNorm.
    """
    found = {
        layer: as_scale_and_shift(network.get_submodule(norm)) for layer, norm in norms.items()
    }
    return {layer: affine for layer, affine in found.items() if affine is not None}


def channels_of(module: Any) -> int:
    """How many channels a module of `normalization_of`, or an Embedding, has something for."""
    if isinstance(module, nn.Embedding):
        return int(module.embedding_dim)
    record = normalization_of(module)
    assert record is not None
    if not record.width:
        return _tensors(module)[0].numel()
    width = getattr(module, record.width)
    return int(width[-1] if isinstance(width, tuple) else width)


def shrink_channels(module: Any, keep: Tensor) -> None:
    """Cut channels out of a normalization or an Embedding, in place.

    Args:
        module: see `normalization_of`.
        keep: which channels stay, ``(channels,)``.
    """
    record = normalization_of(module)
    channels = channels_of(module)
    left = int(keep.sum())
    _shrink_tensors(module, channels, keep)
    if isinstance(module, nn.Embedding):
        module.embedding_dim = left
        return
    assert record is not None
    if not record.width:
        _shrink_numbers(module, channels, left)
        return
    width = getattr(module, record.width)
    setattr(module, record.width, (*width[:-1], left) if isinstance(width, tuple) else left)


def _tensors(module: nn.Module) -> list[Tensor]:
    return [t for t in (*module._parameters.values(), *module._buffers.values()) if t is not None]


def _shrink_tensors(module: nn.Module, channels: int, keep: Tensor) -> None:
    for table in (module._parameters, module._buffers):
        for name, tensor in table.items():
            if tensor is not None and tensor.shape[-1:] == (channels,):
                index = keep.nonzero().flatten().to(tensor.device)
                replace_tensor(module, name, tensor.detach().index_select(-1, index))


def _shrink_numbers(module: nn.Module, channels: int, left: int) -> None:
    """A norm that is not torch's may keep its width, under any name."""
    for name, value in vars(module).items():
        if type(value) is int and value == channels:
            vars(module)[name] = left
        elif isinstance(value, tuple | list) and [*value] == [channels]:
            vars(module)[name] = type(value)([left])
