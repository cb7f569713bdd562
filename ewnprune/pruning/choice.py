"""What a user asks to be pruned, as it travels from the public functions inwards."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from math import gcd
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.utils import parametrize

from ewnprune.model.copying import plain_network
from ewnprune.model.layers import LayerPatterns, select_layers
from ewnprune.model.tensors import clone, device_of, to_device
from ewnprune.model.tracing import Forward
from ewnprune.pruning.finding import Found, find_groups
from ewnprune.pruning.heads import Heads
from ewnprune.pruning.indices import (
    Indices,
    asked_units,
    check_indices,
    neuron_counts,
    read_indices,
)
from ewnprune.pruning.neurons import Couple, Facts, rank_groups
from ewnprune.pruning.notes import Note
from ewnprune.pruning.ranking import Ranking, Scope, check_sparsities
from ewnprune.pruning.score_names import Score, find_scores


@dataclass(frozen=True)
class Choice:
    """Which layers are pruned and how; the arguments are those of `remove_neurons`.

    Raises:
        ValueError: an option that is none.
    """

    layers: LayerPatterns | None = None
    exclude: LayerPatterns | None = None
    scope: Scope = "layer"
    round_to: int = 1
    heads: Heads = "keep"
    couple: Couple = "mean"
    initial_norms: Mapping[str, Tensor] | None = field(default=None, repr=False)
    seed: int | None = None

    def __post_init__(self) -> None:
        if type(self.round_to) is not int or self.round_to < 1:
            raise ValueError(f"round_to={self.round_to!r}: expected a whole number, 1 or more")
        if self.scope not in ("layer", "global"):
            raise ValueError(f"scope={self.scope!r}: expected 'layer' or 'global'")
        if self.heads not in ("keep", "whole", "dims"):
            raise ValueError(f"heads={self.heads!r}: expected 'keep', 'whole' or 'dims'")
        Facts(self.couple)

    def find(self, network: nn.Module, forward: Forward, inputs: Any) -> Found:
        """The groups of a plain network, in eval mode, as seen on one batch."""
        selection = select_layers(network, self.layers, self.exclude, recurrent=True)
        return find_groups(network, forward, inputs, selection, self.heads)

    def rank(self, found: Found, name: str, score: Score) -> tuple[Ranking, list[Note]]:
        """The order in which units of the groups go, or single weights of the layers; and notes."""
        facts = Facts(self.couple, self.initial_norms, self.seed)
        layers = {name: found.anatomy.chosen[name] for name in found.anatomy.flows}
        return rank_groups(name, score, found.network, found.groups, layers, self.scope, facts)

    def units(self, found: Found, ranking: Ranking, sparsity: float) -> dict[str, Tensor]:
        """Which units, or channels, stay at a sparsity, their number rounded up to a multiple.

        Args:
            found: the groups.
            ranking: the order in which they go.
            sparsity: a level in [0, 1).
        """
        keep = ranking.keep(sparsity)
        for group in found.groups if self.round_to > 1 else ():
            ranks = ranking.ranks[group.name]
            side_by_side = 1 if group.apart else group.size // group.units
            step = self.round_to // gcd(self.round_to, side_by_side)
            count = min(len(ranks), -(-int(keep[group.name].sum()) // step) * step)
            keep[group.name] = torch.zeros(len(ranks), dtype=torch.bool)
            keep[group.name][ranks.argsort(descending=True)[:count]] = True
        return keep | {name: keep[name][unit] for name, unit in ranking.unit_of.items()}


def find_asked(
    network: nn.Module, forward: Forward, inputs: Any, indices: Indices, heads: Heads
) -> tuple[Found, dict[str, Tensor]]:
    """The groups that hold the neurons a user names, and which of their units stay.

    Raises:
        ValueError: no such layer or neuron, or neurons that cannot go.
    """
    sizes = neuron_counts(network)
    layers = None
    if heads == "keep" and all(name in sizes for name in indices):
        layers = list(check_indices(indices, sizes))
    selection = select_layers(network, layers, recurrent=True)
    found = find_groups(network, forward, inputs, selection, heads, [*indices])
    groups = [*found.groups, *found.staying]
    sizes |= {group.name: group.units for group in groups if group.attention is not None}
    units = asked_units(groups, check_indices(indices, sizes))
    return found, {name: keep for name, keep in units.items() if not keep.all()}


def choose(
    model: nn.Module,
    example_input: Any,
    sparsity: float | None,
    indices: Indices | None,
    score: str | Score,
    choice: Choice,
    forward: Forward,
) -> tuple[Found, dict[str, Tensor], list[Note]]:
    """The groups of a model, which units of them stay, and notes on how that was chosen.

    Args:
        model: the model, in eval mode; without gradients.
        example_input: a batch of inputs.
        sparsity: the fraction to remove.
        indices: or the neurons.
        score: the score to choose by.
        choice: all else.
        forward: from model and inputs to outputs.

    Raises:
        ValueError: not exactly one of ``sparsity`` and ``indices``; what `find_groups` and the
            score raise.
    """
    if (sparsity is None) == (indices is None):
        raise ValueError(
            f"{'neither' if indices is None else 'both'} of sparsity and indices given: expected "
            "the fraction of the neurons to remove, such as sparsity=0.9, or the neurons by layer, "
            "such as indices={'fc1': [0, 7]}"
        )
    numbers = None if indices is None else read_indices(indices)
    if numbers is not None and not (
        choice.layers is choice.exclude is None and choice.round_to == 1
    ):
        raise ValueError(
            "indices say which neurons of which layers go: layers=, exclude= and round_to= have a "
            "meaning for a sparsity only"
        )
    network = plain_network(model)
    inputs = clone(to_device(_given(example_input), device_of(model)))
    if numbers is not None:
        found, units = find_asked(network, forward, inputs, numbers, choice.heads)
        return found, units, []
    (level,) = check_sparsities([sparsity])  # type: ignore[list-item]
    ((name, function),) = find_scores(score).items()
    found = choice.find(network, forward, inputs)
    ranking, notes = choice.rank(found, name, function)
    if ranking.unit != "neurons":
        raise ValueError(
            f"score {name!r} ranks single weights: expected one number per neuron; single weights "
            "can be masked in sparsity_curve only"
        )
    return found, choice.units(found, ranking, level), notes


def refuse_parametrized(model: nn.Module) -> None:
    """Refuse a model with parametrized tensors, which cannot be cut or written.

    Raises:
        ValueError: names the first.
    """
    for name, module in model.named_modules():
        if parametrize.is_parametrized(module):
            raise ValueError(f"{name!r} is parametrized: fold it first (ewnprune.fold)")


def _given(example_input: Any) -> Any:
    """The example input.

    Raises:
        ValueError: there is none.
    """
    if example_input is None:
        raise ValueError("no example_input is given: expected a batch of inputs, to run the model")
    return example_input
