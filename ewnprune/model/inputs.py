"""Who reads a network's inputs: the first layers, and what a feature is to them."""

from dataclasses import dataclass, replace
from math import prod
from typing import Any

from torch import Size, Tensor, fx, nn

from ewnprune.model.dimensions import Channels
from ewnprune.model.layers import LAYER_TYPES, conv_groups, type_name
from ewnprune.model.operations import is_elementwise
from ewnprune.model.readers import Flow, Reader, Walk
from ewnprune.model.selecting import can_select, selects_inputs
from ewnprune.model.tracing import Trace, asks_fact

_INPUTS = ""  # in place of a layer's name


@dataclass(frozen=True)
class InputFlow:
    """The features of a network's inputs, one tensor, and the layers that read them.

    Attributes:
        shape: the shape of the features of one sample: of all of its numbers where the first layers
            read it flattened, otherwise of its channels.
        readers: the layers.
        unknown: why that is not known; empty if it is.
    """

    shape: tuple[int, ...] = ()
    readers: tuple[Reader, ...] = ()
    unknown: str = ""


def why_no_features(inputs: Any) -> str:
    """Why the inputs of a batch are no features of samples; empty if they are."""
    if not isinstance(inputs, Tensor):
        return f"they are a {type(inputs).__name__}: expected one tensor"
    if not inputs.is_floating_point():
        kind = str(inputs.dtype).removeprefix("torch.")
        return f"they are whole numbers ({kind}), as token ids: not measurements"
    return (
        "" if inputs.ndim > 1 else f"their shape is {tuple(inputs.shape)}: expected samples first"
    )


def input_flow(trace: Trace) -> InputFlow:
    """Find the layers that read the inputs of a network, one tensor, if those alone do.

    Args:
        trace: the traced forward pass, run once, so that shapes are known.
    """
    narrow = next((n for n, m in trace.root.named_modules() if selects_inputs(m)), "")
    if narrow:
        name = narrow.removeprefix("model").removeprefix(".")
        return InputFlow(unknown=f"{name!r} reads some of them alone already: remove all at once")
    # channels first, as convolutions read them; then features last, as a Linear reads them
    shape = trace.shapes[trace.nodes[0]]
    flows = [_along(trace, dim, shape) for dim in dict.fromkeys((1, len(shape) - 1))]
    return next((flow for flow in flows if not flow.unknown), flows[0])


def first_layers(trace: Trace) -> list[str]:
    """Layers that read the inputs and nothing that another layer made of them. No data are needed.

    >>> from ewnprune.model.tracing import trace
    >>> net = nn.Sequential(nn.Flatten(), nn.Linear(4, 3), nn.ReLU(), nn.Linear(3, 2))
    >>> first_layers(trace(net))
    ['1']
    """
    reached, readers = {trace.nodes[0]}, dict[str, list[fx.Node]]()
    for node in trace.nodes[1:]:
        if asks_fact(node) or not reached.intersection(node.all_input_nodes):
            continue
        name = trace.layer(node)
        if name is None:
            reached.add(node)
        elif isinstance(trace.module(name), LAYER_TYPES):
            readers.setdefault(name, []).append(node)
        elif all(parameter.dim() < 2 for parameter in trace.module(name).parameters()):
            reached.add(node)  # a norm; what has weights of its own makes other features
    return [name for name, nodes in readers.items() if nodes == trace.calls(name)]


def _along(trace: Trace, dim: int, shape: Size) -> InputFlow:
    """What reads inputs whose features lie along one dimension."""
    walk = _InputWalk(trace, dim)
    for node in trace.nodes:
        walk.visit(node)
    flow = walk.flow()
    readers = flow.consumers
    layers = {reader.name: trace.module(reader.name) for reader in readers}
    unknown = flow.unknown or next(filter(None, (_why_not(*pair) for pair in layers.items())), "")
    if unknown:
        return InputFlow(unknown=unknown)
    beside = prod(shape[dim + 1 :])
    in_a_row = all(isinstance(layers[r.name], nn.Linear) and r.block == beside for r in readers)
    if dim == 1 and in_a_row and not walk.mixed:
        return InputFlow(tuple(shape[1:]), tuple(replace(reader, block=1) for reader in readers))
    return InputFlow((shape[dim],), readers)


def _why_not(name: str, layer: nn.Module) -> str:
    """Why a layer cannot leave out some of its inputs; empty if it can."""
    if not can_select(layer) or conv_groups(layer) > 1:
        groups = f" with {conv_groups(layer)} groups" if conv_groups(layer) > 1 else ""
        return f"{name!r} is a {type_name(layer)}{groups}"
    return ""


class _InputWalk(Walk):
    """Follows the inputs, of which nothing is cut on the way: layers are given the whole width.

    Attributes:
        mixed: whether the numbers along the other dimensions were mixed with each other, or put in
            another order.
    """

    def __init__(self, trace: Trace, dim: int) -> None:
        super().__init__(trace, {})
        first = trace.nodes[0]
        shape = trace.shapes[first]
        self.consumers[_INPUTS], self.channelwise[_INPUTS] = {}, {}
        self.channels[first] = Channels(_INPUTS, shape[dim], len(shape) - 1 - dim)
        self.mixed = False

    def flow(self) -> Flow:
        self.lose_read_otherwise()
        readers = tuple(self.consumers[_INPUTS].values())
        unknown = self.unknown.get(_INPUTS, "" if readers else "no layer was seen to read them")
        return Flow(readers, unknown=unknown)

    def joins(self, node: fx.Node) -> bool:
        if not super().joins(node):
            return False
        # constants of the model are fine, number by number: (x - mean) / std
        source = next(node for node in node.all_input_nodes if node in self.channels)
        others = [other for other in node.all_input_nodes if other is not source]
        return (
            any(other.op != "get_attr" for other in others)
            or not is_elementwise(self.trace, node)
            or self.trace.shapes.get(node) != self.trace.shapes[source]
        )

    def through_pool(self, node: fx.Node, channels: Channels, dims: int) -> Channels | str:
        self.mixed = True
        return super().through_pool(node, channels, dims)

    def through_mean(self, node: fx.Node, channels: Channels) -> Channels | str:
        self.mixed = True
        return super().through_mean(node, channels)

    def through_permutation(self, node: fx.Node, channels: Channels) -> Channels | str:
        self.mixed = True
        return super().through_permutation(node, channels)
