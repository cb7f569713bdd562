"""Groups of the hidden units of recurrent layers: one for each, with who was seen to read them.

torch's modules have one ``hidden_size`` for all their layers and directions, so as many units stay
in each: a unit of the group is one hidden unit of each layer and direction, and which ones those
are is free. So what is left is an ordinary module of torch, and not several.
"""

from collections.abc import Mapping, Sequence
from typing import Any

from torch import nn

from ewnprune.model.layers import conv_groups, listing, num_neurons, type_name
from ewnprune.model.normalization import normalization_of
from ewnprune.model.operations import is_stock
from ewnprune.model.recurrent import parts
from ewnprune.model.recurrent_readers import Reading, hidden_readers
from ewnprune.model.tracing import Forward
from ewnprune.pruning.groups import Group, Places


def hidden_groups(
    network: nn.Module,
    forward: Forward,
    inputs: Any,
    names: Sequence[str],
    idle: Mapping[str, str],
) -> list[Group]:
    """The hidden units of recurrent layers, each layer's with all that reads them.

    Args:
        network: a plain network, in eval mode; without gradients.
        forward: gives the outputs from network and inputs.
        inputs: an example.
        names: the recurrent layers.
        idle: those that the forward pass does not call, each with the reason.
    """
    layers = {name: network.get_submodule(name) for name in names}
    followed = [name for name in names if name not in idle and is_stock(layers[name])]
    readings = hidden_readers(network, followed, forward, inputs) if followed else {}
    groups = []
    for name, layer in layers.items():
        size = num_neurons(layer)
        group = Group(name, size, {name: Places.blocks(size)}, blocks=parts(layer), apart=True)
        if name in idle:
            group.stays = idle[name]
        elif name not in readings:
            group.stays = f"{type_name(layer)} has a forward of its own"
        else:
            _add_readers(group, network, readings[name])
        groups.append(group)
    _leave_coupled(groups)
    return groups


def _add_readers(group: Group, network: nn.Module, reading: Reading) -> None:
    group.stays = reading.unknown
    for name, (inputs, units) in reading.places.items():
        module: Any = network.get_submodule(name)
        record = normalization_of(module)
        places = Places.of(inputs, units)
        if record is None:
            group.readers[name] = places
            if conv_groups(module) > 1:
                group.stays = f"{name!r} reads them in groups"
        elif record.across:
            group.norms[name] = places
        else:
            group.passed[name] = places
    if not group.readers and not group.stays:
        group.stays = "no layer was seen to read them"


def _leave_coupled(groups: Sequence[Group]) -> None:
    """Layers whose units are added to each other or the like would have to lose the same ones."""
    for group in groups:
        for name, places in group.readers.items():
            index = {*places.index.tolist()}
            others = [
                other.name
                for other in groups
                if other is not group
                and name in other.readers
                and not index.isdisjoint(other.readers[name].index.tolist())
            ]
            if others and not group.stays:
                group.stays = f"coupled with {listing(others, 3)}, in the inputs of {name!r}"
