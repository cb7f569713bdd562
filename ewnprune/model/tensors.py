"""Tensors in any nesting of lists, tuples and dictionaries: moved, copied, cut, compared."""

from collections import OrderedDict, UserDict, defaultdict
from collections.abc import Callable, Iterable, Iterator, Mapping
from copy import copy
from dataclasses import fields, is_dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.utils.rnn import PackedSequence
from torch.utils._pytree import tree_leaves, tree_map


def device_of(model: nn.Module) -> torch.device:
    """The device of a model's first parameter; the CPU where it has none."""
    return next((p.device for p in model.parameters()), torch.device("cpu"))


def holders_of_parameters(model: nn.Module) -> dict[int, list[tuple[str, str]]]:
    """Who holds each parameter, by its id: names of modules, each with that of the parameter in it.

    A module under two names counts by the first: that is no tie.

    >>> net = nn.Sequential(nn.Linear(2, 2, bias=False), nn.Linear(2, 2, bias=False))
    >>> net[1].weight = net[0].weight
    >>> [*holders_of_parameters(net).values()]
    [[('0', 'weight'), ('1', 'weight')]]
    """
    holders: dict[int, list[tuple[str, str]]] = {}
    for name, module in model.named_modules():
        for key, parameter in module._parameters.items():
            if parameter is not None:
                holders.setdefault(id(parameter), []).append((name, key))
    return holders


def to_device(tree: Any, device: torch.device | str) -> Any:
    """The tensors in any nesting, on a device."""
    return map_tensors(lambda tensor: tensor.to(device), tree)


def clone(tree: Any) -> Any:
    """Copies of the tensors in any nesting, and of what they are nested in."""
    return map_tensors(Tensor.clone, tree)


def map_tensors(function: Callable[[Tensor], Any], tree: Any) -> Any:
    """A function of each tensor, in the same nesting.

    Lists, tuples (named ones too), dictionaries and what torch's pytree knows are taken apart; so
    are dataclasses, and mappings that keep a dictionary (transformers' ``BatchEncoding``). The
    sizes of packed sequences stay as they are, on the CPU, where torch wants them.

    >>> map_tensors(lambda tensor: tensor + 1, {"x": [torch.tensor(1)], "name": "a"})
    {'x': [tensor(2)], 'name': 'a'}
    """
    return tree_map(lambda leaf: _of_leaf(function, leaf), tree, is_leaf=_is_nest)


def tensors_in(tree: Any) -> list[Tensor]:
    """The tensors in any nesting, in order."""
    found: list[Tensor] = []
    for leaf in _leaves(tree):
        packed = isinstance(leaf, PackedSequence)
        found += [part for part in leaf if part is not None] if packed else [leaf]
    return found


def _leaves(tree: Any) -> Iterator[Any]:
    """The tensors and packed sequences in any nesting, in order."""
    for leaf in tree_leaves(tree, is_leaf=_is_nest):
        if isinstance(leaf, Tensor | PackedSequence):
            yield leaf
        elif _is_nest(leaf):
            held = leaf.data if isinstance(leaf, UserDict) else leaf
            yield from _leaves([*held.values()] if isinstance(held, Mapping) else [])
            names = [field.name for field in fields(leaf)] if is_dataclass(leaf) else []
            yield from _leaves([getattr(leaf, name, None) for name in names])


def _is_nest(value: Any) -> bool:
    """Whether it holds others, and is more than torch's pytree knows."""
    of_data = is_dataclass(value) and not isinstance(value, type)
    of_data |= isinstance(value, PackedSequence)  # which it takes for any named tuple
    mapping = isinstance(value, UserDict | dict)
    return of_data or (mapping and type(value) not in (dict, OrderedDict, defaultdict))


def _of_leaf(function: Callable[[Tensor], Any], leaf: Any) -> Any:
    if isinstance(leaf, Tensor):
        return function(leaf)
    if not _is_nest(leaf):
        return leaf
    if isinstance(leaf, PackedSequence):
        parts = leaf._asdict().items()
        mapped = {k: function(part) for k, part in parts if part is not None and k != "batch_sizes"}
        return leaf._replace(**mapped)
    twin = copy(leaf)  # whatever else it keeps goes along, and nothing is computed anew
    if isinstance(leaf, UserDict):
        twin.data = map_tensors(function, leaf.data)
    elif isinstance(leaf, dict):
        for key, value in leaf.items():
            dict.__setitem__(twin, key, map_tensors(function, value))
    for field in fields(leaf) if is_dataclass(leaf) else ():
        if hasattr(leaf, field.name):
            value = map_tensors(function, getattr(leaf, field.name))
            object.__setattr__(twin, field.name, value)  # frozen ones too
    return twin


def first_samples(inputs: Any, count: int = 1) -> Any:
    """The first samples of a batch; the whole batch where samples cannot be told.

    >>> first_samples({"x": torch.zeros(3, 2), "temperature": torch.tensor(1.0)})["x"].shape
    torch.Size([1, 2])
    """
    if samples(inputs) is None:
        return inputs
    return map_tensors(lambda tensor: tensor[:count] if tensor.ndim else tensor, inputs)


def repeated(inputs: Any, count: int) -> Any:
    """A batch of so many samples, those of another over and over; numbers by themselves stay.

    A batch without samples, or whose samples cannot be told, comes back as it is.

    >>> repeated({"x": torch.tensor([1, 2]), "temperature": torch.tensor(1.0)}, 3)
    {'x': tensor([1, 2, 1]), 'temperature': tensor(1.)}
    """
    if not samples(inputs):
        return inputs

    def resize(tensor: Tensor) -> Tensor:
        return torch.cat([tensor] * -(-count // len(tensor)))[:count] if tensor.ndim else tensor

    return map_tensors(resize, inputs)


def samples(inputs: Any) -> int | None:
    """How many samples a batch has; numbers by themselves belong to all.

    None where that cannot be told; so it is of packed sequences, whose samples lie across.
    """
    if any(isinstance(leaf, PackedSequence) for leaf in _leaves(inputs)):
        return None
    sizes = {len(tensor) for tensor in tensors_in(inputs) if tensor.ndim}
    return sizes.pop() if len(sizes) == 1 else None


def without(size: int, gone: Iterable[int]) -> Tensor:
    """Which of ``size`` units stay, ``(size,)``.

    >>> without(3, [1])
    tensor([ True, False,  True])
    """
    keep = torch.ones(size, dtype=torch.bool, device="cpu")
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
    if _is_nest(first) and type(first) is type(second):
        ones, others = tensors_in(first), tensors_in(second)
        return len(ones) == len(others) and all(
            same(one, other, equal) for one, other in zip(ones, others, strict=True)
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
    """Equal but for rounding: to the root of the precision, relative to the largest."""
    if first.is_complex() and second.is_complex():
        return close(torch.view_as_real(first), torch.view_as_real(second))
    if not first.is_floating_point():
        return torch.equal(first, second)
    scale = float(second.abs().nan_to_num(0.0, 0.0, 0.0).max()) if second.numel() else 0.0
    tolerance = precision_of(first) ** 0.5 * scale
    return torch.allclose(first, second, rtol=0.0, atol=tolerance, equal_nan=True)


def precision_of(tensor: Tensor) -> float:
    """The relative step of what a tensor was computed in: its type's, or that of TF32.

    A GPU computes convolutions of float32 in TF32 unless it is told otherwise, and which of them
    may depend on their widths. https://docs.pytorch.org/docs/stable/notes/cuda.html

    >>> precision_of(torch.ones(1, dtype=torch.bfloat16))
    0.0078125
    """
    cudnn: Any = torch.backends.cudnn  # its attributes are made at run time
    kinds = (torch.backends.cuda.matmul, cudnn.conv, cudnn.rnn)
    tf32 = any(kind.fp32_precision == "tf32" for kind in kinds)
    if tensor.is_cuda and tensor.dtype == torch.float32 and tf32:
        return 2.0**-10
    return float(torch.finfo(tensor.dtype).eps)


def replace_tensor(module: nn.Module, name: str, value: Tensor) -> None:
    """Put another tensor in the place of a parameter or buffer, of whatever shape."""
    if name in module._parameters:
        old = module._parameters[name]
        trains = old is not None and old.requires_grad
        module._parameters[name] = nn.Parameter(value, requires_grad=trains)
    else:
        module._buffers[name] = value
