"""Act with every step of every optimizer, however many there are in a batch, and with no other.

Lightning's own hooks come before a step, which a ``GradScaler`` may skip then, and after a batch,
in which a module that optimizes by itself may take several.
"""

from typing import Any

import torch
from pytorch_lightning import Callback, Trainer
from torch.utils.hooks import RemovableHandle


class EachStep(Callback):
    """Calls `before_step` and `after_step` of a subclass, where a batch is being trained on.

    Several of them come in the order of the Trainer's callbacks.
    """

    _handles: tuple[RemovableHandle, ...] = ()

    def before_step(self, trainer: Trainer, optimizer: torch.optim.Optimizer) -> None:
        """Before the step; gradients may not be computed yet."""

    def after_step(self, trainer: Trainer, optimizer: torch.optim.Optimizer) -> None:
        """After the step; the gradients that it followed are still there."""
        raise NotImplementedError

    def on_train_batch_start(self, trainer: Trainer, *_: Any) -> None:
        self.on_train_batch_end()  # of one that was cut off
        for optimizer in trainer.optimizers:  # finetuning makes others in the middle of a fit
            self._watch(trainer, optimizer)

    def on_train_batch_end(self, *_: Any) -> None:
        for handle in self._handles:
            handle.remove()
        self._handles = ()

    def on_train_epoch_end(self, *_: Any) -> None:
        self.on_train_batch_end()  # which did not come if on_train_batch_start returned -1

    def _watch(self, trainer: Trainer, optimizer: torch.optim.Optimizer) -> None:
        handles: list[RemovableHandle] = []

        def before(*_: Any) -> None:
            self.before_step(trainer, optimizer)
            if not handles:  # so late: what holds pruned weights at zero may begin with this batch
                handles.append(optimizer.register_step_post_hook(after))
                self._handles += tuple(handles)

        def after(*_: Any) -> None:
            self.after_step(trainer, optimizer)

        self._handles += (optimizer.register_step_pre_hook(before),)
