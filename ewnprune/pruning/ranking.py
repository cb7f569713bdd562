"""From scores to masks: which units go at each level. Exact counts, ties by index, nested."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from itertools import pairwise
from math import floor
from typing import Any, Literal

import torch
from torch import Tensor

from ewnprune.errors import check_choice
from ewnprune.pruning.sensitivity import Gains, predicted

Scope = Literal["layer", "global", "normalized", "isomorphic", "sensitivity"]
"""Among which units the lowest scores go.

- ``layer``: the same fraction of each layer;
- ``global``: the lowest scores of all layers;
- ``normalized``: the same, of scores divided by the root of their layer's mean square;
- ``isomorphic``: the same fraction of all layers of equal structure, and among these the lowest
  scores. Fang et al. (2024), https://arxiv.org/abs/2407.04616;
- ``sensitivity``: of each layer the lowest scores, so many that the loss is predicted to gain
  equally much by each, from curves of each layer alone.
"""

SPARSITIES = (
    *(0, 0.1, 0.2, 0.3, 0.4, 0.5, 0.55, 0.6, 0.65, 0.7, 0.75, 0.8),
    *(0.825, 0.85, 0.875, 0.9, 0.92, 0.94, 0.95, 0.96, 0.97, 0.98),
)
"""The levels used where none are given: denser where curves fall."""


@dataclass(frozen=True)
class Ranking:
    """The order in which the units (neurons or single weights) of some layers go.

    Attributes:
        ranks: per layer, the place of each unit in the order of its pool. Shaped as the scores.
        pools: per layer, the name of the pool of units that it is ranked among: its own, or one
            that other layers are in too. Of each pool the same fraction goes.
        stay: per layer, how many of its units never go; one where not named.
        unit_of: where neurons were put together into units by their scores, the unit of each.
    """

    ranks: Mapping[str, Tensor]
    pools: Mapping[str, str]
    stay: Mapping[str, int] = field(default_factory=dict)
    unit_of: Mapping[str, Tensor] = field(default_factory=dict)

    @property
    def unit(self) -> Literal["neurons", "weights"]:
        """What is ranked: one score per neuron, or one per weight."""
        return "weights" if any(r.ndim > 1 for r in self.ranks.values()) else "neurons"

    def alone(self, layer: str) -> "Ranking":
        """The order in which the units of one layer go, where all others stay."""
        ranks = self.ranks[layer]
        places = _places(ranks.flatten()).view(ranks.shape)
        unit_of = {layer: self.unit_of[layer]} if layer in self.unit_of else {}
        return Ranking({layer: places}, {layer: layer}, unit_of=unit_of)

    def removed(self, sparsity: float) -> dict[str, int]:
        """How many of the order's first units go, for each layer of those of its pool.

        It is ``round(sparsity * units)``, but as many as have to stay of each layer always do.
        """
        total, most = dict.fromkeys(self.pools.values(), 0), dict.fromkeys(self.pools.values(), 0)
        for name, ranks in self.ranks.items():
            total[self.pools[name]] += ranks.numel()
            most[self.pools[name]] += ranks.numel() - self.stay.get(name, 1)
        return {
            name: min(round(sparsity * total[pool]), most[pool])
            for name, pool in self.pools.items()
        }

    def keep(self, sparsity: float) -> dict[str, Tensor]:
        """Per layer, True for the units that stay at a sparsity in [0, 1).

        >>> ranking = rank({"hidden": torch.tensor([0.3, 0.1, 0.2, 0.1])}, "layer")
        >>> ranking.keep(0.5)["hidden"]
        tensor([ True, False,  True, False])
        """
        removed = self.removed(sparsity)
        return {name: ranks >= removed[name] for name, ranks in self.ranks.items()}


def rank(
    scores: Mapping[str, Tensor],
    scope: Scope = "layer",
    max_per_layer: float | None = None,
    structures: Mapping[str, object] | None = None,
    gains: Mapping[str, Gains] | None = None,
) -> Ranking:
    """Order the units by score, the lowest first; equal scores go by layer, then by index.

    A layer emptied of all its units would cut the network, so the last unit of each layer to go
    (the highest score; of equals the highest index) never goes. Across layers the count asked for
    is made up by the next lowest scores of the other layers, as far as there are any.

    Args:
        scores: per layer, a tensor with one score per unit, of any shape.
        scope: see `Scope`.
        max_per_layer: across layers, the fraction of a layer that goes at most.
        structures: per layer, what is equal for layers of equal structure.
        gains: per layer, what the loss gains at levels of it alone.

    Raises:
        ValueError: a score is NaN, the scope is none, or the cap does not fit.
    """
    check_scope(scope, max_per_layer)
    for name, values in scores.items():
        refuse_nan(name, values)
    most = 1.0 if max_per_layer is None else max_per_layer
    stay = {name: max(1, v.numel() - floor(most * v.numel() + 1e-9)) for name, v in scores.items()}
    pools = {name: name if scope == "layer" else "" for name in scores}
    if scope == "isomorphic":
        firsts: dict[object, str] = {}
        structures = structures or {}
        pools = {name: firsts.setdefault(structures.get(name), name) for name in scores}
    flat = {name: values.flatten() for name, values in scores.items()}
    if scope == "normalized":
        flat = {name: _normalized(values) for name, values in flat.items()}
    own = {}
    if gains is not None:  # what each unit costs, in the order in which those of its layer go
        own = {name: _places(values).long() for name, values in flat.items()}
        flat = {name: predicted(gains[name], len(v)).to(v.device) for name, v in flat.items()}
    ranks: dict[str, Tensor] = {}
    for pool in dict.fromkeys(pools.values()):
        names = [name for name in scores if pools[name] == pool]
        stays = [_places(flat[name]) >= len(flat[name]) - stay[name] for name in names]
        places = _places(torch.cat([flat[name] for name in names]), last=torch.cat(stays))
        parts = places.split([len(flat[name]) for name in names])
        ranks |= dict(zip(names, parts, strict=True))
    ranks |= {name: ranks[name][places] for name, places in own.items()}
    return Ranking({name: ranks[name].view(v.shape) for name, v in scores.items()}, pools, stay)


def refuse_nan(name: str, scores: Tensor) -> None:
    """Refuse scores of a layer that are no numbers.

    Raises:
        ValueError: names the layer and the first place.
    """
    if scores.isnan().any():
        bad = int(scores.flatten().isnan().nonzero()[0])
        raise ValueError(
            f"layer {name!r} has a NaN score (the first at index {bad}): expected numbers; "
            "its weights have diverged, or the score function is wrong"
        )


def check_scope(scope: str, max_per_layer: float | None) -> None:
    """Refuse another word, and a cap that does not fit.

    Raises:
        ValueError: says what was expected.
    """
    check_choice("scope", scope, Scope)
    if max_per_layer is None:
        return
    if not (isinstance(max_per_layer, int | float) and 0 < max_per_layer <= 1):
        raise ValueError(
            f"max_per_layer={max_per_layer!r}: expected the fraction of a layer that goes at most, "
            "such as 0.95"
        )
    if scope == "layer":
        raise ValueError(
            f"max_per_layer={max_per_layer!r} is for a scope across layers: expected "
            "scope='global', for with 'layer' the same fraction of each goes"
        )


def check_sparsities(sparsities: Iterable[float]) -> tuple[float, ...]:
    """The levels, sorted.

    Raises:
        TypeError: they are not numbers.
        ValueError: there is none, one lies outside [0, 1), or one occurs twice.

    >>> check_sparsities([0.9, 0])
    (0.0, 0.9)
    """
    if isinstance(sparsities, str | bytes) or not isinstance(sparsities, Iterable):
        raise TypeError(
            f"sparsities={sparsities!r}: expected a sequence of fractions such as (0, 0.5, 0.9)"
        )
    levels = []
    for level in sparsities:
        levels.append(_as_float(level))
        if not 0 <= levels[-1] < 1:
            hint = f"; for {level} % write {level / 100:g}" if 1 < levels[-1] < 100 else ""
            raise ValueError(
                f"sparsity {level} is outside [0, 1): expected the fraction to remove{hint}"
            )
    levels.sort()
    if not levels:
        raise ValueError("sparsities is empty: expected at least one level, such as (0, 0.5, 0.9)")
    for level, following in pairwise(levels):
        if level == following:
            raise ValueError(f"sparsity {level:g} is given twice: give each level once")
    return tuple(levels)


def _as_float(level: Any) -> float:
    message = f"sparsity {level!r} is no number: expected fractions such as 0.9"
    if isinstance(level, bool | str):
        raise TypeError(message)
    try:
        return float(level)
    except (TypeError, ValueError) as error:  # a tensor of several numbers, or of none
        raise TypeError(message) from error


def _normalized(scores: Tensor) -> Tensor:
    """Scores divided by the root of the mean square of the finite ones."""
    finite = scores[scores.isfinite()].double()
    scale = finite.square().mean().sqrt() if len(finite) else torch.tensor(0.0, device="cpu")
    return scores.double() / scale if scale > 0 else scores.double()


def _places(scores: Tensor, last: Tensor | None = None) -> Tensor:
    """Place of each score in ascending order, those in ``last`` after all others; ties by index."""
    order = scores.argsort(stable=True)
    if last is not None:
        order = order[last[order].to(torch.uint8).argsort(stable=True)]
    # int32 halves what a ranking of single weights keeps in memory
    small = len(scores) <= torch.iinfo(torch.int32).max
    places = torch.empty(
        len(scores), dtype=torch.int32 if small else torch.int64, device=scores.device
    )
    places[order] = torch.arange(len(scores), dtype=places.dtype, device=scores.device)
    return places
