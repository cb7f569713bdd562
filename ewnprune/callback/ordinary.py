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


def ordinary_steps(trainer: Any, asking: str) -> float:
    """The steps of the optimizer in the ordinary epochs, which a schedule's times are fractions of.

    They are those of the Trainer as it is now: a run that is resumed with more epochs has a longer
    training. A module that optimizes by itself may step as often in a batch as it likes: its
    batches are counted then, but for a training that ``max_steps`` alone ends.

    Args:
        trainer: the Trainer, in a fit, not before ``on_train_start``.
        asking: the name of the callback, and the options that need to know.

    Raises:
        ValueError: nobody can tell.
    """
    if _by_batches(trainer) and trainer.max_steps != -1:
        raise ValueError(
            f"{asking} with manual optimization: max_steps={trainer.max_steps} counts the steps of "
            "optimizers, and max_epochs batches: expected one of the two, and max_epochs=-1 with "
            "max_steps"
        )
    steps = _estimated_steps(trainer)
    if math.isinf(steps):
        raise ValueError(
            f"{asking} needs to know the length of the training: set max_epochs or max_steps and, "
            "for data without a length, limit_train_batches"
        )
    return steps


def steps_done(trainer: Any) -> int:
    """How many of the `ordinary_steps` are done.

    Args:
        trainer: the Trainer, in a fit, when a batch starts or before a step.
    """
    loop = trainer.fit_loop.epoch_loop
    done: int = loop.batch_progress.total.completed if _by_batches(trainer) else loop.global_step
    return done


def _by_batches(trainer: Any) -> bool:
    manual = not trainer.lightning_module.automatic_optimization
    return manual and trainer.fit_loop.max_epochs not in (None, -1)


def _estimated_steps(trainer: Any) -> float:
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
