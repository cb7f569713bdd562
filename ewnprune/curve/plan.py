"""The networks that a sweep evaluates: which units each has left, how large it is, and itself."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple

from torch import Tensor, nn

from ewnprune.curve.points import CurvePoint
from ewnprune.curve.variant import Variant
from ewnprune.model.size import Count, count_macs, sizes_of, without_weights
from ewnprune.model.tensors import clone, close, first_samples, same
from ewnprune.model.tracing import Forward
from ewnprune.pruning.budget import Costs, LevelOf
from ewnprune.pruning.choice import Choice
from ewnprune.pruning.found import Found
from ewnprune.pruning.notes import Note
from ewnprune.pruning.ranking import Ranking
from ewnprune.pruning.repair import repaired
from ewnprune.pruning.smaller import build_masked, build_smaller


class Order(NamedTuple):
    """By which score units go, and of which layer alone; empty for all."""

    score: str
    layer: str = ""


@dataclass(frozen=True)
class Plan:
    """The networks to evaluate.

    Attributes:
        variants: each network once.
        networks: which of them each order and level asks for.
    """

    variants: list[Variant] = field(default_factory=list)
    networks: dict[tuple[Order, float], int] = field(default_factory=dict)

    def points(
        self, results: Sequence[Mapping[str, Any]], units: Mapping[str, str], **same: Any
    ) -> tuple[CurvePoint, ...]:
        """The points of the curve, one per order and level.

        Args:
            results: what was measured of each network.
            units: what each score ranks.
            same: what is the same of all points.
        """
        points = []
        for ((score, layer), level), network in self.networks.items():
            found: dict[str, Any] = {**self.variants[network].sizes, **results[network], **same}
            points.append(
                CurvePoint(score=score, unit=units[score], layer=layer, sparsity=level, **found)
            )
        return tuple(points)


def orders(rankings: Mapping[str, Ranking], per_layer: bool) -> dict[Order, Ranking]:
    """The orders to follow: that of each score, or those of each score in each layer alone."""
    if not per_layer:
        return {Order(score): ranking for score, ranking in rankings.items()}
    return {
        Order(score, layer): ranking.alone(layer)
        for score, ranking in rankings.items()
        for layer in ranking.ranks
    }


def refuse_weights(rankings: Mapping[str, Ranking]) -> None:
    """Refuse scores of single weights, where networks are to be built.

    Raises:
        ValueError: names the first.
    """
    for name, ranking in rankings.items():
        if ranking.unit == "weights":
            raise ValueError(
                f"score {name!r} ranks single weights: expected one number per neuron; single "
                "weights can be masked only (realize='mask')"
            )


class _Networks:
    """The networks that rankings lead to, each laid out once."""

    def __init__(
        self, found: Found, forward: Forward, choice: Choice, inputs: Any, calibration: Any
    ) -> None:
        self.found, self.forward, self.choice = found, forward, choice
        self.calibration, self.sample = calibration, first_samples(inputs)
        self.chosen = list(found.selection.chosen)
        self.total, self.macs = count_macs(found.network, forward, clone(self.sample))
        self._known: dict[object, Variant] = {}

    def at(self, score: str, ranking: Ranking, level: float) -> Variant:
        """The network at a level; those that ask for the same units are one."""
        removed = ranking.removed(level)
        units = {}
        if ranking.unit == "neurons":
            units = self.choice.units(self.found, ranking, level)
            units = {name: keep for name, keep in units.items() if not keep.all()}
            what: tuple[object, ...] = tuple((name, *keep.tolist()) for name, keep in units.items())
        else:
            what = (score, *removed.items()) if any(removed.values()) else ()
        # single weights of recurrent layers are not ranked, nor counted then
        counted = self.chosen if ranking.unit == "neurons" else [*ranking.ranks]
        key = (frozenset(counted), what)
        if key not in self._known:
            dense = sizes_of(self.found.network, counted, self.total)
            dense |= _inputs_left(self.found, {})
            variant = self._known[key] = Variant(self.found, units)
            if ranking.unit == "weights" and what:
                variant.ranks, variant.gone = ranking.ranks, removed
                left = without_weights(dense, self.macs, ranking.keep(level))
            elif not what:
                left = dense
            else:
                if self.calibration is not None:
                    groups, network = variant.groups, self.found.network
                    variant.base = repaired(network, groups, units, self.calibration, self.forward)
                left = _measured(variant, self.forward, self.sample, self.chosen)
            variant.sizes = {name: Count(left[name], size) for name, size in dense.items()}
        return self._known[key]

    def costs(self, score: str, ranking: Ranking, cost: str) -> Costs:
        """What the networks along a ranking cost."""
        return Costs(ranking, lambda level: self.at(score, ranking, level).sizes[cost].left)


def make_plan(
    found: Found,
    forward: Forward,
    choice: Choice,
    rankings: Mapping[Order, Ranking],
    levels: Sequence[float],
    inputs: Any,
    calibration: Any = None,
    training: Sequence[Any] = (),
    level_of: LevelOf = "units",
) -> Plan:
    """Lay out the networks; scores and levels that ask for the same units share one.

    That each gives what the masked one gives is tried on one sample, on which its
    multiply-accumulates are counted too. What does not is run masked.

    Args:
        found: the groups of the network, in eval mode; without gradients.
        forward: gives the outputs from network and inputs.
        choice: how units are chosen.
        rankings: the orders in which units go.
        levels: the sparsities.
        inputs: one batch.
        calibration: a batch to repair biases by, if they are to be.
        training: inputs to estimate the statistics of BatchNorms on; none leaves them as they are.
        level_of: what the sparsities are fractions of.

    Raises:
        ValueError: no network has a level.
    """
    networks = _Networks(found, forward, choice, inputs, calibration)
    plan = Plan()
    known: dict[Variant, int] = {}
    for order, ranking in rankings.items():
        costs = networks.costs(order.score, ranking, level_of)
        for level in levels:
            place = level if level_of == "units" else costs.without(level, level_of).level
            variant = networks.at(order.score, ranking, place)
            if variant not in known:
                known[variant] = len(plan.variants)
                plan.variants.append(variant)
            plan.networks[order, level] = known[variant]
    for variant in plan.variants if training else ():
        variant.recalibrate(forward, training, networks.sample)
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
    left = sizes_of(network, chosen, macs) | _inputs_left(variant.found, variant.units)
    for group in groups:
        if group.unfollowed:  # nothing of it becomes smaller, but its neurons are silent
            left["neurons"] -= int((~group.channels(variant.units[group.name])).sum())
    return left


def _inputs_left(found: Found, units: Mapping[str, Tensor]) -> dict[str, int]:
    """How many features the network reads, where these are what goes."""
    stay = {g.name: int(units[g.name].sum()) if g.name in units else g.size for g in found.groups}
    features = [stay[group.name] for group in found.groups if group.inputs]
    return {"inputs": sum(features)} if features else {}


def _noting(forward: Forward, given: list[Any]) -> Forward:
    def run(model: nn.Module, inputs: Any) -> Any:
        given.append(forward(model, inputs))
        return given[-1]

    return run


def how_run(
    rankings: Mapping[str, Ranking], fallback: str, compact: Sequence[bool]
) -> Iterator[Note]:
    """Notes on what was run, and how."""
    if any(ranking.unit == "weights" for ranking in rankings.values()):
        yield Note("sizes", "MACs of masked weights are saved on paper only: zeros are multiplied")
    if fallback:
        yield Note("run", f"the whole model ran once per network, since {fallback}")
    if not all(compact):
        yield Note(
            "run",
            f"{compact.count(False)} of {len(compact)} networks ran masked, at full width: cut "
            "they gave other outputs",
        )
