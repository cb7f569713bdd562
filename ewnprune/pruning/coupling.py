"""Groups found on torch-pruning's dependency graph: neurons that other layers are coupled with.

A residual addition couples the channels of the layers that are added, a depthwise convolution
those that it reads with those that it gives, and so on. Fang et al., "DepGraph: Towards Any
Structural Pruning", https://arxiv.org/abs/2301.12900.
"""

import warnings
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from ewnprune.errors import reason_of
from ewnprune.model.attention import Attention, find_attention
from ewnprune.model.copying import copy_network, leave_inference_mode, training_copy
from ewnprune.model.layers import (
    LAYER_TYPES,
    conv_groups,
    is_depthwise,
    num_inputs,
    num_neurons,
    type_name,
)
from ewnprune.model.normalization import ACROSS, channels_of, normalization_of
from ewnprune.model.recurrent import is_recurrent
from ewnprune.model.tensors import clone
from ewnprune.model.tracing import Forward
from ewnprune.pruning.groups import OUTPUTS, Group, Places
from ewnprune.pruning.heads import Heads, head_groups
from ewnprune.pruning.last_layers import run_and_note_last
from ewnprune.pruning.search import Graph, unknown_kinds
from ewnprune.pruning.stand_ins import with_stand_ins

_TRANSPOSED = (nn.ConvTranspose1d, nn.ConvTranspose2d, nn.ConvTranspose3d)


def coupled_groups(
    network: nn.Module,
    forward: Forward,
    inputs: Any,
    heads: Heads = "keep",
    training: bool = False,
) -> list[Group]:
    """All groups of a network, each once, in the order of the graph; heads of attention too.

    Args:
        network: a plain network, in eval mode; left as it is.
        forward: gives the outputs from network and inputs.
        inputs: example inputs.
        heads: what may go of attention.
        training: whether to look at the pass in train mode, and what only that calls.

    Raises:
        ValueError: torch-pruning cannot follow the network.
    """
    twin = training_copy(network) if training else copy_network(network, share=True)
    leave_inference_mode(twin)
    for module in twin.modules():
        if isinstance(module, torch.jit.ScriptModule):
            continue  # which the twin shares with the model
        # the graph is one of gradients: parameters of the twin's own must ask for them
        for key, parameter in module._parameters.items():
            if parameter is not None:
                module._parameters[key] = nn.Parameter(parameter.detach(), _has_gradient(parameter))
    with _following(network):
        found = find_attention(twin, forward, inputs)
    with torch.random.fork_rng(devices=_gpus(twin)):
        finder = _Finder(twin, forward, inputs, found)
    attention = head_groups(found, heads)
    order = {name: place for place, (name, _) in enumerate(network.named_modules())}
    groups: list[Group] = []
    given: set[str] = set()
    for group in finder.groups():
        # in the model's order, and not in that of the search
        for table in (group.makers, group.readers, group.passed, group.norms, group.embeddings):
            for name in sorted(table, key=order.__getitem__):
                table[name] = table.pop(name)
        group.name = next(iter(group.makers), group.name)
        of_heads = [g for g in attention if not g.makers.keys().isdisjoint(group.makers)]
        if not group.makers and group.name not in order:
            continue  # of a stand-in alone
        groups += [group] if not of_heads else [g for g in of_heads if g.name not in given]
        given |= {g.name for g in of_heads}
    return groups


def _gpus(network: nn.Module) -> list[torch.device]:
    return list({p.device for p in network.parameters() if p.device.type == "cuda"})


def _has_gradient(tensor: Tensor) -> bool:
    return tensor.is_floating_point() or tensor.is_complex()


@contextmanager
def _following(network: nn.Module) -> Iterator[None]:
    try:
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", "Maximum recursive depth reached")  # so it says
            yield
    except Exception as error:  # it runs the user's code, and loses count in some networks
        raise ValueError(
            f"torch-pruning cannot follow {type_name(network)} ({reason_of(error, 120)})"
        ) from error


class _Finder:
    """torch-pruning's graph of a network, read as groups."""

    def __init__(
        self, network: nn.Module, forward: Forward, inputs: Any, attention: Sequence[Attention]
    ) -> None:
        self.network = seen = network
        self.recurrent: Mapping[nn.Module, str] = {}
        if any(is_recurrent(module) for module in network.modules()):
            seen, self.recurrent = with_stand_ins(network)
        modes = {module: module.training for module in seen.modules()}
        self.graph: Any = Graph()
        self.last: set[nn.Module] = set()
        with torch.enable_grad(), _following(network):
            self.graph.build_dependency(
                seen,
                clone(inputs),
                forward_fn=partial(run_and_note_last, forward, self.last, modes, attention),
                customized_pruners=unknown_kinds(seen),
                verbose=False,
            )
        self.parameters = {parameter: name for name, parameter in seen.named_parameters()}
        self.names = {module: name for name, module in seen.named_modules()}

    def groups(self) -> list[Group]:
        found = []
        with _following(self.network):
            all_of_them = [*self.graph.get_all_groups(root_module_types=[*LAYER_TYPES])]
        for items in all_of_them:
            group = Group(self.names[items[0].dep.target.module], len(items[0].idxs))
            for item in items.items:
                self._add(group, item)
            if not group.stays and group.size % group.blocks:
                group.stays = f"its {group.size} channels do not make {group.blocks} equal blocks"
            if not group.stays and group.blocks == group.size > 1:
                group.stays = "each of its channels is a group of a GroupNorm by itself"
            lost = _misfit(self.network, group)
            if lost and not group.stays:
                group.unfollowed = f"it is not seen which channels of {lost!r} are theirs"
            found.append(group)
        return found

    def _add(self, group: Group, item: Any) -> None:
        node, module = item.dep.target, item.dep.target.module
        if node.type.name == "OUTPUT":
            group.stays = group.stays or OUTPUTS
            return
        name = self.names.get(module, "")
        places = Places.of(item.idxs, item.root_idxs)
        if module in self.last and self.graph.is_out_channel_pruning_fn(item.dep.handler):
            group.stays = OUTPUTS
        if isinstance(module, nn.MultiheadAttention):
            group.stays = (
                f"{name!r} (MultiheadAttention) ties its heads to the width of its inputs; "
                "ewnprune.separate_attention gives it layers of its own"
            )
        elif module in self.recurrent:
            if self.graph.is_out_channel_pruning_fn(item.dep.handler):
                group.stays = f"{self.recurrent[module]!r} is a recurrent layer"
            else:
                _join(group.readers, self.recurrent[module], places)
        elif isinstance(module, nn.RNNBase):  # a subclass
            group.stays = f"{name!r} is a recurrent layer"
        elif isinstance(module, nn.Parameter):
            self._add_parameter(group, module, node.pruning_dim, places)
        elif isinstance(module, LAYER_TYPES):
            self._add_layer(group, name, module, item.dep.handler, places)
        elif isinstance(module, nn.Embedding):
            _join(group.embeddings, name, places)
            if module.max_norm is not None:
                group.opaque = True
        elif (record := normalization_of(module)) is not None and not record.across:
            _join(group.passed, name, places)
        elif record is not None:
            _join(group.norms, name, places)
            group.opaque = group.opaque or record.dim is None
        elif isinstance(module, ACROSS):
            group.opaque = True
        if isinstance(module, nn.GroupNorm):
            group.blocks = max(group.blocks, module.num_groups)

    def _add_parameter(self, group: Group, parameter: Tensor, dim: int, places: Places) -> None:
        if len(places.index) != group.size or parameter.shape[dim] != group.size:
            group.stays = f"a parameter {tuple(parameter.shape)} is not seen to have them"
        group.parameters[self.parameters[parameter]] = (dim, places)  # type: ignore[index]

    def _add_layer(self, group: Group, name: str, layer: Any, handler: Any, places: Places) -> None:
        if is_depthwise(layer):
            group.makers.setdefault(name, places)
            return
        if conv_groups(layer) > 1:
            if isinstance(layer, _TRANSPOSED):
                group.stays = f"{name!r} is a transposed convolution with {layer.groups} groups"
            elif layer.groups in (layer.in_channels, layer.out_channels):
                group.stays = f"{name!r} gives or reads one channel for several"
            group.blocks = max(group.blocks, layer.groups)
        out = self.graph.is_out_channel_pruning_fn(handler)
        _join(group.makers if out else group.readers, name, places)


def _join(table: dict[str, Places], name: str, places: Places) -> None:
    """Note the places of a module that may be met several times, each with a part of them."""
    if name in table:
        known = table[name]
        new = ~torch.isin(places.index, known.index)
        places = Places(
            torch.cat([known.index, places.index[new]]),
            torch.cat([known.channel, places.channel[new]]),
        )
    table[name] = places


def _misfit(network: nn.Module, group: Group) -> str:
    """A module or parameter that has no such places, or that other channels lie in; or empty.

    A search may lose count where numbers are shuffled between channels and space.

    Args:
        network: the network, whole.
        group: a group of it.
    """
    of = network.get_submodule
    channelwise = {**group.passed, **group.norms, **group.embeddings}
    lying = [
        *((name, places, num_neurons(of(name))) for name, places in group.makers.items()),
        *((name, places, num_inputs(of(name))) for name, places in group.readers.items()),
        *((name, places, channels_of(of(name))) for name, places in channelwise.items()),
        *(
            (name, places, network.get_parameter(name).shape[dim])
            for name, (dim, places) in group.parameters.items()
        ),
    ]
    for name, places, size in lying:
        within = (places.index >= 0) & (places.index < size)
        if not (within & (places.channel >= 0) & (places.channel < group.size)).all():
            return name
    return ""
