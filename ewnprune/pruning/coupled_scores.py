"""What coupled neurons are worth, from the scores of the layers that they lie in."""

from collections.abc import Mapping
from typing import Any, Literal

import torch
from torch import Tensor, nn

from ewnprune.model.layers import neuron_rows
from ewnprune.pruning.groups import Group, Places
from ewnprune.pruning.neurons import Score, check_scores, layer_seed, precise
from ewnprune.pruning.scores import Neurons

Couple = Literal["mean", "max", "l2"]


def unit_scores(
    group: Group,
    name: str,
    score: Score,
    couple: Couple,
    initial_norms: Mapping[str, Tensor] | None,
    seed: int | None,
) -> Tensor:
    """One score per unit, ``(units,)``, from those of all neurons in it."""
    rows = []
    for maker, places in group.makers.items():
        neurons = _neurons(maker, places, group, initial_norms, seed)
        with torch.no_grad():
            values = score(neurons)
        check_scores(name, values, neurons)
        if values.ndim > 1:
            raise ValueError(
                f"score {name!r} ranks single weights: expected one number per neuron; single "
                "weights can be masked in sparsity_curve only"
            )
        # a layer that makes queries, keys and values has three neurons for a channel
        parts = len(places.channel) // max(1, len(set(places.channel)))
        for index, channel in zip(
            torch.tensor(places.index).view(parts, -1),
            torch.tensor(places.channel).view(parts, -1),
            strict=True,
        ):
            row = torch.full((group.size,), torch.nan, dtype=torch.float64)
            row[channel] = values.double().cpu()[index]
            table = row.view(group.blocks, group.width)
            rows.append(table.T if group.whole else table)
    table = torch.cat(rows)
    if couple == "mean":
        return table.nanmean(0)
    if couple == "max":
        return table.nan_to_num(-torch.inf).amax(0)
    return table.square().nansum(0).sqrt()


def _neurons(
    name: str,
    places: Places,
    group: Group,
    initial_norms: Mapping[str, Tensor] | None,
    seed: int | None,
) -> Neurons:
    layer: Any = places.layer
    initial = None if initial_norms is None else initial_norms.get(name)
    outgoing = _outgoing(group)
    if outgoing is not None:
        table = torch.zeros(len(neuron_rows(layer)), outgoing.shape[1], dtype=outgoing.dtype)
        table[list(places.index)] = outgoing[list(places.channel)].cpu()
        outgoing = table.to(layer.weight.device)
    return Neurons(
        layer=name,
        rows=precise(neuron_rows(layer)),
        bias=None if layer.bias is None else precise(layer.bias),
        outgoing=outgoing,
        no_outgoing="no layer reads them alone",
        initial_norm=None if initial is None else precise(initial.flatten()),
        seed=layer_seed(name, seed),
    )


def _outgoing(group: Group) -> Tensor | None:
    """What the readers multiply each channel with, ``(size, fan_out)``."""
    parts = []
    for places in group.readers.values():
        layer: Any = places.layer
        rows = precise(neuron_rows(layer))
        grouped = getattr(layer, "groups", 1)
        inputs = layer.in_features if isinstance(layer, nn.Linear) else layer.in_channels
        cells = rows.view(grouped, len(rows) // grouped, inputs // grouped, -1)
        columns = cells.transpose(1, 2).reshape(inputs, -1)
        count = len(places.index) // max(1, len(set(places.channel)))
        order = sorted(range(len(places.index)), key=lambda i: (places.channel[i], places.index[i]))
        table = columns.new_zeros(group.size, count * columns.shape[1])
        channels = sorted(set(places.channel))
        table[channels] = columns[[places.index[i] for i in order]].reshape(len(channels), -1)
        parts.append(table)
    return torch.cat(parts, dim=1) if parts else None
