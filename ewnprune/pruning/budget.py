"""Budgets: what a network may cost, and the largest one along a ranking that costs no more.

Levels nest, so a network further down a ranking is no larger, and bisection over the levels finds
the one with the least removed.
"""

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from math import floor, inf, nextafter
from typing import Any, Literal, NamedTuple, get_args

from torch import nn

from ewnprune.model.latency import measure_latency
from ewnprune.model.size import count_macs, count_parameters, state_dict_bytes
from ewnprune.model.tensors import clone
from ewnprune.model.tracing import Forward
from ewnprune.pruning.ranking import Ranking

Cost = Literal["macs", "parameters", "bytes", "latency_ms"]
LevelOf = Literal["units", "parameters", "macs"]
"""What a level is a fraction of: of the neurons (or single weights) that can go, or of a cost."""

_SECONDS = 0.5  # to time each network in
_ROUNDING = 1 + 1e-12  # 0.57 * 100 is 56.99999999999999
_UNITS = {"macs": "MACs", "parameters": "parameters", "bytes": "bytes", "latency_ms": "ms"}


@dataclass(frozen=True, kw_only=True)
class Budget:
    """What a network may cost at most: one of these.

    Attributes:
        macs: multiply-accumulates for one sample; up to 1 a fraction of the dense network's.
        parameters: parameters of the whole network; up to 1 a fraction.
        bytes: size of its state dict on disk; up to 1 a fraction.
        latency_ms: milliseconds for one sample where the model lies, as measured: by the median of
            many forward passes in torch. Times scatter, so two calls may find two networks.

    Raises:
        ValueError: not exactly one, or none that can be met.

    >>> Budget(macs=0.5), str(Budget(parameters=200_000))
    (Budget(macs=0.5), 'parameters=200000')
    """

    macs: float | None = None
    parameters: float | None = None
    bytes: float | None = None
    latency_ms: float | None = None

    def __post_init__(self) -> None:
        if len(self._given()) != 1:
            raise ValueError(
                f"{self!r}: expected one of macs, parameters, bytes and latency_ms, such as "
                "Budget(macs=0.5)"
            )
        number = isinstance(self.value, int | float) and not isinstance(self.value, bool)
        if not (number and 0 < self.value < inf):
            what = "milliseconds, more than 0"
            if self.cost != "latency_ms":
                what = f"a fraction of the dense network in (0, 1], or a number of {self.cost}"
            raise ValueError(f"budget {self.cost}={self.value!r}: expected {what}")

    @property
    def cost(self) -> Cost:
        """What it is that may not cost more."""
        return next(iter(self._given()))

    @property
    def value(self) -> float:
        """The number given."""
        return next(iter(self._given().values()))

    def limit(self, dense: float) -> float:
        """The cost allowed, where the dense network has this one.

        >>> Budget(macs=0.57).limit(100), Budget(macs=9).limit(100), Budget(latency_ms=0.5).limit(9)
        (57, 9, 0.5)
        """
        if self.cost == "latency_ms":
            return self.value
        return floor((self.value * dense if self.value <= 1 else self.value) * _ROUNDING)

    def __str__(self) -> str:
        return f"{self.cost}={self.value:.12g}"

    def __repr__(self) -> str:
        return f"Budget({', '.join(f'{name}={value!r}' for name, value in self._given().items())})"

    def _given(self) -> dict[Cost, float]:
        values = {cost: getattr(self, cost) for cost in get_args(Cost)}
        return {cost: value for cost, value in values.items() if value is not None}


class Met(NamedTuple):
    """A budget that is met.

    Attributes:
        level: the sparsity at which it is.
        left: what the network costs there.
        dense: what the whole one costs.
    """

    level: float
    left: float
    dense: float

    def told(self, budget: Budget) -> str:
        """In words.

        >>> Met(0.5, 40, 100).told(Budget(macs=0.45))
        'budget macs=0.45: 40 of 100 MACs (40 %) left, at sparsity 0.5'
        """
        left = amounts(budget.cost, self.left, self.dense)
        return f"budget {budget}: {left} left, at sparsity {self.level:g}"


def amounts(cost: Cost, left: float, dense: float) -> str:
    """How much is left of how much, in words."""
    shown = "{:.3g}" if cost == "latency_ms" else "{:,.0f}"
    return (
        f"{shown.format(left)} of {shown.format(dense)} {_UNITS[cost]} ({100 * left / dense:.3g} %)"
    )


class Costs:
    """What the networks along a ranking cost, each measured once.

    Args:
        ranking: the order in which units go.
        measure: the cost of the network at a level.
    """

    def __init__(self, ranking: Ranking, measure: Callable[[float], float]) -> None:
        self.ranking, self.measure = ranking, measure
        self._known: dict[tuple[int, ...], float] = {}

    def at(self, level: float) -> float:
        """The cost at a level; levels that remove as many are the same network."""
        key = self._key(level)
        if key not in self._known:
            self._known[key] = self.measure(level)
        return self._known[key]

    def lowest_level(self, limit: float, what: str, cost: Cost) -> Met:
        """The least that must go: the lowest of all levels at which a limit holds.

        Args:
            limit: the cost allowed.
            what: who wants it, for the message.
            cost: of what.

        Raises:
            ValueError: it holds at no level.
        """
        dense = self.at(0.0)
        if dense <= limit:
            return Met(0.0, dense, dense)
        above, level = 0.0, nextafter(1.0, 0.0)
        if self.at(level) > limit:
            smallest = amounts(cost, self.at(level), dense)
            raise ValueError(
                f"{what} cannot be met: the smallest network that removal gives has {smallest}: "
                "ask for no less, or have more layers pruned"
            )
        while above < (middle := (above + level) / 2) < level:
            if self.at(middle) <= limit:
                level = middle
            else:
                above = middle
        return Met(self._shortest(level), self.at(level), dense)

    def without(self, fraction: float, cost: Literal["parameters", "macs"]) -> Met:
        """The largest network without a fraction of the parameters or multiply-accumulates.

        Raises:
            ValueError: there is none; the message says what the smallest has.
        """
        limit = Budget(**{cost: 1 - fraction}).limit(self.at(0.0))
        return self.lowest_level(limit, f"level {fraction:g} of the {_UNITS[cost]}", cost)

    def meet(self, budget: Budget) -> Met:
        """The largest network that meets a budget.

        Raises:
            ValueError: none does; the message says what the smallest has.
        """
        limit = budget.limit(self.at(0.0))
        return self.lowest_level(limit, f"budget {budget}", budget.cost)

    def _shortest(self, level: float) -> float:
        """The level with the fewest digits that is of the same network."""
        rounded = (round(level, digits) for digits in range(1, 17))
        same = (one for one in rounded if 0 <= one < 1 and self._key(one) == self._key(level))
        return next(same, level)

    def _key(self, level: float) -> tuple[int, ...]:
        return tuple(self.ranking.removed(level).values())


def cost_function(
    cost: Cost, dense: nn.Module, forward: Forward, sample: Any
) -> Callable[[nn.Module], float]:
    """A function from networks, in eval mode and without gradients, to what they cost.

    A time is that of the dense network, measured once, times the ratio of the two in turns: a
    machine that changes its pace does so for both.

    Args:
        cost: what is asked for.
        dense: the whole network.
        forward: from network and inputs to outputs.
        sample: the inputs of one sample.
    """
    if cost == "macs":
        return lambda network: count_macs(network, forward, clone(sample))[0]
    if cost == "parameters":
        return count_parameters
    if cost == "bytes":
        return state_dict_bytes

    def time(network: nn.Module) -> float:
        turns = {"dense": partial(forward, dense), "network": partial(forward, network)}
        found = measure_latency(turns, sample, seconds=_SECONDS)
        return found["network"].milliseconds / found["dense"].milliseconds

    alone = {"dense": partial(forward, dense)}
    reference = measure_latency(alone, sample, seconds=_SECONDS)["dense"].milliseconds
    return lambda network: reference * time(network)
