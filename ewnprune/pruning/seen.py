"""What a score sees of a layer, of a group or of the inputs, made in one place."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, replace
from typing import Any, Literal
from zlib import crc32

import torch
from torch import Tensor, nn

from ewnprune.model.layers import conv_groups, neuron_rows, num_inputs
from ewnprune.model.recurrent import (
    hidden_biases,
    hidden_columns,
    input_columns,
    is_recurrent,
)
from ewnprune.pruning.groups import Group, Places
from ewnprune.pruning.scores import Measured, Neurons

Couple = Literal["mean", "max", "l2"]
"""The score of neurons that go together, from those of the layers."""


@dataclass(frozen=True)
class Facts:
    """What scores may want to know beside the weights.

    Attributes:
        couple: the score of neurons that go together, from those of the layers that make them:
            their ``"mean"``, the ``"max"``, or ``"l2"``, the root of the sum of squares.
        initial_norms: norms at initialisation, by layer name.
        seed: seed of scores that draw numbers; None is 0.
        measured: what neurons do on data, by name and layer.
        outgoing: whether they may know the outgoing weights; those count as 1 otherwise.
        affine: factor and shift of the BatchNorm that directly follows a layer, by the layer's
            name. It is folded into the weights that are scored, for it undoes the length that they
            have.
        deviations: standard deviations of what the first layers read, by the layer's name; they
            count as 1 where they are not known.
    """

    couple: Couple = "mean"
    initial_norms: Mapping[str, Tensor] | None = None
    seed: int | None = None
    measured: Measured | None = None
    outgoing: bool = True
    affine: Mapping[str, tuple[Tensor, Tensor]] = field(default_factory=dict)
    deviations: Mapping[str, Tensor] = field(default_factory=dict)


def parts_of(network: nn.Module, group: Group, facts: Facts) -> Iterator[tuple[Neurons, Places]]:
    """What makes the channels of a group, as a score sees it, and where they lie in that."""
    if group.inputs:
        yield _inputs(network, group, facts), Places.blocks(group.size)
    outgoing = _outgoing(network, group, facts) if group.makers and facts.outgoing else None
    for maker, places in group.makers.items():
        neurons = neurons_of(maker, network, facts, group.unfollowed or "no layer reads them alone")
        yield replace(neurons, outgoing=_by_neuron(outgoing, neurons, places, facts)), places


def _inputs(network: nn.Module, group: Group, facts: Facts) -> Neurons:
    """Features of the inputs: what reads them, times their standard deviations."""
    rows = _outgoing(network, group, facts, facts.deviations)
    raw = _outgoing(network, group, facts)
    assert rows is not None
    return Neurons(
        layer=group.name,
        rows=rows,
        raw_rows=raw,
        outgoing=None if facts.outgoing else rows.new_ones(len(rows), 1),
        no_outgoing="inputs have no weights but those that their norm is of",
        seed=layer_seed(group.name, facts.seed),
    )


def _by_neuron(
    outgoing: Tensor | None, neurons: Neurons, places: Places, facts: Facts
) -> Tensor | None:
    """The outgoing weights of a group, a row for each neuron of a layer; None if not known."""
    if not facts.outgoing:
        return neurons.rows.new_ones(len(neurons.rows), 1)
    if outgoing is None:
        return None
    if len(outgoing) == len(neurons.rows) and places.are_all(len(outgoing)):
        table = outgoing
    else:
        table = outgoing.new_zeros(len(neurons.rows), outgoing.shape[1])
        table[places.index] = outgoing[places.channel]
    return table.to(neurons.rows.device)


def neurons_of(
    name: str, network: nn.Module, facts: Facts, no_outgoing: str = "not asked for"
) -> Neurons:
    """The neurons of a layer, without what reads them."""
    layer: Any = network.get_submodule(name)
    raw = precise(neuron_rows(layer))
    rows, bias = _folded(name, network, facts, raw)
    initial = None if facts.initial_norms is None else facts.initial_norms.get(name)
    if initial is not None and initial.numel() != len(rows):
        raise ValueError(
            f"initial_norms[{name!r}] has {initial.numel()} numbers: expected one for each of "
            f"the layer's {len(rows)} neurons"
        )
    measured = {}
    for score, layers in (facts.measured or {}).items():
        if name in layers:
            measured[score] = values = precise(layers[name].flatten().to(rows.device))
            if len(values) != len(rows):
                raise ValueError(
                    f"measured[{score!r}][{name!r}] has {len(values)} numbers: expected one for "
                    f"each of the layer's {len(rows)} neurons"
                )
    neurons = Neurons(
        layer=name,
        rows=rows,
        bias=bias,
        raw_rows=raw,
        no_outgoing=no_outgoing,
        initial_norm=None if initial is None else precise(initial.flatten().to(rows.device)),
        seed=layer_seed(name, facts.seed),
        measured=measured,
    )
    if is_recurrent(layer):
        remedy = f"recurrent layers are not measured: leave it with exclude={name!r}"
        return replace(neurons, no_measured=f"{remedy}, or choose another score")
    return neurons


def _folded(
    name: str, network: nn.Module, facts: Facts, rows: Tensor
) -> tuple[Tensor, Tensor | None]:
    """Rows and biases of a layer with the BatchNorm that directly follows folded in."""
    layer: Any = network.get_submodule(name)
    found = hidden_biases(layer) if is_recurrent(layer) else layer.bias
    bias = None if found is None else precise(found)
    if name not in facts.affine:
        return rows, bias
    scale, shift = (part.to(rows.dtype) for part in facts.affine[name])
    return rows * scale[:, None], shift if bias is None else bias * scale + shift


def _outgoing(
    network: nn.Module, group: Group, facts: Facts, scales: Mapping[str, Tensor] | None = None
) -> Tensor | None:
    """What the readers multiply each channel with, ``(size, fan_out)``.

    A recurrent layer reads its hidden units itself.

    Args:
        network: the network, plain.
        group: the group.
        facts: what scores may want to know.
        scales: a factor for each input of a reader, by its name.
    """
    tables = []
    for name, places in group.readers.items():
        columns = _columns(name, network, facts)
        if scales and name in scales:
            columns = columns * scales[name].to(columns)[:, None]
        if len(columns) == group.size and places.are_all(group.size):
            tables.append(columns)  # as nearly always: nested training comes here in each step
            continue
        order = (places.channel * len(columns) + places.index).argsort()
        channel, index = places.channel[order], places.index[order]
        counts = channel.bincount(minlength=group.size)
        # one channel may be read by several inputs, and another by fewer
        place = torch.arange(len(channel), device="cpu") - (counts.cumsum(0) - counts)[channel]
        table = columns.new_zeros(group.size, int(counts.max()), columns.shape[1])
        table[channel, place] = columns[index]
        tables.append(table.flatten(1))
    if tables and group.apart:
        tables += [precise(hidden_columns(network.get_submodule(name))) for name in group.makers]
    return torch.cat(tables, dim=1) if tables else None


def _columns(name: str, network: nn.Module, facts: Facts) -> Tensor:
    """What a layer multiplies each of its inputs with, ``(inputs, fan_out)``."""
    layer: Any = network.get_submodule(name)
    if is_recurrent(layer):
        return precise(input_columns(layer))
    rows, _ = _folded(name, network, facts, precise(neuron_rows(layer)))
    groups, inputs = conv_groups(layer), num_inputs(layer)
    # (groups, outputs per group, inputs per group, kernel) -> one row per input
    cells = rows.view(groups, len(rows) // groups, inputs // groups, -1)
    return cells.transpose(1, 2).reshape(inputs, -1)


def layer_seed(name: str, seed: int | None) -> int:
    """Seed of one layer: by name, so that two layers of one size draw different numbers.

    Raises:
        TypeError: the seed is no whole number.
    """
    if not isinstance(seed, int | None):
        raise TypeError(f"seed={seed!r}: expected a whole number or None")
    return ((seed or 0) * 0x9E3779B1 + crc32(name.encode())) % 2**63


def precise(tensor: Tensor) -> Tensor:
    """The values that scores are computed from: float32, or float64 where the tensor is."""
    tensor = tensor.detach()
    tensor = tensor.abs() if tensor.is_complex() else tensor  # of which all norms are the same
    return tensor if tensor.dtype == torch.float64 else tensor.float()
