"""The networks that a sweep evaluates: which units each has left, and how large it is."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from ewnprune.model.anatomy import Anatomy
from ewnprune.model.layers import to_weight
from ewnprune.model.size import Sizes, count_macs, dense_sizes, without_neurons, without_weights
from ewnprune.model.tensors import clone, one_sample
from ewnprune.model.tracing import Forward
from ewnprune.pruning.maskings import Mask, Site, neuron_masks
from ewnprune.pruning.ranking import Ranking


@dataclass(frozen=True)
class Plan:
    """The networks to evaluate.

    Attributes:
        variants: the masks of each network.
        sizes: the sizes of each network.
        networks: which of them each score and level asks for.
    """

    variants: list[dict[Site, Mask]] = field(default_factory=list)
    sizes: list[Sizes] = field(default_factory=list)
    networks: dict[tuple[str, float], int] = field(default_factory=dict)


def make_plan(
    model: nn.Module,
    forward: Forward,
    anatomy: Anatomy,
    rankings: Mapping[str, Ranking],
    levels: Sequence[float],
    inputs: Any,
) -> Plan:
    """Lay out the networks; scores and levels that ask for the same units share one.

    Args:
        model: the model, in eval mode; without gradients.
        forward: gives the outputs from model and inputs.
        anatomy: what was found out about it.
        rankings: the order in which units go, by score.
        levels: the sparsities.
        inputs: one batch, to count the multiply-accumulates of one sample.
    """
    total, macs = count_macs(model, forward, clone(one_sample(inputs)))
    dense = dense_sizes(model, anatomy.chosen, total)
    plan = Plan()
    known: dict[object, int] = {}
    for score, ranking in rankings.items():
        if ranking.unit == "weights":
            ranks = {name: to_weight(anatomy.chosen[name], r) for name, r in ranking.ranks.items()}
        for level in levels:
            removed = ranking.removed(level)
            key = (score, *removed.values()) if any(removed.values()) else "dense"
            if key not in known:
                known[key] = len(plan.variants)
                keep = ranking.keep(level)
                if ranking.unit == "weights":
                    plan.variants.append(_weight_masks(ranks, removed, keep))
                    plan.sizes.append(without_weights(dense, macs, keep))
                else:
                    plan.variants.append(neuron_masks(anatomy, keep))
                    sizes = without_neurons(dense, macs, keep, anatomy.flows, anatomy.modules)
                    plan.sizes.append(sizes)
            plan.networks[score, level] = known[key]
    return plan


def _weight_masks(
    ranks: Mapping[str, Tensor], removed: Mapping[str, int], keep: Mapping[str, Tensor]
) -> dict[Site, Mask]:
    # made anew at each use: the masks of all levels would be larger than the model
    return {
        Site(name, "weight"): partial(torch.ge, ranks[name], removed[name])
        for name in keep
        if not keep[name].all()
    }
