"""Who reads a layer's neurons: follow them through the traced graph to the layers they feed."""

from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import fx, nn

from ewnprune.model.batch_norms import batch_norm_after
from ewnprune.model.dimensions import (
    Channels,
    describe,
    through_mean,
    through_permutation,
    through_reshape,
)
from ewnprune.model.layers import LAYER_TYPES, num_neurons, spatial_dims, type_name
from ewnprune.model.normalization import normalization_of
from ewnprune.model.operations import (
    ELEMENTWISE,
    ELEMENTWISE_FUNCTIONS,
    ELEMENTWISE_NAMES,
    PERMUTE_FUNCTIONS,
    PERMUTE_NAMES,
    POOL_FUNCTIONS,
    POOLS,
    RESHAPE_FUNCTIONS,
    RESHAPE_NAMES,
    is_stock,
    stock_kind,
)
from ewnprune.model.recurrent import is_recurrent
from ewnprune.model.selecting import selects_inputs
from ewnprune.model.tracing import Trace, asks_fact


@dataclass(frozen=True)
class Reader:
    """A module that has something for each neuron: an input column, or a scale and shift.

    Attributes:
        name: the module's name.
        block: how many of its inputs belong to one neuron, side by side (flattening a channel of
            5 x 5 pixels makes it 25 columns).
    """

    name: str
    block: int = 1


@dataclass(frozen=True)
class Flow:
    """Where the neurons of one layer go.

    Attributes:
        consumers: the layers that read them; empty if not known.
        channelwise: BatchNorms and the like that they pass, in order.
        unknown: why the consumers are not known; empty if they are.
        norm: the BatchNorm that directly follows the layer and reads nothing else, if any.
    """

    consumers: tuple[Reader, ...] = ()
    channelwise: tuple[Reader, ...] = ()
    unknown: str = ""
    norm: str | None = None

    @property
    def scaled(self) -> tuple[Reader, ...]:
        """The channelwise modules that lose their scale and shift with a neuron."""
        if not self.unknown:
            return self.channelwise
        return tuple(reader for reader in self.channelwise if reader.name == self.norm)


def neuron_flows(trace: Trace, chosen: Mapping[str, nn.Module]) -> dict[str, Flow]:
    """Follow the neurons of the chosen layers to the layers that read them.

    The trace must have been run once, so that shapes are known.
    """
    walk = Walk(trace, chosen)
    for node in trace.nodes:
        walk.visit(node)
    return walk.flows()


class Walk:
    """One pass over the nodes, with what was found so far."""

    def __init__(self, trace: Trace, chosen: Mapping[str, nn.Module]) -> None:
        self.trace = trace
        self.chosen = chosen
        self.channels: dict[fx.Node, Channels] = {}
        self.consumers: dict[str, dict[str, Reader]] = {name: {} for name in chosen}
        self.channelwise: dict[str, dict[str, Reader]] = {name: {} for name in chosen}
        self.unknown: dict[str, str] = {}
        self.reads: dict[str, set[Channels | None]] = {}  # at each call of a module

    def flows(self) -> dict[str, Flow]:
        inner = self.lose_read_otherwise()
        for name, layer in self.chosen.items():
            if layer in inner:
                self._lose(name, f"it lies inside {inner[layer]}")
            if not self.consumers[name]:
                self._lose(name, "no layer was seen to read them")
        return {
            name: Flow(
                () if name in self.unknown else tuple(self.consumers[name].values()),
                tuple(self.channelwise[name].values()),
                self.unknown.get(name, ""),
                self._following_norm(name),
            )
            for name in self.chosen
        }

    def lose_read_otherwise(self) -> dict[nn.Module, str]:
        """Lose what layers read on one call and not on another; gives the parts of modules."""
        inner = self._inner_modules()
        for name, reads in self.reads.items():
            if len(reads) > 1 or self.trace.module(name) in inner:
                for channels in (channels for channels in reads if channels is not None):
                    reason = f"{name!r} is called more than once, and not always on them"
                    self._lose(channels.layer, reason)
        return inner

    def _inner_modules(self) -> dict[nn.Module, str]:
        """The parts of modules that are one node, each with the description of that node."""
        return {
            inner: describe(self.trace, node)
            for node in self.trace.nodes
            if node.op == "call_module"
            for inner in list(self.trace.root.get_submodule(str(node.target)).modules())[1:]
        }

    def _following_norm(self, name: str) -> str | None:
        calls = self.trace.calls(name)
        norm = batch_norm_after(self.trace, calls[0]) if len(calls) == 1 else None
        return norm if norm in self.channelwise[name] else None

    def visit(self, node: fx.Node) -> None:
        sources = [source for source in node.all_input_nodes if source in self.channels]
        name = self.trace.layer(node)
        if name is not None and not sources:
            self.reads.setdefault(name, set()).add(None)
        for source in sources:
            channels = self.channels[source]
            if asks_fact(node):
                continue
            if self.joins(node):
                found: Channels | str | None = (
                    f"{describe(self.trace, node)} joins them with other values"
                )
            elif name is not None:
                found = self._through_module(node, name, channels)
            else:
                found = self._through_function(node, channels)
            if isinstance(found, str):
                self._lose(channels.layer, found)
            elif found is not None:
                self.channels[node] = found
        if name is not None and name in self.chosen:
            self._start(node, name)

    def joins(self, node: fx.Node) -> bool:
        """Whether an operation takes several tensors."""
        return sum(other in self.trace.shapes for other in node.all_input_nodes) > 1

    def _start(self, node: fx.Node, name: str) -> None:
        layer = self.chosen[name]
        if not is_stock(layer) and not selects_inputs(layer):
            self._lose(name, f"{type_name(layer)} has a forward of its own")
        else:
            self.channels[node] = Channels(name, num_neurons(layer), spatial_dims(layer))

    def _through_module(
        self, node: fx.Node, name: str, channels: Channels
    ) -> Channels | str | None:
        module = self.trace.root.get_submodule(str(node.target))
        kind = stock_kind(module, (*ELEMENTWISE, *POOLS, nn.PReLU, nn.Flatten, nn.Unflatten))
        if kind in ELEMENTWISE or (kind is nn.PReLU and module.num_parameters == 1):
            return channels
        if kind in POOLS:
            return self.through_pool(node, channels, POOLS[kind])
        if kind in (nn.Flatten, nn.Unflatten):
            return through_reshape(self.trace, node, channels)
        # one that does more than torch's, such as to activate, is tried before it is believed
        record = normalization_of(module)
        if record is not None and not record.across:
            if self._dim(node.all_input_nodes[0], channels) != 1:
                return f"{type_name(module)} {name!r} does not have them as its channels"
            self.reads.setdefault(name, set()).add(channels)
            self.channelwise[channels.layer][name] = Reader(name, channels.block)
            return channels
        alone = len(node.all_input_nodes) == 1  # and not with a state
        if isinstance(module, LAYER_TYPES) or (is_recurrent(module) and alone):
            return self._consume(name, module, channels)
        return f"{type_name(module)} {name!r} reads them"

    def _consume(self, name: str, module: nn.Module, channels: Channels) -> str | None:
        if not is_stock(module):
            return f"{type_name(module)} {name!r} reads them by a forward of its own"
        if channels.trailing != spatial_dims(module):
            return f"{type_name(module)} {name!r} does not have them as its inputs"
        self.reads.setdefault(name, set()).add(channels)
        self.consumers[channels.layer][name] = Reader(name, channels.block)
        return None

    def _through_function(self, node: fx.Node, channels: Channels) -> Channels | str | None:
        target = node.target
        if node.op == "output":
            return "they are outputs of the model"
        method = node.op == "call_method"
        if target in (ELEMENTWISE_NAMES if method else ELEMENTWISE_FUNCTIONS):
            return channels
        if target in (RESHAPE_NAMES if method else RESHAPE_FUNCTIONS):
            return through_reshape(self.trace, node, channels)
        if target in (PERMUTE_NAMES if method else PERMUTE_FUNCTIONS):
            return self.through_permutation(node, channels)
        if not method and target in POOL_FUNCTIONS:
            return self.through_pool(node, channels, POOL_FUNCTIONS[target])
        if target == "mean" or target is torch.mean:
            return self.through_mean(node, channels)
        return f"{describe(self.trace, node)} reads them"

    def through_pool(self, node: fx.Node, channels: Channels, dims: int) -> Channels | str:
        if channels.trailing < dims or node not in self.trace.shapes:
            return f"{describe(self.trace, node)} mixes them"
        return channels

    def through_mean(self, node: fx.Node, channels: Channels) -> Channels | str:
        return through_mean(self.trace, node, channels)

    def through_permutation(self, node: fx.Node, channels: Channels) -> Channels | str:
        return through_permutation(self.trace, node, channels)

    def _dim(self, source: fx.Node, channels: Channels) -> int:
        return len(self.trace.shapes[source]) - 1 - channels.trailing

    def _lose(self, layer: str, reason: str) -> None:
        self.unknown.setdefault(layer, reason)
