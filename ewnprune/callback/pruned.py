"""The curve of a network that was pruned in its training, and trained on."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from torch import Tensor

from ewnprune.callback.attachment import Attachment
from ewnprune.callback.batches import TrainerBatches
from ewnprune.callback.holding import pruned_first
from ewnprune.callback.measuring import Measuring
from ewnprune.curve.curve import Curve
from ewnprune.pruning.score_names import find_scores


@dataclass(frozen=True)
class Pruned:
    """What was pruned of a network that trains on.

    Attributes:
        how: what the curve's name says of it, as ``"finetuned at 0.9"``.
        sparsity: the fraction that is gone.
        masks: for each tensor, by its name in the plain model, True for what stays.
    """

    how: str
    sparsity: float
    masks: Mapping[str, Tensor]


def measure(
    measuring: Measuring,
    attachment: Attachment,
    pruned: Pruned | None,
    trainer: Any,
    pl_module: Any,
    batches: TrainerBatches,
    sparsities: Sequence[float],
) -> Curve:
    """The curve of a network; of a pruned one, at a level below it is that network as it is.

    Args:
        measuring: how it is measured.
        attachment: what is attached to it.
        pruned: what was pruned of it, if anything was.
        trainer: its Trainer.
        pl_module: the network.
        batches: the data.
        sparsities: the levels.
    """
    norms = attachment.initial_norms
    scores: Sequence[Any] = measuring.scores
    if pruned is None:
        return measuring.curve(
            trainer, pl_module, batches, sparsities, scores, attachment.method, norms
        )
    name = f"{attachment.method}, {pruned.how}"
    reached = {level: max(level, pruned.sparsity) for level in sparsities}
    scores = [
        pruned_first(score, function, pl_module, pruned.masks)
        for score, function in find_scores(scores).items()
    ]
    levels = sorted({*reached.values()})
    curve = measuring.curve(trainer, pl_module, batches, levels, scores, name, norms)
    points = []
    for series in curve.series():
        found = {point.sparsity: point for point in series}
        points += [replace(found[reached[level]], sparsity=level) for level in sparsities]
    return Curve(tuple(points), curve.notes)
