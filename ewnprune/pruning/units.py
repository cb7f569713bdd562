"""Which units of coupled channels go, and what they mean for the layers."""

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from ewnprune.model.normalization import mask_norm
from ewnprune.model.tensors import without
from ewnprune.pruning.groups import Group


def silence(model: nn.Module, removed: Mapping[str, list[int]], groups: list[Group]) -> None:
    """Set what readers multiply the removed channels with to zero, in a copy of the model.

    Of dimensions of heads the queries and keys are set to zero too: they are read by each other.
    Norms that read across the channels go by those that stay.
    """
    for group in groups:
        for name, places in group.norms.items():
            mask_norm(model.get_submodule(name), places.of(removed[group.name]))
        for name, places in group.makers.items() if group.attention else ():
            maker: Any = model.get_submodule(name)
            index = places.of(removed[group.name])
            with torch.no_grad():
                maker.weight[index] = 0
                if maker.bias is not None:
                    maker.bias[index] = 0
        for name, places in group.readers.items():
            layer: Any = model.get_submodule(name)
            index = places.of(removed[group.name])
            with torch.no_grad():
                if isinstance(layer, nn.ConvTranspose1d | nn.ConvTranspose2d | nn.ConvTranspose3d):
                    layer.weight[index] = 0
                    continue
                width = layer.weight.shape[1]
                rows = layer.weight.shape[0] // (getattr(layer, "groups", 1))
                for i in index:
                    block = i // width
                    layer.weight[block * rows : (block + 1) * rows, i % width] = 0


def inputs_gone(groups: Sequence[Group], removed: Mapping[str, list[int]]) -> dict[str, Tensor]:
    """For each layer that reads removed channels, which of its inputs those are."""
    gone: dict[str, Tensor] = {}
    for group in groups:
        for name, places in group.readers.items():
            index = places.of(removed[group.name])
            if index:
                layer: Any = places.layer
                size = layer.in_features if isinstance(layer, nn.Linear) else layer.in_channels
                gone[name] = gone.get(name, torch.zeros(size, dtype=torch.bool))
                gone[name][index] = True
    return gone


def asked_units(groups: Sequence[Group], indices: Mapping[str, list[int]]) -> dict[str, Tensor]:
    """Which units stay, for each group with a layer that the user names neurons of.

    Args:
        groups: all groups of the model.
        indices: the neurons to remove, by layer; heads or their dimensions by group.

    Raises:
        ValueError: neurons that cannot go, all of a group, or two layers of a group of which
            different channels are named.
    """
    keep: dict[str, Tensor] = {}
    for group in groups:
        asked = {}
        for name in (name for name in (group.name, *group.makers) if name in indices):
            if group.stays:
                raise ValueError(f"neurons of {name!r} cannot be removed: {group.stays}")
            if group.attention is None:
                asked[name] = {
                    group.unit_of(channel) for channel in group.makers[name].at(indices[name])
                }
            elif name == group.name:
                asked[name] = set(indices[name])
            else:
                raise ValueError(
                    f"neurons of {name!r} go by heads: name those, indices={{{group.name!r}: ...}}"
                )
        gone = set().union(*asked.values())
        reach = {
            name: {group.unit_of(channel) for channel in places.channel}
            for name, places in group.makers.items()
        }
        for name, units in asked.items():
            if units != gone & reach.get(name, gone):
                other = next(one for one in asked if asked[one] != units)
                raise ValueError(
                    f"indices for {name!r} and {other!r} do not agree: their neurons are coupled "
                    "and go together, so name the same channels for both, or for one of them only"
                )
        for name, units in reach.items():
            if gone and gone >= units:
                raise ValueError(
                    f"indices[{next(iter(asked))!r}]: with what is coupled, {name!r} would lose "
                    "all of its neurons: at least one must stay"
                )
        if gone:
            keep[group.name] = without(group.units, gone)
    lost = set(indices).difference(*((group.name, *group.makers) for group in groups))
    if lost:
        raise ValueError(
            f"neurons of {min(lost)!r} cannot be removed: its weights are used without calling it, "
            "or not at all"
        )
    return keep
