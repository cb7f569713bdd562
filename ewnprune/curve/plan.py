"""The networks that a sweep evaluates: which units each has left, how large it is, and itself."""

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from torch import Tensor, nn

from ewnprune.model.copying import copy_network
from ewnprune.model.size import Count, count_macs, sizes_of, without_weights
from ewnprune.model.tensors import clone, close, first_samples, same
from ewnprune.model.tracing import Forward
from ewnprune.pruning.choice import Choice
from ewnprune.pruning.finding import Found
from ewnprune.pruning.groups import Group
from ewnprune.pruning.masking import mask_weights
from ewnprune.pruning.ranking import Ranking
from ewnprune.pruning.repair import repaired
from ewnprune.pruning.smaller import build_masked, build_smaller


@dataclass(eq=False)
class Variant:
    """One network to evaluate; the whole one where nothing goes.

    Attributes:
        found: the groups, and the whole network.
        units: for each group that loses some, which of its units stay.
        ranks: for each layer that loses single weights, their places in the order.
        gone: how many of that order's first go, by layer.
        base: the network to cut, where biases were repaired; the whole network otherwise.
        compact: whether it can be run cut, or only masked.
        sizes: what is left of it.
        outputs: what it gives on one sample.
    """

    found: Found
    units: Mapping[str, Tensor] = field(default_factory=dict)
    ranks: Mapping[str, Tensor] = field(default_factory=dict)
    gone: Mapping[str, int] = field(default_factory=dict)
    base: nn.Module | None = None
    compact: bool = True
    sizes: Mapping[str, Count] = field(default_factory=dict)
    outputs: Any = None

    @property
    def groups(self) -> list[Group]:
        """The groups that lose something."""
        return [group for group in self.found.groups if group.name in self.units]

    @property
    def touched(self) -> set[str]:
        """Names of the modules that are not those of the whole network."""
        names = {name for name in self.ranks if self.gone[name]}
        for group in self.groups:
            names |= group.touched if group.readers else {group.after or group.name}
        return names

    def network(self, whole: Collection[str] = ()) -> nn.Module:
        """The network, made anew: the copies of all levels would be larger than the model.

        Args:
            whole: layers whose neurons are all left.
        """
        base = self.found.network if self.base is None else self.base
        if self.ranks:
            network = copy_network(base, share=True)
            mask_weights(network, {n: ranks >= self.gone[n] for n, ranks in self.ranks.items()})
            return network
        if not self.compact:
            return build_masked(base, self.groups, self.units)
        return build_smaller(base, self.groups, self.units, whole=whole)


@dataclass(frozen=True)
class Plan:
    """The networks to evaluate.

    Attributes:
        variants: each network once.
        networks: which of them each score and level asks for.
    """

    variants: list[Variant] = field(default_factory=list)
    networks: dict[tuple[str, float], int] = field(default_factory=dict)


def make_plan(
    found: Found,
    forward: Forward,
    choice: Choice,
    rankings: Mapping[str, Ranking],
    levels: Sequence[float],
    inputs: Any,
    calibration: Any = None,
) -> Plan:
    """Lay out the networks; scores and levels that ask for the same units share one.

    That each gives what the masked one gives is tried on one sample, on which its
    multiply-accumulates are counted too. What does not is run masked.

    Args:
        found: the groups of the network, in eval mode; without gradients.
        forward: gives the outputs from network and inputs.
        choice: how units are chosen.
        rankings: the order in which units go, by score.
        levels: the sparsities.
        inputs: one batch.
        calibration: a batch to repair biases by, if they are to be.
    """
    sample = first_samples(inputs)
    chosen = list(found.selection.chosen)
    total, macs = count_macs(found.network, forward, clone(sample))
    plan = Plan()
    known: dict[object, int] = {}
    what: tuple[object, ...]
    for score, ranking in rankings.items():
        # single weights of recurrent layers are not ranked, nor counted then
        counted = chosen if ranking.unit == "neurons" else [*ranking.ranks]
        dense = sizes_of(found.network, counted, total)
        for level in levels:
            removed = ranking.removed(level)
            units = {}
            if ranking.unit == "neurons":
                units = choice.units(found, ranking, level)
                units = {name: keep for name, keep in units.items() if not keep.all()}
                what = tuple((name, *keep.tolist()) for name, keep in units.items())
            else:
                what = (score, *removed.values()) if any(removed.values()) else ()
            key = (len(counted), what)
            if key not in known:
                known[key] = len(plan.variants)
                variant = Variant(found, units)
                if ranking.unit == "weights" and what:
                    variant.ranks, variant.gone = ranking.ranks, removed
                    left = without_weights(dense, macs, ranking.keep(level))
                elif not what:
                    left = dense
                else:
                    if calibration is not None:
                        groups = variant.groups
                        network = found.network
                        variant.base = repaired(network, groups, units, calibration, forward)
                    left = _measured(variant, forward, sample, chosen)
                variant.sizes = {name: Count(left[name], dense[name]) for name in dense}
                plan.variants.append(variant)
            plan.networks[score, level] = known[key]
    return plan


def _measured(
    variant: Variant, forward: Forward, sample: Any, chosen: Sequence[str]
) -> dict[str, int]:
    """Sizes of a network, after trying that it gives what it should."""
    base = variant.found.network if variant.base is None else variant.base
    groups = variant.groups
    told = [group for group in groups if not group.opaque]
    expected = forward(build_masked(base, told, variant.units), clone(sample))
    network, given = variant.network(), list[Any]()
    macs, _ = count_macs(network, _noting(forward, given), clone(sample))
    variant.outputs = compared = given[0]
    if len(told) < len(groups):
        compared = forward(build_smaller(base, told, variant.units), clone(sample))
    if not same(compared, expected, close):
        variant.compact, variant.outputs = False, expected
    left = sizes_of(network, chosen, macs)
    for group in groups:
        if group.unfollowed:  # nothing of it becomes smaller, but its neurons are silent
            left["neurons"] -= int((~group.channels(variant.units[group.name])).sum())
    return left


def _noting(forward: Forward, given: list[Any]) -> Forward:
    def run(model: nn.Module, inputs: Any) -> Any:
        given.append(forward(model, inputs))
        return given[-1]

    return run
