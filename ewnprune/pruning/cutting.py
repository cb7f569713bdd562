"""Cut channels out of a network: what stays of each module, and the modules made so small."""

from collections.abc import Collection, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from ewnprune.model.layers import (
    conv_groups,
    is_depthwise,
    kept_cells,
    layer_weight,
    neuron_dim,
    neuron_rows,
    num_inputs,
    num_neurons,
    replace_tensor,
)
from ewnprune.model.normalization import shrink_channels
from ewnprune.model.selecting import select_inputs
from ewnprune.pruning.groups import Cut, Group


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
    for name in cut.selecting:
        select_inputs(network.get_submodule(name), cut.columns[name])
    for name, keep in cut.channels.items():
        shrink_channels(network.get_submodule(name), keep)
    for name, (dim, keep) in cut.parameters.items():
        owner, _, key = name.rpartition(".")
        index = keep.nonzero().flatten()
        value = network.get_parameter(name).detach()
        smaller = value.index_select(dim, index.to(value.device))
        replace_tensor(network.get_submodule(owner), key, smaller)


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


def unwritable(network: nn.Module, groups: Sequence[Group]) -> Mapping[str, str]:
    """Groups with tensors that cannot be cut for one module alone, each with the reason."""
    owners: dict[int, dict[int, str]] = {}
    for name, module in network.named_modules():
        for parameter in module._parameters.values():
            if parameter is not None:
                owners.setdefault(id(parameter), {})[id(module)] = name
    found: dict[str, str] = {}
    for group in groups:
        for name in sorted(group.touched):
            reason = _why(name, network.get_submodule(name), owners)
            if reason:
                found.setdefault(group.name, reason)
    return found


def _why(name: str, module: nn.Module, owners: Mapping[int, Mapping[int, str]]) -> str:
    if isinstance(module, torch.jit.ScriptModule):
        return f"{name!r} is made by torch.jit, and can be neither copied nor cut"
    if "parametrizations" in module._modules:
        return f"{name!r} is parametrized"
    if not isinstance(getattr(module, "weight", None), nn.Parameter | None):
        return f"the weight of {name!r} is no parameter (the older weight_norm, or prune?)"
    for key, parameter in module._parameters.items():
        for other in {} if parameter is None else owners[id(parameter)].values():
            if other != name:
                return f"{name!r} shares its {key} with {other!r}"
    return ""
