"""The validation data of a fit, also where Lightning has not loaded them yet."""

from typing import Any

from torch.utils._pytree import tree_leaves

from ewnprune.callback.batches import TrainerBatches
from ewnprune.model.preserve import same_draws


def validation_data(trainer: Any) -> tuple[Any, list[float]]:
    """The loaders and how many batches of each; None where the fit has none.

    Lightning loads them before the first validation: a sanity check, or the start of a fit whose
    first epoch is one to validate. A finder of the learning rate has it forget them. They are
    loaded as pytorch_lightning/loops/fit_loop.py:423-426 does it, and random numbers put back.

    Args:
        trainer: the Trainer, in a fit.
    """
    loop = trainer.fit_loop.epoch_loop.val_loop
    if loop._combined_loader is None and trainer.enable_validation:
        stage = trainer.state.stage
        trainer.validating = True
        with same_draws():
            loop.setup_data()
        trainer.state.stage = stage
    if loop._combined_loader is None:
        return None, []
    return trainer.val_dataloaders, trainer.num_val_batches


def first_validation_batch(trainer: Any) -> TrainerBatches | None:
    """The first batch of the first loader, or None where there is none."""
    loaders, limits = validation_data(trainer)
    flat = tree_leaves(loaders) if loaders is not None else []  # a stream has no truth value
    return TrainerBatches(trainer, flat[0], 1) if flat and limits[0] else None
