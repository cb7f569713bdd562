"""Cut channels out of a network: what stays of each module, and the modules made so small."""

from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn

from ewnprune.model.layers import (
    conv_groups,
    is_depthwise,
    layer_weight,
    neuron_dim,
    neuron_rows,
    num_inputs,
    num_neurons,
    replace_tensor,
)
from ewnprune.model.normalization import channels_of, shrink_channels
from ewnprune.pruning.groups import Group, Places
from ewnprune.pruning.heads import rescale_queries, set_counts


@dataclass(frozen=True)
class Cut:
    """What stays of each module, as booleans, where some units of some groups do not.

    Attributes:
        rows: neurons of layers, by name.
        columns: inputs of layers.
        channels: channels of normalizations and the like, and dimensions of embeddings.
        parameters: of parameters that a model uses by themselves, with the dimension.
    """

    rows: dict[str, Tensor] = field(default_factory=dict)
    columns: dict[str, Tensor] = field(default_factory=dict)
    channels: dict[str, Tensor] = field(default_factory=dict)
    parameters: dict[str, tuple[int, Tensor]] = field(default_factory=dict)


def cut_of(network: nn.Module, groups: Iterable[Group], units: Mapping[str, Tensor]) -> Cut:
    """What stays of a network's modules.

    Args:
        network: the network, whole.
        groups: those of which some units may go; not those that nobody can follow.
        units: for each group, by name, which units stay, ``(units,)``; all of those not named.
    """
    cut = Cut()
    for group in groups:
        if group.name not in units or units[group.name].all():
            continue
        channels = group.channels(units[group.name].cpu())

        def note(
            table: dict[str, Tensor], name: str, places: Places, size: int, kept: Tensor = channels
        ) -> None:
            keep = places.keep(size, kept)
            table[name] = table[name] & keep if name in table else keep

        for name, places in group.makers.items():
            note(cut.rows, name, places, num_neurons(network.get_submodule(name)))
        for name, places in group.readers.items():
            note(cut.columns, name, places, num_inputs(network.get_submodule(name)))
        for name, places in {**group.passed, **group.norms, **group.embeddings}.items():
            note(cut.channels, name, places, channels_of(network.get_submodule(name)))
        for name, (dim, places) in group.parameters.items():
            size = network.get_parameter(name).shape[dim]
            cut.parameters[name] = (dim, places.keep(size, channels))
    return cut


def cut_network(network: nn.Module, cut: Cut, whole: Collection[str] = ()) -> None:
    """Make the modules of a network smaller, in place.

    Args:
        network: a copy, whose tensors may be shared with others: they are replaced, not written.
        cut: what stays.
        whole: layers whose neurons are left, since somebody else picks those that stay.
    """
    for name in dict.fromkeys([*cut.rows, *cut.columns]):
        rows = None if name in whole else cut.rows.get(name)
        if rows is not None or name in cut.columns:
            shrink_layer(network.get_submodule(name), rows, cut.columns.get(name))
    for name, keep in cut.channels.items():
        shrink_channels(network.get_submodule(name), keep)
    for name, (dim, keep) in cut.parameters.items():
        owner, _, key = name.rpartition(".")
        index = keep.nonzero().flatten()
        value = network.get_parameter(name).detach()
        smaller = value.index_select(dim, index.to(value.device))
        replace_tensor(network.get_submodule(owner), key, smaller)


def cut_heads(network: nn.Module, groups: Iterable[Group], units: Mapping[str, Tensor]) -> None:
    """After `cut_network`: have attention count the heads that are left."""
    for group in groups:
        if group.attention is not None and group.name in units and not units[group.name].all():
            set_counts(network, group, int(units[group.name].sum()))
            if group.rescale:
                rescale_queries(network, group, group.channels(units[group.name].cpu()))


def shrink_layer(layer: Any, rows: Tensor | None, columns: Tensor | None) -> None:
    """Cut a layer down to some of its neurons and of its inputs, ``(n,)`` each; None keeps all."""
    if is_depthwise(layer) and rows is not None:
        columns = rows  # each reads the input of its own number
    outputs = num_neurons(layer) if rows is None else int(rows.sum())
    inputs = num_inputs(layer) if columns is None else int(columns.sum())
    if is_depthwise(layer):
        weight = _select(layer_weight(layer), 0, rows)
        layer.groups = outputs
    elif conv_groups(layer) == 1:
        neurons = neuron_dim(layer)
        weight = _select(_select(layer_weight(layer), neurons, rows), 1 - neurons, columns)
    else:
        groups, kernel = conv_groups(layer), tuple(layer.kernel_size)
        left = neuron_rows(layer)[kept_cells(layer, rows, columns).to(layer.weight.device)]
        if neuron_dim(layer) == 0:
            weight = left.view(outputs, inputs // groups, *kernel)
        else:  # transposed convolutions have (in, out / groups, *kernel)
            weight = left.view(groups, outputs // groups, inputs // groups, *kernel)
            weight = weight.transpose(1, 2).reshape(inputs, outputs // groups, *kernel)
    replace_tensor(layer, "weight", weight.detach())
    if rows is not None and layer.bias is not None:
        replace_tensor(layer, "bias", _select(layer.bias, 0, rows).detach())
    if isinstance(layer, nn.Linear):
        layer.in_features, layer.out_features = inputs, outputs
    else:
        layer.in_channels, layer.out_channels = inputs, outputs


def _select(tensor: Tensor, dim: int, keep: Tensor | None) -> Tensor:
    if keep is None:
        return tensor
    return tensor.index_select(dim, keep.nonzero().flatten().to(tensor.device))


def kept_cells(layer: nn.Module, rows: Tensor | None, columns: Tensor | None) -> Tensor:
    """Which weights stay, ``(n, fan_in)``, where only some neurons and some inputs do."""
    groups, neurons, inputs = conv_groups(layer), num_neurons(layer), num_inputs(layer)
    kernel = neuron_rows(layer).shape[1] // (inputs // groups)
    rows = torch.ones(neurons, dtype=torch.bool) if rows is None else rows
    columns = torch.ones(inputs, dtype=torch.bool) if columns is None else columns
    both = rows.view(groups, -1, 1, 1) & columns.view(groups, 1, -1, 1)
    return both.expand(-1, -1, -1, kernel).reshape(neurons, -1)
