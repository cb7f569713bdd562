"""What scores and scopes go by that go by data, as the callback and export ask for it."""

from collections.abc import Iterable, Mapping
from typing import Any

from torch import nn

from ewnprune.curve.from_data import measure_neurons
from ewnprune.curve.sweep import sparsity_curve
from ewnprune.pruning.score_names import find_scores
from ewnprune.pruning.scores import FROM_DATA


def facts_by_data(
    model: nn.Module,
    batches: Iterable[Any],
    scores: Any,
    scope: str,
    levels: Iterable[float],
    how: Mapping[str, Any],
    options: Mapping[str, Any],
) -> dict[str, Any]:
    """The arguments ``measured`` and ``sensitivity`` of a curve, or of a removal; those it needs.

    Args:
        model: the model.
        batches: of validation data.
        scores: as in `sparsity_curve`.
        scope: likewise.
        levels: at which the loss of each layer alone is looked at, beside 0.
        how: arguments that `measure_neurons` has too.
        options: those of the curves of each layer alone.
    """
    found: dict[str, Any] = {}
    if any(name in FROM_DATA for name in find_scores(scores)):
        found["measured"] = measure_neurons(model, batches, **how)
    if scope == "sensitivity":
        given = {**options, **how, **found, "per_layer": True}
        curve = sparsity_curve(model, batches, sorted({0.0, *levels}), scores, **given)
        found["sensitivity"] = curve.sensitivity()
    return found
