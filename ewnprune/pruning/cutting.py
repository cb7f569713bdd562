"""Cut channels out of a network: what stays of each module, and the modules made so small."""

from collections.abc import Collection
from typing import Any

from torch import Tensor, nn

from ewnprune.model.cells import kept_cells
from ewnprune.model.layers import (
    conv_groups,
    is_depthwise,
    layer_weight,
    neuron_dim,
    neuron_rows,
    num_inputs,
    num_neurons,
    set_sizes,
)
from ewnprune.model.normalization import shrink_channels
from ewnprune.model.recurrent import is_recurrent, shrink_recurrent
from ewnprune.model.selecting import select_inputs
from ewnprune.model.tensors import replace_tensor
from ewnprune.pruning.groups import Cut


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
    if is_recurrent(layer):
        shrink_recurrent(layer, rows, columns)
        return
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
    set_sizes(layer, inputs, outputs)


def _select(tensor: Tensor, dim: int, keep: Tensor | None) -> Tensor:
    if keep is None:
        return tensor
    return tensor.index_select(dim, keep.nonzero().flatten().to(tensor.device))
