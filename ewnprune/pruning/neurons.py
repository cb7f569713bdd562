"""What a score sees of a layer or group, made in one place; scores found, called and ranked."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Literal
from zlib import crc32

import torch
from torch import Tensor, nn

from ewnprune.model.layers import conv_groups, neuron_rows, num_inputs, type_name
from ewnprune.model.normalization import as_scale_and_shift
from ewnprune.model.recurrent import (
    hidden_biases,
    hidden_columns,
    input_columns,
    is_recurrent,
)
from ewnprune.pruning.groups import Group, Places, structure
from ewnprune.pruning.notes import Note
from ewnprune.pruning.ranking import Ranking, Scope, rank
from ewnprune.pruning.score_names import Score
from ewnprune.pruning.scores import Measured, Neurons, OutgoingUnknownError
from ewnprune.pruning.sensitivity import Sensitivity, gains_of

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
        batch_norms: the BatchNorm that directly follows a layer, by the layer's name. It is folded
            into the weights that are scored, for it undoes the length that they have.
    """

    couple: Couple = "mean"
    initial_norms: Mapping[str, Tensor] | None = None
    seed: int | None = None
    measured: Measured | None = None
    outgoing: bool = True
    batch_norms: Mapping[str, str] = field(default_factory=dict)

    def __post_init__(self) -> None:
        if self.couple not in ("mean", "max", "l2"):
            raise ValueError(f"couple={self.couple!r}: expected 'mean', 'max' or 'l2'")


def rank_groups(
    name: str,
    score: Score,
    network: nn.Module,
    groups: Sequence[Group],
    chosen: Mapping[str, nn.Module],
    scope: Scope,
    facts: Facts,
    max_per_layer: float | None = None,
    sensitivity: Sensitivity | None = None,
) -> tuple[Ranking, list[Note]]:
    """Score the units of all groups, or the single weights of the chosen layers, and rank them.

    Where a score wants outgoing weights and those of a group are not known, they count as 1, for
    all groups: incoming times outgoing norm is then the incoming norm, which a note says.

    Args:
        name: the score's name, for messages.
        score: a function of `Neurons`.
        network: the network, plain.
        groups: those of which units may go, by being cut or masked.
        chosen: the layers whose single weights are ranked by a score of such.
        scope: see `rank`.
        facts: what the score may want to know.
        max_per_layer: see `rank`.
        sensitivity: what the loss gains in each layer alone, for the scope of that name.

    Raises:
        ValueError: what the score function raises, scores of the wrong shape, NaN scores, or
            neuron scores for one layer and weight scores for another.
    """
    notes = []
    try:
        found = _unit_scores_of(name, score, network, groups, facts)
    except OutgoingUnknownError as error:
        facts = replace(facts, outgoing=False)
        found = _unit_scores_of(name, score, network, groups, facts)
        told = f"those of {error.layer!r} are not known ({error.reason})"
        notes = [Note("score", f"{name}: outgoing weights count as 1 in all layers, since {told}")]
    units: dict[str, Tensor] = {}
    structures: dict[str, object]
    if found is not None:
        values = {group: scores for group, (scores, _) in found.items()}
        units = {group: unit_of for group, (_, unit_of) in found.items() if unit_of is not None}
        structures = {group.name: structure(network, group) for group in groups}
    else:
        whole = [group.name for group in groups if group.apart]
        notes += [Note("left", f"{g}: left: its single weights are not ranked") for g in whole]
        if not chosen:
            raise ValueError(
                f"score {name!r} ranks single weights: expected a layer, not recurrent"
            )
        alone = {layer: _alone(layer, network, facts) for layer in chosen}
        values = {layer: _score(name, score, neurons, 2) for layer, neurons in alone.items()}
        structures = {name: type_name(layer) for name, layer in chosen.items()}
    gains = None
    if sensitivity is not None:
        gains = {layer: gains_of(sensitivity, name, layer) for layer in values}
    ranking = rank(values, scope, max_per_layer, structures, gains)
    return replace(ranking, unit_of=units), notes


def _unit_scores_of(
    name: str, score: Score, network: nn.Module, groups: Sequence[Group], facts: Facts
) -> dict[str, tuple[Tensor, Tensor | None]] | None:
    """See `_unit_scores`, for each group; None for a score that is one of single weights."""
    if _ranks_weights(name, score, network, groups[0], facts):
        return None
    return {g.name: _unit_scores(name, score, network, g, facts) for g in groups}


def _ranks_weights(name: str, score: Score, network: nn.Module, group: Group, facts: Facts) -> bool:
    maker, places = next(iter(group.makers.items()))
    neurons = _neurons(network, maker, places, group, facts)
    with torch.no_grad():
        values = score(neurons)
    check_scores(name, values, neurons)
    return values.ndim > 1


def _score(name: str, score: Score, neurons: Neurons, ndim: int) -> Tensor:
    with torch.no_grad():
        values = score(neurons)
    check_scores(name, values, neurons)
    if values.ndim != ndim:
        raise ValueError(
            f"score {name!r} gives one number per neuron for some layers and one per weight for "
            "others: expected the same for all"
        )
    return values


def _unit_scores(
    name: str, score: Score, network: nn.Module, group: Group, facts: Facts
) -> tuple[Tensor, Tensor | None]:
    """One score per unit, ``(units,)``, from those of all neurons in it; on the CPU.

    Neurons are few, and on the CPU all devices order them alike. Where blocks are apart, their
    lowest scores make the first unit, and so on: then also the unit of each channel, ``(size,)``.
    """
    rows = []
    for maker, places in group.makers.items():
        neurons = _neurons(network, maker, places, group, facts)
        values = _score(name, score, neurons, 1).double().cpu()
        # a layer that makes queries, keys and values has three neurons for a channel
        parts = len(places.channel) // max(1, len(places.channel.unique()))
        for index, channel in zip(
            places.index.view(parts, -1), places.channel.view(parts, -1), strict=True
        ):
            row = torch.full((group.size,), torch.nan, dtype=torch.float64)
            row[channel] = values[index]
            table = row.view(group.blocks, group.width)
            rows.append(table.T if group.whole else table)
    if len(rows) == 1 and len(rows[0]) == 1:
        return rows[0][0], None
    table, unit_of = torch.cat(rows), None
    if group.apart:
        if table.isnan().any():
            return table.sum(0).fill_(torch.nan), None
        table, order = table.sort(dim=1, stable=True)
        unit_of = order.argsort(dim=1).flatten()
    if facts.couple == "mean":
        return table.nanmean(0), unit_of
    if facts.couple == "max":
        return table.nan_to_num(-torch.inf).amax(0), unit_of
    return table.square().nansum(0).sqrt(), unit_of


def _neurons(network: nn.Module, name: str, places: Places, group: Group, facts: Facts) -> Neurons:
    neurons = _alone(name, network, facts, group.unfollowed or "no layer reads them alone")
    if not facts.outgoing:
        return replace(neurons, outgoing=neurons.rows.new_ones(len(neurons.rows), 1))
    outgoing = _outgoing(network, group, facts)
    if outgoing is None:
        return neurons
    table = torch.zeros(len(neurons.rows), outgoing.shape[1], dtype=outgoing.dtype)
    table[places.index] = outgoing[places.channel].cpu()
    return replace(neurons, outgoing=table.to(neurons.rows.device))


def _alone(
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
    return Neurons(
        layer=name,
        rows=rows,
        bias=bias,
        raw_rows=raw,
        no_outgoing=no_outgoing,
        initial_norm=None if initial is None else precise(initial.flatten().to(rows.device)),
        seed=layer_seed(name, facts.seed),
        measured=measured,
    )


def _folded(
    name: str, network: nn.Module, facts: Facts, rows: Tensor
) -> tuple[Tensor, Tensor | None]:
    """Rows and biases of a layer with the BatchNorm that directly follows folded in."""
    layer: Any = network.get_submodule(name)
    found = hidden_biases(layer) if is_recurrent(layer) else layer.bias
    bias = None if found is None else precise(found)
    norm = facts.batch_norms.get(name)
    affine = None if norm is None else as_scale_and_shift(network.get_submodule(norm))
    if affine is None:
        return rows, bias
    scale, shift = (part.to(rows.dtype) for part in affine)
    return rows * scale[:, None], shift if bias is None else bias * scale + shift


def _outgoing(network: nn.Module, group: Group, facts: Facts) -> Tensor | None:
    """What the readers multiply each channel with, ``(size, fan_out)``.

    A recurrent layer reads its hidden units itself.
    """
    tables = []
    for name, places in group.readers.items():
        columns = _columns(name, network, facts)
        order = (places.channel * len(columns) + places.index).argsort()
        channel, index = places.channel[order], places.index[order]
        counts = channel.bincount(minlength=group.size)
        # one channel may be read by several inputs, and another by fewer
        place = torch.arange(len(channel)) - (counts.cumsum(0) - counts)[channel]
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


def check_scores(name: str, values: object, neurons: Neurons) -> None:
    """Refuse what a score function must not return.

    Raises:
        ValueError: not one number per neuron or per weight.
    """
    count, fan_in = neurons.rows.shape
    if not isinstance(values, Tensor) or values.shape not in ((count,), (count, fan_in)):
        got = tuple(values.shape) if isinstance(values, Tensor) else type(values).__name__
        raise ValueError(
            f"score {name!r} gives {got} for layer {neurons.layer!r}: expected a tensor of shape "
            f"({count},), one number per neuron, or ({count}, {fan_in}), one per weight"
        )
