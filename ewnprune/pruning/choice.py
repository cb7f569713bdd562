"""Which neurons go: the lowest scores at a sparsity, or those that the user names."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from itertools import pairwise
from operator import index as whole
from typing import Any

import torch
from torch import Tensor, nn

from ewnprune.model.anatomy import Anatomy
from ewnprune.model.layers import LAYER_TYPES, LayerPatterns, Selection, num_neurons, select_layers
from ewnprune.model.tensors import without
from ewnprune.pruning.neurons import Score, find_scores, rank_neurons
from ewnprune.pruning.ranking import Ranking, Scope, check_sparsities

Indices = Mapping[str, Iterable[int]]
"""For each layer named, the neurons to remove: their places among its outputs, from 0."""


@dataclass(frozen=True)
class Choice:
    """What a user asks to be removed; the arguments are those of `remove_neurons`.

    Raises:
        ValueError: neither or both of ``sparsity`` and ``indices`` are given, or options that
            only one of them has a meaning for; ``indices`` that are no whole numbers.
    """

    sparsity: float | None = None
    indices: Indices | None = None
    score: str | Score = "norm"
    layers: LayerPatterns | None = None
    exclude: LayerPatterns | None = None
    scope: Scope = "layer"
    round_to: int = 1
    initial_norms: Mapping[str, Tensor] | None = None
    seed: int | None = None

    def __post_init__(self) -> None:
        if (self.sparsity is None) == (self.indices is None):
            raise ValueError(
                f"{'neither' if self.indices is None else 'both'} of sparsity and indices given: "
                "expected the fraction of the neurons to remove, such as sparsity=0.9, or the "
                "neurons by layer, such as indices={'fc1': [0, 7]}"
            )
        if type(self.round_to) is not int or self.round_to < 1:
            raise ValueError(f"round_to={self.round_to!r}: expected a whole number, 1 or more")
        if self.indices is not None:
            if self.layers is not None or self.exclude is not None or self.round_to != 1:
                raise ValueError(
                    "indices say which neurons of which layers go: layers=, exclude= and round_to= "
                    "have a meaning for a sparsity only"
                )
            if not isinstance(self.indices, Mapping) or not self.indices:
                raise ValueError(
                    f"indices={_short(self.indices)}: expected neurons by layer, such as "
                    "{'fc1': [0, 7]}"
                )
            numbers = {name: _numbers(name, places) for name, places in self.indices.items()}
            object.__setattr__(self, "indices", numbers)  # iterators are read once

    def select(self, model: nn.Module) -> Selection:
        """The layers in question.

        Raises:
            ValueError: as `select_layers` and `check_indices` do.
        """
        if self.indices is None:
            return select_layers(model, self.layers, self.exclude)
        sizes = neuron_counts(model)
        return select_layers(model, [*check_indices(self.indices, sizes)])

    def keep(self, anatomy: Anatomy) -> dict[str, Tensor]:
        """Which neurons of the chosen layers of a dissected model stay, ``(n,)`` each."""
        if self.indices is not None:
            sizes = {name: num_neurons(layer) for name, layer in anatomy.chosen.items()}
            asked = check_indices(self.indices, sizes)
            return {name: without(sizes[name], gone) for name, gone in asked.items()}
        name, function = self.function
        ranking = rank_neurons(name, function, anatomy, self.scope, self.initial_norms, self.seed)
        if ranking.unit != "neurons":
            raise ValueError(
                f"score {name!r} ranks single weights: expected one number per neuron; single "
                "weights can be masked in sparsity_curve only"
            )
        return self.kept(ranking)

    @property
    def function(self) -> tuple[str, Score]:
        """The score, with its name."""
        ((name, function),) = find_scores(self.score).items()
        return name, function

    def kept(self, ranking: Ranking, steps: Mapping[str, int] | None = None) -> dict[str, Tensor]:
        """The units that stay at the sparsity, their number rounded up to a multiple.

        Args:
            ranking: the order in which they go.
            steps: of what, where it is not ``round_to`` for each layer.
        """
        (level,) = check_sparsities([self.sparsity])  # type: ignore[list-item]
        keep = {}
        for name, stays in ranking.keep(level).items():
            ranks, step = ranking.ranks[name], (steps or {}).get(name, self.round_to)
            count = min(len(ranks), -(-int(stays.sum()) // step) * step)
            keep[name] = torch.zeros(len(ranks), dtype=torch.bool)
            keep[name][ranks.argsort(descending=True)[:count]] = True
        return keep


def given(example_input: Any) -> Any:
    """The example input.

    Raises:
        ValueError: there is none.
    """
    if example_input is None:
        raise ValueError("no example_input is given: expected a batch of inputs, to run the model")
    return example_input


def neuron_counts(model: nn.Module) -> dict[str, int]:
    """How many neurons each layer of a model has, by name."""
    return {
        name: num_neurons(module)
        for name, module in model.named_modules()
        if isinstance(module, LAYER_TYPES)
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
            known = ", ".join(repr(layer) for layer in sizes)
            raise ValueError(f"indices: no layer {name!r} has neurons; those that do: {known}")
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
