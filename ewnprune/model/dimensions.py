"""Where the dimension that counts a layer's neurons lies after an operation that moves it."""

from collections.abc import Iterable
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import fx

from ewnprune.model.layers import type_name
from ewnprune.model.tracing import Trace


@dataclass(frozen=True)
class Channels:
    """The neurons of a layer along a tensor's dimension ``-1 - trailing``, in blocks.

    Attributes:
        layer: the layer's name.
        neurons: how many it has.
        trailing: how many dimensions follow theirs.
        block: how many places side by side belong to each.
    """

    layer: str
    neurons: int
    trailing: int
    block: int = 1


def through_mean(trace: Trace, node: fx.Node, channels: Channels) -> Channels | str:
    """Global average pooling written as ``x.mean((2, 3))``; or what is wrong with it."""
    before = trace.shapes[node.all_input_nodes[0]]
    dims: Any = node.kwargs.get("dim", node.args[1] if len(node.args) > 1 else None)
    if isinstance(dims, int):
        dims = (dims,)
    if not isinstance(dims, Iterable) or not all(isinstance(dim, int) for dim in dims):
        return "mean mixes them"
    over = {dim % len(before) for dim in dims}
    own = len(before) - 1 - channels.trailing
    if own in over:
        return "mean mixes them"
    if len(trace.shapes[node]) == len(before):
        return channels
    return replace(channels, trailing=channels.trailing - sum(dim > own for dim in over))


def through_reshape(trace: Trace, node: fx.Node, channels: Channels) -> Channels | str:
    """The same values in the same order: find the dimension that counts the neurons now."""
    before = trace.shapes[node.all_input_nodes[0]]
    after = trace.shapes.get(node, torch.Size())
    outer = before[: len(before) - 1 - channels.trailing].numel()
    for dim in reversed(range(len(after))):
        if after[:dim].numel() == outer and after[dim] % channels.neurons == 0:
            block = after[dim] // channels.neurons
            return replace(channels, trailing=len(after) - 1 - dim, block=block)
    return f"{describe(trace, node)} mixes them with other dimensions"


def through_permutation(trace: Trace, node: fx.Node, channels: Channels) -> Channels | str:
    """Dimensions in another order: find theirs by its size, where all have different ones."""
    if len(node.all_input_nodes) > 1:
        return f"{describe(trace, node)} moves them by numbers that it is given"
    count = len(trace.shapes[node.all_input_nodes[0]])
    own = count - 1 - channels.trailing
    sizes = torch.empty([*range(count)], device="meta")
    given: Any = fx.node.map_arg((node.args, node.kwargs), lambda _: sizes)  # by any keyword
    args, kwargs = given
    if node.op == "call_method":
        moved = getattr(sizes, str(node.target))(*args[1:], **kwargs)
    else:
        target: Any = node.target
        moved = target(*args, **kwargs)
    return replace(channels, trailing=count - 1 - list(moved.shape).index(own))


def describe(trace: Trace, node: fx.Node) -> str:
    """An operation in a message."""
    name = trace.layer(node)
    if name is not None:
        return f"{type_name(trace.root.get_submodule(str(node.target)))} {name!r}"
    return str(getattr(node.target, "__name__", node.target))
