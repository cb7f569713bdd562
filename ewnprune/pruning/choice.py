"""What a user asks to be pruned, as it travels from the public functions inwards."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from math import gcd
from typing import Any

import torch
from torch import Tensor, nn

from ewnprune.errors import check_choice
from ewnprune.model.copying import plain_network
from ewnprune.model.layers import LayerPatterns, select_layers
from ewnprune.model.normalization import as_scales_and_shifts
from ewnprune.model.tensors import clone, device_of, first_samples, to_device, without
from ewnprune.model.tracing import Forward
from ewnprune.pruning.budget import Budget, Costs, cost_function
from ewnprune.pruning.finding import find_groups, find_named
from ewnprune.pruning.found import Found
from ewnprune.pruning.heads import Heads
from ewnprune.pruning.indices import Indices, check_indices, read_indices
from ewnprune.pruning.inputs import find_inputs
from ewnprune.pruning.neurons import rank_groups
from ewnprune.pruning.notes import Note
from ewnprune.pruning.ranking import Ranking, Scope, check_scope, check_sparsities
from ewnprune.pruning.score_names import Score, find_scores
from ewnprune.pruning.scores import FROM_DATA, Measured
from ewnprune.pruning.seen import Couple, Facts
from ewnprune.pruning.sensitivity import Sensitivity, check_sensitivity
from ewnprune.pruning.smaller import build_smaller, refuse_unfollowed


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
    inputs: bool = False
    couple: Couple = "mean"
    initial_norms: Mapping[str, Tensor] | None = field(default=None, repr=False)
    seed: int | None = None
    max_per_layer: float | None = None
    measured: Measured | None = field(default=None, repr=False)
    sensitivity: Sensitivity | None = field(default=None, repr=False)

    def __post_init__(self) -> None:
        if type(self.round_to) is not int or self.round_to < 1:
            raise ValueError(f"round_to={self.round_to!r}: expected a whole number, 1 or more")
        check_scope(self.scope, self.max_per_layer)
        check_sensitivity(self.scope, self.sensitivity)
        check_choice("heads", self.heads, Heads)
        if not isinstance(self.inputs, bool):
            raise ValueError(
                f"inputs={self.inputs!r}: expected True, to remove inputs of the network, or False"
            )
        if self.inputs and self.heads != "keep":
            raise ValueError(
                f"inputs=True with heads={self.heads!r}: levels are fractions of the inputs or of "
                "the neurons; ask for one after the other"
            )
        check_choice("couple", self.couple, Couple)

    def find(
        self, network: nn.Module, forward: Forward, inputs: Any, calibration: Sequence[Any] = ()
    ) -> Found:
        """The groups of a plain network, in eval mode, as seen on one batch.

        Args:
            network: the network.
            forward: from network and inputs to outputs.
            inputs: the batch.
            calibration: batches of which inputs are scored, where they are what goes.
        """
        if self.inputs:
            return find_inputs(network, forward, inputs, self.layers, self.exclude, calibration)
        selection = select_layers(network, self.layers, self.exclude, recurrent=True)
        return find_groups(network, forward, inputs, selection, self.heads)

    def rank(self, found: Found, name: str, score: Score) -> tuple[Ranking, list[Note]]:
        """The order in which units of the groups go, or single weights of the layers; and notes.

        Args:
            found: the groups.
            name: the score's name.
            score: what decides.

        Raises:
            ValueError: what `rank_groups` raises, or a score that features cannot have.
        """
        if self.inputs and name in FROM_DATA:
            raise ValueError(
                f"score {name!r} goes by what neurons do: expected one of weights for "
                "inputs=True, such as norm"
            )
        facts = Facts(
            couple=self.couple,
            initial_norms=self.initial_norms,
            seed=self.seed,
            measured=self.measured,
            affine=as_scales_and_shifts(found.network, found.anatomy.batch_norms),
            deviations=found.deviations,
        )
        return rank_groups(
            name,
            score,
            found.network,
            found.groups,
            {name: found.anatomy.chosen[name] for name in found.anatomy.flows},
            self.scope,
            facts,
            self.max_per_layer,
            self.sensitivity,
        )

    def units(self, found: Found, ranking: Ranking, sparsity: float) -> dict[str, Tensor]:
        """Which units, or channels, stay at a sparsity, their number rounded up to a multiple.

        Args:
            found: the groups.
            ranking: the order in which they go.
            sparsity: a level in [0, 1).
        """
        keep = ranking.keep(sparsity)
        for group in found.asked(keep) if self.round_to > 1 else ():
            ranks = ranking.ranks[group.name]
            side_by_side = 1 if group.apart else group.size // group.units
            step = self.round_to // gcd(self.round_to, side_by_side)
            count = min(len(ranks), -(-int(keep[group.name].sum()) // step) * step)
            keep[group.name] = torch.zeros(len(ranks), dtype=torch.bool, device="cpu")
            keep[group.name][ranks.argsort(descending=True)[:count]] = True
        return keep | {name: keep[name][unit] for name, unit in ranking.unit_of.items()}

    def costs(self, found: Found, ranking: Ranking, cost: Callable[[nn.Module], float]) -> Costs:
        """What the smaller networks along a ranking of neurons cost.

        Args:
            found: the groups.
            ranking: the order in which they go.
            cost: of a network.
        """

        def measure(level: float) -> float:
            return cost(
                build_smaller(found.network, found.groups, self.units(found, ranking, level))
            )

        return Costs(ranking, measure)


def _find_asked(
    network: nn.Module, forward: Forward, inputs: Any, indices: Indices, choice: Choice
) -> tuple[Found, dict[str, Tensor]]:
    """The groups that hold the neurons or inputs a user names, and which of their units stay.

    Raises:
        ValueError: no such layer or neuron, or neurons that cannot go.
    """
    if choice.inputs:
        found = choice.find(network, forward, inputs)
        named = check_indices(indices, {group.name: group.size for group in found.groups})
        return found, {g.name: without(g.size, named[g.name]) for g in found.groups}
    return find_named(network, forward, inputs, indices, choice.heads)


def choose(
    model: nn.Module,
    example_input: Any,
    sparsity: float | None,
    indices: Indices | None,
    score: str | Score,
    choice: Choice,
    forward: Forward,
    budget: Budget | None = None,
    calibration: Sequence[Any] = (),
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
        budget: or what the smaller network may cost.
        calibration: see `Choice.find`.

    Raises:
        ValueError: not exactly one of ``sparsity``, ``indices`` and ``budget``; what `find_groups`
            and the score raise; a budget that cannot be met.
    """
    asked = {"sparsity": sparsity, "indices": indices, "budget": budget}
    given = [name for name, value in asked.items() if value is not None]
    if len(given) != 1:
        raise ValueError(
            f"{' and '.join(given) or 'nothing'} given: expected one of sparsity=0.9, the fraction "
            "of the neurons to remove, indices={'fc1': [0, 7]}, the neurons by layer, and, to "
            "remove_neurons, budget=Budget(macs=0.5), what the smaller network may cost"
        )
    if not isinstance(budget, Budget | None):
        raise TypeError(f"budget={budget!r}: expected an ewnprune.Budget, such as Budget(macs=0.5)")
    numbers = None if indices is None else read_indices(indices)
    if numbers is not None and not (
        choice.layers is choice.exclude is None and choice.round_to == 1
    ):
        raise ValueError(
            "indices say which neurons of which layers go: layers=, exclude= and round_to= have a "
            "meaning for a sparsity or a budget only"
        )
    network = plain_network(model)
    if example_input is None:
        raise ValueError("no example_input is given: expected a batch of inputs, to run the model")
    inputs = clone(to_device(example_input, device_of(model)))
    if numbers is not None:
        found, units = _find_asked(network, forward, inputs, numbers, choice)
        return found, units, []
    levels = () if sparsity is None else check_sparsities([sparsity])
    ((name, function),) = find_scores(score).items()
    found = choice.find(network, forward, inputs, calibration)
    ranking, notes = choice.rank(found, name, function)
    if ranking.unit != "neurons":
        raise ValueError(
            f"score {name!r} ranks single weights: expected one number per neuron; single weights "
            "can be masked in sparsity_curve only"
        )
    if budget is not None:
        refuse_unfollowed(model, found.unfollowed)
        cost = cost_function(budget.cost, found.network, forward, first_samples(inputs))
        met = choice.costs(found, ranking, cost).meet(budget)
        levels, notes = (met.level,), [*notes, Note("sizes", met.told(budget))]
    return found, choice.units(found, ranking, *levels), notes
