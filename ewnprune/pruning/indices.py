"""Neurons that the user names, by layer: checked, and turned into units of groups."""

from collections.abc import Iterable, Mapping, Sequence
from itertools import pairwise
from operator import index as whole
from typing import Any

from torch import Tensor, nn

from ewnprune.model.layers import LAYER_TYPES, listing, num_neurons
from ewnprune.model.recurrent import RECURRENT
from ewnprune.model.tensors import without
from ewnprune.pruning.groups import Group

Indices = Mapping[str, Iterable[int]]
"""For each layer named, the neurons to remove: their places among its outputs, from 0."""


def read_indices(indices: Indices) -> dict[str, list[int]]:
    """Indices as plain numbers.

    Raises:
        ValueError: they are something else.
    """
    if not isinstance(indices, Mapping) or not indices:
        raise ValueError(
            f"indices={_short(indices)}: expected neurons by layer, such as {{'fc1': [0, 7]}}"
        )
    return {name: _numbers(name, places) for name, places in indices.items()}


def neuron_counts(model: nn.Module) -> dict[str, int]:
    """How many neurons each layer of a model has, by name."""
    kinds: tuple[type[nn.Module], ...] = (*LAYER_TYPES, *RECURRENT)
    return {
        name: num_neurons(module)
        for name, module in model.named_modules()
        if isinstance(module, kinds)
    }


def check_indices(indices: Indices, sizes: Mapping[str, int]) -> dict[str, list[int]]:
    """The neurons to remove, by layer, in order; layers that none is removed from are left out.

    Args:
        indices: places of neurons by layer.
        sizes: how many neurons the layers have.

    Raises:
        ValueError: no such layer or neuron, one that is named twice, all of a layer, none at all.

    >>> check_indices({"fc1": (3, 0)}, {"fc1": 4, "fc2": 2})
    {'fc1': [0, 3]}
    """
    checked = {}
    for name, places in indices.items():
        if name not in sizes:
            raise ValueError(
                f"indices: no layer {name!r} has neurons; those that do: {listing(sizes)}"
            )
        gone = sorted(places)
        for neuron in gone:
            if not 0 <= neuron < sizes[name]:
                raise ValueError(
                    f"indices[{name!r}]: there is no neuron {neuron}: expected 0 to "
                    f"{sizes[name] - 1}"
                )
        if len(set(gone)) < len(gone):
            twice = next(one for one, other in pairwise(gone) if one == other)
            raise ValueError(f"indices[{name!r}]: neuron {twice} is named twice")
        if len(gone) == sizes[name]:
            raise ValueError(
                f"indices[{name!r}]: all {sizes[name]} neurons are named, and that would cut the "
                "network: at least one must stay"
            )
        if gone:
            checked[name] = gone
    if not checked:
        raise ValueError("indices name no neuron: expected at least one")
    return checked


def _numbers(name: str, given: Any) -> list[int]:
    values = given.tolist() if hasattr(given, "tolist") else given  # tensors and arrays
    try:
        numbers = list(values)
        if any(isinstance(number, bool | str) for number in [values, *numbers]):
            raise TypeError
        return [whole(number) for number in numbers]
    except TypeError:
        raise ValueError(
            f"indices[{name!r}]={_short(given)}: expected whole numbers, the places of the neurons "
            "to remove; for a mask of those that go write mask.nonzero().flatten()"
        ) from None


def _short(value: object) -> str:
    text = " ".join(repr(value).split())
    return text if len(text) <= 60 else f"{text[:57]}..."


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
        exact = _as_named(group, indices)
        if exact is not None:
            keep[group.name] = exact
            continue
        asked, unit_of = {}, group.unit_of().tolist()
        for name in (name for name in (group.name, *group.makers) if name in indices):
            if group.stays:
                raise ValueError(f"neurons of {name!r} cannot be removed: {group.stays}")
            if group.attention is None:
                asked[name] = {unit_of[channel] for channel in group.makers[name].at(indices[name])}
            elif name == group.name:
                asked[name] = set(indices[name])
            else:
                raise ValueError(
                    f"neurons of {name!r} go by heads: name those, indices={{{group.name!r}: ...}}"
                )
        gone = set().union(*asked.values())
        reach = {
            name: {unit_of[channel] for channel in places.channel.tolist()}
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


def _as_named(group: Group, indices: Mapping[str, list[int]]) -> Tensor | None:
    """Which channels stay where just those named go; None where whole units have to."""
    alone = len(group.makers) == 1 and group.attention is None and not group.stays
    if not alone or group.blocks == 1 or group.name not in indices:
        return None
    named = without(group.size, indices[group.name])
    left = named.view(group.blocks, -1).sum(1).unique()
    if len(left) == 1 and int(left):
        return named
    if group.apart:
        raise ValueError(
            f"indices[{group.name!r}]: expected as many of each {group.width} hidden units, since "
            f"its {group.blocks} layers and directions have one width"
        )
    return None
