"""Neurons that can only go together, found on torch-pruning's dependency graph.

A residual addition couples the channels of the layers that are added, a depthwise convolution
those that it reads with those that it gives, and so on. Fang et al., "DepGraph: Towards Any
Structural Pruning", https://arxiv.org/abs/2301.12900.
"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import nn

from ewnprune.graph import Forward
from ewnprune.layers import LAYER_TYPES, type_name
from ewnprune.preserve import clone

_ACROSS_CHANNELS = (nn.LayerNorm, nn.GroupNorm, nn.LocalResponseNorm, nn.Softmax, nn.Softmax2d)


@dataclass(frozen=True)
class Places:
    """Where the channels of a group lie in one layer: its index for the channel of the group."""

    layer: nn.Module
    index: tuple[int, ...]
    channel: tuple[int, ...]


@dataclass
class Group:
    """Channels that go together: the neurons of the ``makers``, columns of the ``readers``.

    Attributes:
        name: the layer that gives the group its numbering, and its name.
        size: how many channels there are.
        makers: the layers whose neurons they are, by name.
        readers: the layers that read them, by name.
        blocks: channels stay in so many blocks of equal size (grouped convolutions, GroupNorm).
        stays: why none of them can go; empty if they can.
        maskable: whether setting what the readers multiply them with to zero says the same as
            removing them. It does not where a LayerNorm or GroupNorm reads across channels.
    """

    name: str
    size: int
    makers: dict[str, Places] = field(default_factory=dict)
    readers: dict[str, Places] = field(default_factory=dict)
    blocks: int = 1
    stays: str = ""
    maskable: bool = True


class Couplings:
    """The groups of coupled channels of a model, and the way to cut channels out.

    Args:
        model: the model, in eval mode; all its parameters must require gradients.
        forward: gives the outputs from model and inputs.
        inputs: example inputs.

    Raises:
        ValueError: torch-pruning is missing, or cannot follow the model.
    """

    def __init__(self, model: nn.Module, forward: Forward, inputs: Any) -> None:
        try:
            import torch_pruning
        except ImportError as error:
            raise ValueError(
                "removing neurons from a network that is no chain needs torch-pruning: "
                "pip install 'ewnprune[structured]'"
            ) from error
        self._model = model
        self._graph: Any = torch_pruning.DependencyGraph()
        try:
            with torch.enable_grad():
                self._graph.build_dependency(
                    model, clone(inputs), forward_fn=forward, verbose=False
                )
        except Exception as error:  # it runs the user's code
            reason = " ".join(str(error).split())[:200]
            raise ValueError(
                f"torch-pruning cannot follow {type_name(model)} ({type(error).__name__}: "
                f"{reason}): use mask_neurons"
            ) from error
        self._names = {module: name for name, module in model.named_modules()}
        self._roots: dict[str, tuple[nn.Module, Any]] = {}

    def groups(self) -> Iterator[Group]:
        """Each group once, in the order of the graph."""
        for found in self._graph.get_all_groups(root_module_types=[*LAYER_TYPES]):
            root = found[0].dep.target.module
            group = Group(self._names[root], len(found[0].idxs))
            self._roots[group.name] = (root, found[0].dep.handler)
            for item in found.items:
                self._add(group, item)
            if not group.stays and group.size % group.blocks:
                group.stays = f"its {group.size} channels do not make {group.blocks} equal blocks"
            yield group

    def remove(self, group: Group, channels: list[int]) -> None:
        """Cut channels out of all layers of their group, in place."""
        root, handler = self._roots[group.name]
        self._graph.get_pruning_group(root, handler, channels).prune(record_history=False)

    def _add(self, group: Group, item: Any) -> None:
        module, node = item.dep.target.module, item.dep.target
        kind = node.type.name
        if kind == "OUTPUT":
            group.stays = group.stays or "its channels are outputs of the model"
            return
        name = self._names.get(module, "")
        places = Places(module, tuple(item.idxs), tuple(item.root_idxs))
        if isinstance(module, nn.MultiheadAttention):
            group.stays = f"{name!r} (MultiheadAttention) ties its heads to the width of its inputs"
        elif isinstance(module, nn.RNNBase):
            group.stays = f"{name!r} is a recurrent layer"
        elif isinstance(module, nn.Parameter):
            if len(places.index) != group.size or module.shape[node.pruning_dim] != group.size:
                group.stays = f"a parameter {tuple(module.shape)} is not seen to have them"
        elif isinstance(module, LAYER_TYPES):
            self._add_layer(group, name, module, kind, item.dep.handler, places)
        elif isinstance(module, _ACROSS_CHANNELS):
            group.maskable = False
            if isinstance(module, nn.GroupNorm):
                group.blocks = max(group.blocks, module.num_groups)

    def _add_layer(
        self, group: Group, name: str, layer: Any, kind: str, handler: Any, places: Places
    ) -> None:
        grouped = getattr(layer, "groups", 1)
        if kind == "DEPTHWISE_CONV":
            group.makers[name] = places
            return
        if grouped > 1:
            if isinstance(layer, nn.ConvTranspose1d | nn.ConvTranspose2d | nn.ConvTranspose3d):
                group.stays = f"{name!r} is a transposed convolution with {grouped} groups"
            elif layer.in_channels == grouped or layer.out_channels == grouped:
                group.stays = f"{name!r} gives or reads one channel for several"
            group.blocks = max(group.blocks, grouped)
        out = self._graph.is_out_channel_pruning_fn(handler)
        (group.makers if out else group.readers)[name] = places


def channels_of(group: Group, units: list[int]) -> list[int]:
    """The channels of units: a unit is one channel of each block, at the same place in it."""
    width = group.size // group.blocks
    return [block * width + unit for unit in units for block in range(group.blocks)]


def silence(model: nn.Module, removed: Mapping[str, list[int]], groups: list[Group]) -> None:
    """Set what readers multiply the removed channels with to zero, in a copy of the model."""
    for group in groups:
        gone = set(removed[group.name])
        for name, places in group.readers.items():
            layer: Any = model.get_submodule(name)
            index = [
                i
                for i, channel in zip(places.index, places.channel, strict=True)
                if channel in gone
            ]
            with torch.no_grad():
                if isinstance(layer, nn.ConvTranspose1d | nn.ConvTranspose2d | nn.ConvTranspose3d):
                    layer.weight[index] = 0
                    continue
                width = layer.weight.shape[1]
                rows = layer.weight.shape[0] // (getattr(layer, "groups", 1))
                for i in index:
                    block = i // width
                    layer.weight[block * rows : (block + 1) * rows, i % width] = 0
