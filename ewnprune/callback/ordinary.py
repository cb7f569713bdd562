"""How long the ordinary epochs of a fit are, for schedules that are fractions of the training.

Finetuning comes after them, and raises the Trainer's ``max_epochs`` for it: when they are over, or
before the first step where a run is resumed then. A schedule must not take those for more of the
training that it was made for.
"""

import math
from typing import Any


def ordinary_epochs(trainer: Any) -> float:
    """The number of epochs before finetuning; infinite where there is none.

    Args:
        trainer: the Trainer, in a fit.
    """
    parts = [getattr(callback, "finetuning", None) for callback in trainer.callbacks]
    return min((getattr(part, "ordinary_epochs", math.inf) for part in parts), default=math.inf)


def ordinary_steps(trainer: Any) -> float:
    """The steps of the optimizer in the ordinary epochs; infinite where nobody can tell.

    They are those of the Trainer as it is now: a run that is resumed with more epochs has a longer
    training.

    Args:
        trainer: the Trainer, in a fit, not before ``on_train_start``.
    """
    epochs, known = ordinary_epochs(trainer), trainer.fit_loop.max_epochs
    if math.isfinite(epochs):
        trainer.fit_loop.max_epochs = int(epochs)
    try:
        steps = _scheduled_steps(trainer) or trainer.estimated_stepping_batches
    finally:
        trainer.fit_loop.max_epochs = known
    # Lightning has -1 for data without a length: pytorch_lightning/trainer/trainer.py:1779
    return float(steps) if steps >= 0 else math.inf


def _scheduled_steps(trainer: Any) -> int | None:
    """Where gradients are accumulated over ever other numbers of batches; else None.

    Lightning's own number is by what the first epoch accumulates:
    pytorch_lightning/trainer/trainer.py:1783.
    """
    schedules = [c for c in trainer.callbacks if hasattr(c, "get_accumulate_grad_batches")]
    if not schedules:
        return None
    batches, epochs = trainer.num_training_batches, trainer.fit_loop.max_epochs
    limit: int = trainer.max_steps
    if not math.isfinite(batches) or epochs in (None, -1):
        return None
    together = map(schedules[0].get_accumulate_grad_batches, range(epochs))
    steps: int = sum(math.ceil(batches / count) for count in together)
    return steps if limit == -1 else min(steps, limit)
