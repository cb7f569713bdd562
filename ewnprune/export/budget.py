"""Levels at which a run's network meets a budget, counted on what the export writes."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import fields, replace
from typing import Any

from torch import nn

from ewnprune.export.calling import Calling
from ewnprune.export.formats import Format
from ewnprune.export.trained import Trained
from ewnprune.export.writing import size_of
from ewnprune.model.copying import plain_network
from ewnprune.model.preserve import evaluating
from ewnprune.model.tensors import first_samples
from ewnprune.pruning.budget import Budget, Cost, Met, amounts, cost_function
from ewnprune.pruning.choice import Choice
from ewnprune.pruning.recalibration import training_inputs
from ewnprune.pruning.score_names import find_scores
from ewnprune.pruning.smaller import refuse_unfollowed


def levels_within(
    trained: Trained,
    budget: Budget,
    scores: Sequence[str],
    inputs: Any,
    removal: Mapping[str, Any],
    cost: Callable[[nn.Module], float],
) -> dict[str, Met]:
    """For each score that ranks neurons, the lowest level at which the budget is met.

    Args:
        trained: the run.
        budget: what may be spent.
        scores: which neurons go first.
        inputs: the inputs of a batch.
        removal: what else `remove_neurons` is told.
        cost: of a network that is built.

    Raises:
        ValueError: no network meets it, nobody can follow who reads some neurons, or no score
            ranks neurons.
    """
    choice = Choice(**{f.name: removal[f.name] for f in fields(Choice) if f.name in removal})
    levels = {}
    training = removal.get("recalibrate")
    calibration = []
    if choice.inputs and training is not None:
        calibration = training_inputs(trained.model, training, removal["batch"])
    with evaluating(trained.model):
        network = plain_network(trained.model)
        found = choice.find(network, removal["forward"], inputs, calibration)
        refuse_unfollowed(trained.model, found.unfollowed)
        for name, score in find_scores(scores).items():
            ranking, _ = choice.rank(found, name, score)
            if ranking.unit == "neurons":
                levels[name] = choice.costs(found, ranking, cost).meet(budget)
    if not levels:
        raise ValueError(
            f"scores {[*scores]} rank single weights: give a --score that ranks neurons, such as "
            "norm"
        )
    return levels


def cost_as_written(
    cost: Cost, name: str, kind: Format, whole: Calling, part: str
) -> Callable[[nn.Module], float]:
    """A function from networks to what the part of them costs that is written."""
    dense = replace(whole, network=whole.network.get_submodule(part))
    counted = None
    if cost != "bytes":
        counted = cost_function(cost, dense.network, dense.forward, first_samples(dense.inputs))

    def written(network: nn.Module) -> float:
        calling = replace(whole, network=network.get_submodule(part))
        return size_of(name, kind, calling) if counted is None else counted(calling.network)

    return written


def budget_entry(budget: Budget, met: Met, card: Mapping[str, Any]) -> dict[str, Any]:
    """What the card says of a budget: asked, allowed and reached.

    A time is that by which the network was found; those of the card are measured anew.

    Args:
        budget: what was asked for.
        met: how it is met.
        card: the card of the network that was built.

    Raises:
        ValueError: the network that was built costs more.
    """
    limit, row = budget.limit(met.dense), card.get(budget.cost)
    where = {}
    if row is None:
        row = {"before": met.dense, "after": met.left}
        where = {key: card["latency"][0][key] for key in ("batch_size", "device", "threads")}
    elif row["after"] > limit:
        raise ValueError(
            f"the network that was built has {amounts(budget.cost, row['after'], row['before'])}, "
            f"more than --{budget.cost} {budget.value:.12g}: nothing is written; ask for less"
        )
    return {
        "cost": budget.cost,
        "asked": budget.value,
        "limit": limit,
        "reached": row["after"],
        "dense": row["before"],
        **where,
    }


def budget_told(entry: Mapping[str, Any]) -> str:
    """The same as a person reads it.

    >>> budget_told({"cost": "macs", "asked": 0.5, "reached": 499, "dense": 1000})
    'Budget macs=0.5: 499 of 1,000 MACs (49.9 %) left'
    """
    left = amounts(entry["cost"], entry["reached"], entry["dense"])
    return f"Budget {entry['cost']}={entry['asked']:.12g}: {left} left"
