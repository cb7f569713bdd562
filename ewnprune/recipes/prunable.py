"""The recipe of docs/recipe.md, put together for a Trainer of one's own."""

from collections.abc import Callable
from typing import Any

from pytorch_lightning import Callback
from torch import nn

from ewnprune.callback import WeightNormPruning
from ewnprune.model.layers import LayerPatterns
from ewnprune.recipes.alpha_rate import AlphaLearningRate
from ewnprune.recipes.log_norm_penalty import LogNormPenalty
from ewnprune.recipes.nested import NestedTraining
from ewnprune.training.parametrizations import EWN

LEVELS = (0.9, 0.945, 0.95, 0.98)
"""The levels of nested training: 95 % twice, the hardest to have together with the others."""


def prunable_recipe(
    *,
    layers: LayerPatterns | None = None,
    exclude: LayerPatterns | None = None,
    batch: Callable[[Any], tuple[Any, Any]] | None = None,
    forward: Callable[[nn.Module, Any], Any] | None = None,
    **options: Any,
) -> list[Callback]:
    """The callbacks that train any classifier under EWN so that it can be pruned hard.

    A faster alpha, half of the images seeing a pruned network, and a light penalty on log-norms
    that is off in the last fifth; then `WeightNormPruning`. ``--prune.recipe=prunable`` is the
    same on the command line. The numbers are those that were tuned for a network on MNIST, which
    had twice its usual learning rate too: docs/recipe.md says what they are worth elsewhere.

    Args:
        layers: which layers, for all of them; by default all but the last.
        exclude: which of them to leave.
        batch: function from a batch to (inputs, targets); by default the batch is that pair.
        forward: from model and inputs to outputs; ``model(inputs)`` by default.
        options: what else `WeightNormPruning` takes, but for the parametrization.

    Returns:
        Callbacks for a Trainer of ``pytorch_lightning``, in the order in which they belong.

    >>> [type(callback).__name__ for callback in prunable_recipe(sparsities=(0, 0.9))]
    ['AlphaLearningRate', 'NestedTraining', 'LogNormPenalty', 'WeightNormPruning']
    """
    where: dict[str, Any] = {"layers": layers, "exclude": exclude}
    called: dict[str, Any] = {"batch": batch, "forward": forward}
    return [
        AlphaLearningRate(rate=10),
        NestedTraining(share=0.5, sparsities=LEVELS, **where, **called),
        LogNormPenalty(strength=7e-5, until=0.8),
        WeightNormPruning(EWN(), **where, **called, **options),
    ]
