"""Scores of the units of groups: called, checked and ranked."""

from collections.abc import Mapping, Sequence
from dataclasses import replace

import torch
from torch import Tensor, nn

from ewnprune.model.layers import type_name
from ewnprune.model.tensors import holders_of_parameters
from ewnprune.pruning.groups import Group, structure
from ewnprune.pruning.notes import Note
from ewnprune.pruning.ranking import Ranking, Scope, rank, refuse_nan
from ewnprune.pruning.score_names import Score
from ewnprune.pruning.scores import Neurons, OutgoingUnknownError
from ewnprune.pruning.seen import Facts, neurons_of, parts_of
from ewnprune.pruning.sensitivity import Sensitivity, gains_of


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
        if any(group.inputs for group in groups):
            raise ValueError(
                f"score {name!r} ranks single weights: expected one number per feature for "
                "inputs=True, such as norm"
            )
        whole = [group.name for group in groups if group.apart]
        notes += [Note("left", f"{g}: left: its single weights are not ranked") for g in whole]
        tied = _ties(network, chosen)
        notes += [
            Note("left", f"{layer}: left: it shares its weight with {other}")
            for layer, other in tied.items()
        ]
        chosen = {layer: module for layer, module in chosen.items() if layer not in tied}
        if not chosen:
            raise ValueError(
                f"score {name!r} ranks single weights: expected a layer, not recurrent, whose "
                "weight is no other's"
            )
        alone = {layer: neurons_of(layer, network, facts) for layer in chosen}
        values = {layer: _score(name, score, neurons, 2) for layer, neurons in alone.items()}
        structures = {name: type_name(layer) for name, layer in chosen.items()}
    gains = None
    if sensitivity is not None:
        gains = {layer: gains_of(sensitivity, name, layer) for layer in values}
    ranking = rank(values, scope, max_per_layer, structures, gains)
    return replace(ranking, unit_of=units), notes


def _ties(network: nn.Module, chosen: Mapping[str, nn.Module]) -> dict[str, str]:
    """Layers whose weight another module has too, which would lose it there, each with that."""
    holders = holders_of_parameters(network)
    tied: dict[str, str] = {}
    for name, layer in chosen.items():
        for place in holders.get(id(layer._parameters.get("weight")), ()):
            if place != (name, "weight"):
                tied.setdefault(name, ".".join(place))
    return tied


def _unit_scores_of(
    name: str, score: Score, network: nn.Module, groups: Sequence[Group], facts: Facts
) -> dict[str, tuple[Tensor, Tensor | None]] | None:
    """See `_unit_scores`, for each group; None for a score that is one of single weights."""
    if _ranks_weights(name, score, network, groups[0], facts):
        return None
    return {g.name: _unit_scores(name, score, network, g, facts) for g in groups}


def _ranks_weights(name: str, score: Score, network: nn.Module, group: Group, facts: Facts) -> bool:
    neurons, _ = next(parts_of(network, group, facts))
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
    return values.cpu() if values.device.type == "mps" else values  # which has no float64


def _unit_scores(
    name: str, score: Score, network: nn.Module, group: Group, facts: Facts
) -> tuple[Tensor, Tensor | None]:
    """One score per unit, ``(units,)``, from those of all neurons in it; on the CPU.

    Neurons are few, and on the CPU all devices order them alike. Where blocks are apart, their
    lowest scores make the first unit, and so on: then also the unit of each channel, ``(size,)``.
    """
    rows = []
    for neurons, places in parts_of(network, group, facts):
        values = _score(name, score, neurons, 1).double().cpu()
        refuse_nan(neurons.layer, values)  # in a table of coupled layers NaN is no neuron
        # a layer that makes queries, keys and values has three neurons for a channel
        parts = len(places.channel) // max(1, len(places.channel.unique()))
        for index, channel in zip(
            places.index.view(parts, -1), places.channel.view(parts, -1), strict=True
        ):
            row = torch.full((group.size,), torch.nan, dtype=torch.float64, device="cpu")
            row[channel] = values[index]
            table = row.view(group.blocks, group.width)
            rows.append(table.T if group.whole else table)
    if len(rows) == 1 and len(rows[0]) == 1:
        return rows[0][0], None
    table, unit_of = torch.cat(rows), None
    if group.apart:
        table, order = table.sort(dim=1, stable=True)
        unit_of = order.argsort(dim=1).flatten()
    if facts.couple == "mean":
        return table.nanmean(0), unit_of
    if facts.couple == "max":
        return table.nan_to_num(-torch.inf).amax(0), unit_of
    return table.square().nansum(0).sqrt(), unit_of


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
