"""Tensors in any nesting of lists, tuples and dictionaries: moved, copied, cut, compared."""

from collections.abc import Callable, Iterable, Mapping
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils._pytree import tree_leaves, tree_map_only


def device_of(model: nn.Module) -> torch.device:
    """The device of a model's first parameter; the CPU where it has none."""
    return next((p.device for p in model.parameters()), torch.device("cpu"))


def to_device(tree: Any, device: torch.device | str) -> Any:
    """The tensors in any nesting, on a device."""
    return tree_map_only(Tensor, lambda tensor: tensor.to(device), tree)


def clone(tree: Any) -> Any:
    """Copies of the tensors in any nesting of lists, tuples and dictionaries."""
    return tree_map_only(Tensor, Tensor.clone, tree)


def first_samples(inputs: Any, count: int = 1) -> Any:
    """The first samples of a batch; the whole batch where samples cannot be told."""
    sizes = {leaf.shape[:1] for leaf in tree_leaves(inputs) if isinstance(leaf, Tensor)}
    if len(sizes) != 1 or sizes == {()}:
        return inputs
    return tree_map_only(Tensor, lambda tensor: tensor[:count], inputs)


def two_samples(inputs: Any) -> Any:
    """A batch of one sample as one of two, the same twice; others as they are.

    >>> two_samples({"x": torch.zeros(1, 3)})["x"].shape
    torch.Size([2, 3])
    """
    sizes = {leaf.shape[:1] for leaf in tree_leaves(inputs) if isinstance(leaf, Tensor)}
    if sizes != {(1,)}:
        return inputs
    return tree_map_only(Tensor, lambda tensor: torch.cat([tensor, tensor]), inputs)


def without(size: int, gone: Iterable[int]) -> Tensor:
    """Which of ``size`` units stay, ``(size,)``.

    >>> without(3, [1])
    tensor([ True, False,  True])
    """
    keep = torch.ones(size, dtype=torch.bool)
    keep[list(gone)] = False
    return keep


def same(first: Any, second: Any, equal: Callable[[Tensor, Tensor], bool]) -> bool:
    """Whether two results, tensors in any nesting, agree by ``equal`` tensor by tensor."""
    if isinstance(first, Tensor) and isinstance(second, Tensor):
        return first.shape == second.shape and equal(first, second)
    if isinstance(first, Mapping) and isinstance(second, Mapping):
        return first.keys() == second.keys() and all(
            same(first[key], second[key], equal) for key in first
        )
    if isinstance(first, tuple | list) and isinstance(second, tuple | list):
        return len(first) == len(second) and all(
            same(one, other, equal) for one, other in zip(first, second, strict=True)
        )
    return type(first) is type(second) and not isinstance(first, Tensor)


def identical(first: Tensor, second: Tensor) -> bool:
    """Bit for bit equal, NaN where NaN is."""
    return torch.equal(first, second) or bool(
        ((first == second) | (first.isnan() & second.isnan())).all()
    )


def close(first: Tensor, second: Tensor) -> bool:
    """Equal but for rounding: to the root of the type's precision, relative to the largest."""
    if first.is_complex() and second.is_complex():
        return close(torch.view_as_real(first), torch.view_as_real(second))
    if not first.is_floating_point():
        return torch.equal(first, second)
    scale = float(second.abs().nan_to_num(0.0, 0.0, 0.0).max()) if second.numel() else 0.0
    tolerance = torch.finfo(first.dtype).eps ** 0.5 * scale
    return torch.allclose(first, second, rtol=0.0, atol=tolerance, equal_nan=True)
