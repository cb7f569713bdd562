"""From scores to masks: which units go at each level. Exact counts, ties by index, nested."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from itertools import pairwise
from typing import Literal

import torch
from torch import Tensor

Scope = Literal["layer", "global"]

SPARSITIES = (
    *(0, 0.1, 0.2, 0.3, 0.4, 0.5, 0.55, 0.6, 0.65, 0.7, 0.75, 0.8),
    *(0.825, 0.85, 0.875, 0.9, 0.92, 0.94, 0.95, 0.96, 0.97, 0.98),
)
"""The levels used where none are given: denser where curves fall."""


@dataclass(frozen=True)
class Ranking:
    """The order in which the units (neurons or single weights) of some layers go.

    Attributes:
        ranks: per layer, the place of each unit in the order: among its layer's units, or with
            scope ``"global"`` among all. Shaped as the scores.
        scope: ``"layer"`` or ``"global"``.
        unit_of: where neurons were put together into units by their scores, the unit of each.
    """

    ranks: Mapping[str, Tensor]
    scope: Scope
    unit_of: Mapping[str, Tensor] = field(default_factory=dict)

    @property
    def total(self) -> int:
        """Number of units in all layers."""
        return sum(ranks.numel() for ranks in self.ranks.values())

    @property
    def unit(self) -> Literal["neurons", "weights"]:
        """What is ranked: one score per neuron, or one per weight."""
        return "weights" if any(r.ndim > 1 for r in self.ranks.values()) else "neurons"

    def removed(self, sparsity: float) -> dict[str, int]:
        """How many of the order's first units go, per layer, or in all with scope ``"global"``.

        It is ``round(sparsity * units)``, but one unit of each layer always stays.
        """
        if self.scope == "global":
            most = self.total - len(self.ranks)
            return dict.fromkeys(self.ranks, min(round(sparsity * self.total), most))
        return {
            name: min(round(sparsity * ranks.numel()), ranks.numel() - 1)
            for name, ranks in self.ranks.items()
        }

    def keep(self, sparsity: float) -> dict[str, Tensor]:
        """Per layer, True for the units that stay at a sparsity in [0, 1).

        >>> ranking = rank({"hidden": torch.tensor([0.3, 0.1, 0.2, 0.1])}, "layer")
        >>> ranking.keep(0.5)["hidden"]
        tensor([ True, False,  True, False])
        """
        removed = self.removed(sparsity)
        return {name: ranks >= removed[name] for name, ranks in self.ranks.items()}


def rank(scores: Mapping[str, Tensor], scope: Scope = "layer") -> Ranking:
    """Order the units by score, the lowest first; equal scores go by layer, then by index.

    A layer emptied of all its units would cut the network, so the last unit of each layer to go
    (the highest score; of equals the highest index) never goes. With scope ``"global"`` the count
    asked for is made up by the next lowest scores of the other layers, as far as there are any.

    Args:
        scores: per layer, a tensor with one score per unit, of any shape.
        scope: ``"layer"`` removes the same fraction of every layer, ``"global"`` the lowest
            scores of all layers together.

    Raises:
        ValueError: a score is NaN, there is none, or the scope is not one of the two.
    """
    if scope not in ("layer", "global"):
        raise ValueError(f"scope={scope!r}: expected 'layer' or 'global'")
    for name, values in scores.items():
        if values.isnan().any():
            bad = int(values.flatten().isnan().nonzero()[0])
            raise ValueError(
                f"layer {name!r} has a NaN score (the first at index {bad}): expected numbers; "
                "its weights have diverged, or the score function is wrong"
            )
    if scope == "layer" or not scores:
        return Ranking(
            {name: _places(v.flatten()).view(v.shape) for name, v in scores.items()}, scope
        )
    flat = [values.flatten() for values in scores.values()]
    stays = torch.cat([_places(values) == len(values) - 1 for values in flat])
    places = _places(torch.cat(flat), last=stays)
    parts = places.split([len(values) for values in flat])
    return Ranking(
        {name: part.view(v.shape) for (name, v), part in zip(scores.items(), parts, strict=True)},
        scope,
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
        if isinstance(level, bool | str) or not hasattr(level, "__float__"):
            raise TypeError(f"sparsity {level!r} is no number: expected fractions such as 0.9")
        levels.append(float(level))
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
