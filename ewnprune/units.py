"""The units that a group of coupled channels is cut by, and the layers' weights that go."""

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from ewnprune.choice import without
from ewnprune.coupled import Group, Places


def channels_of(group: Group, units: list[int]) -> list[int]:
    """The channels of units: a unit is one channel of each block, at the same place in it."""
    width = group.size // group.blocks
    return [block * width + unit for unit in units for block in range(group.blocks)]


def silence(model: nn.Module, removed: Mapping[str, list[int]], groups: list[Group]) -> None:
    """Set what readers multiply the removed channels with to zero, in a copy of the model."""
    for group in groups:
        for name, places in group.readers.items():
            layer: Any = model.get_submodule(name)
            index = _lost(places, removed[group.name])
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
            index = _lost(places, removed[group.name])
            if index:
                layer: Any = places.layer
                size = layer.in_features if isinstance(layer, nn.Linear) else layer.in_channels
                gone[name] = gone.get(name, torch.zeros(size, dtype=torch.bool))
                gone[name][index] = True
    return gone


def _lost(places: Places, channels: Sequence[int]) -> list[int]:
    """Where removed channels lie in a layer."""
    gone = set(channels)
    return [i for i, channel in zip(places.index, places.channel, strict=True) if channel in gone]


def asked_units(groups: Sequence[Group], indices: Mapping[str, list[int]]) -> dict[str, Tensor]:
    """Which units stay, for each group with a layer that the user names neurons of.

    Args:
        groups: all groups of the model.
        indices: the neurons to remove, by layer.

    Raises:
        ValueError: neurons that cannot go, all of a group, or two layers of a group of which
            different channels are named.
    """
    keep: dict[str, Tensor] = {}
    for group in groups:
        width = group.size // group.blocks
        asked = {}
        for name in (name for name in group.makers if name in indices):
            if group.stays:
                raise ValueError(f"neurons of {name!r} cannot be removed: {group.stays}")
            channels = dict(zip(group.makers[name].index, group.makers[name].channel, strict=True))
            asked[name] = {channels[i] % width for i in indices[name] if i in channels}
        gone = set().union(*asked.values())
        for name, units in asked.items():
            if units != gone.intersection(c % width for c in group.makers[name].channel):
                other = next(one for one in asked if asked[one] != units)
                raise ValueError(
                    f"indices for {name!r} and {other!r} do not agree: their neurons are coupled "
                    "and go together, so name the same channels for both, or for one of them only"
                )
        for name, places in group.makers.items():
            if gone and gone >= {c % width for c in places.channel}:
                raise ValueError(
                    f"indices[{next(iter(asked))!r}]: with what is coupled, {name!r} would lose "
                    "all of its neurons: at least one must stay"
                )
        if gone:
            keep[group.name] = without(width, gone)
    lost = set(indices).difference(*(group.makers for group in groups))
    if lost:
        raise ValueError(
            f"neurons of {min(lost)!r} cannot be removed: its weights are used without calling it, "
            "or not at all"
        )
    return keep
