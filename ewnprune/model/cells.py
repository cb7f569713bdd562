"""Single weights of a layer, as cells of a matrix with one row per neuron."""

import torch
from torch import Tensor, nn

from ewnprune.model.layers import conv_groups, layer_weight, neuron_rows, num_inputs, num_neurons


def to_weight(layer: nn.Module, rows: Tensor) -> Tensor:
    """Values over ``neuron_rows(layer)``, ``(n, fan_in)``, in the shape of ``layer.weight``.

    >>> layer = nn.ConvTranspose2d(4, 6, 3, groups=2)
    >>> torch.equal(to_weight(layer, neuron_rows(layer)), layer.weight)
    True
    """
    shape = layer_weight(layer).shape
    index = torch.arange(rows.numel(), device=rows.device).view(shape)
    values = torch.empty_like(rows).flatten()
    values[neuron_rows(layer, index).flatten()] = rows.flatten()
    return values.view(shape)


def kept_cells(layer: nn.Module, rows: Tensor | None, columns: Tensor | None) -> Tensor:
    """Which weights stay, ``(n, fan_in)``, where only some neurons and some inputs do."""
    groups, neurons, inputs = conv_groups(layer), num_neurons(layer), num_inputs(layer)
    kernel = neuron_rows(layer).shape[1] // (inputs // groups)
    rows = torch.ones(neurons, dtype=torch.bool, device="cpu") if rows is None else rows
    columns = torch.ones(inputs, dtype=torch.bool, device="cpu") if columns is None else columns
    both = rows.view(groups, -1, 1, 1) & columns.view(groups, 1, -1, 1)
    return both.expand(-1, -1, -1, kernel).reshape(neurons, -1)
