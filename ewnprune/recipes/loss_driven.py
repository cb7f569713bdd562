"""The loss-driven learning rate under the Lightning Trainer, one decision per epoch.

This is the protocol of the paper's MNIST and CIFAR-10 runs (Morwani & Ramaswamy,
https://arxiv.org/abs/2010.12909). Free of Lightning's classes, so that both its namespaces can use
it, as the hooks of the callback are.
"""

from typing import Any, cast

import torch
from torch import Tensor

from ewnprune.callback.batches import TrainerBatches, with_own_workers
from ewnprune.model.preserve import evaluating
from ewnprune.training.loss_rate import LossController, LossDrivenRate
from ewnprune.training.losses import LogCrossEntropyLoss


class LossDrivenTraining:
    """Mix into a LightningModule, before it: ``class Net(LossDrivenTraining, Classifier)``.

    An epoch trains with gradients of ``batch loss / loss of the training data``. Then the loss of
    all the training data is measured anew; if it rose, the epoch is undone and the learning rate
    falls by the factor, else the rate rises by it. Use an optimizer without momentum or
    schedule; its learning rate is set by the rule.

    Logs, per epoch: ``train/log_loss`` (of the weights kept), ``train/attempted_log_loss``,
    ``train/accepted`` (1 or 0), ``train/lr``. Checkpoints hold the controller, and resume bit for
    bit. Dropout, batch normalization and augmentation make the loss noisy, and steps fail for that.

    Attributes:
        rate: the rule; set another in the class or in ``__init__``.
        max_rejections: how many epochs in a row may be undone.

    >>> import pytorch_lightning as pl
    >>> class Net(LossDrivenTraining, pl.LightningModule):
    ...     rate = LossDrivenRate(lr=0.01, factor=1.1)
    ...     def __init__(self):
    ...         super().__init__()
    ...         self.layer = torch.nn.Linear(784, 10)
    ...     def forward(self, x):
    ...         return self.layer(x)
    ...     def configure_optimizers(self):
    ...         return torch.optim.SGD(self.parameters(), lr=0.01)
    """

    rate = LossDrivenRate()
    max_rejections = 200
    automatic_optimization = False
    controller: LossController | None = None
    _loaded: dict[str, Any] | None = None

    def log_losses(self, batch: Any) -> Tensor:
        """Log loss of each sample of a batch; by default the cross-entropy of ``(x, y)``."""
        x, y = batch
        return cast(Tensor, LogCrossEntropyLoss("none")(cast(Any, self)(x), y))

    def training_step(self, batch: Any, batch_idx: int) -> None:
        """One step of the optimizer."""
        module, controller = cast(Any, self), self.controller
        assert controller is not None  # made in on_train_start
        log_losses = self.log_losses(batch).flatten()
        optimizer = module.optimizers()
        optimizer.zero_grad()
        module.manual_backward(controller.relative(_log_mean(log_losses)))
        optimizer.step()

    def on_train_start(self) -> None:
        """Measure the loss of the initial weights, or go on from a checkpoint."""
        cast(Any, super()).on_train_start()
        module = cast(Any, self)
        optimizer = module.optimizers(use_pl_optimizer=False)
        if isinstance(optimizer, list):
            raise ValueError(
                f"{len(optimizer)} optimizers: LossDrivenTraining expects one; return one from "
                "configure_optimizers"
            )
        if isinstance(module.trainer.train_dataloader, dict | list | tuple):
            raise ValueError(
                f"{len(module.trainer.train_dataloader)} training loaders in a "
                f"{type(module.trainer.train_dataloader).__name__}: LossDrivenTraining measures "
                "the loss of all training data: expected one loader"
            )
        # the loss of a run that resumes is in the checkpoint
        log_loss = 0.0 if self._loaded else self.measure()
        self.controller = LossController(
            module, optimizer, log_loss, self.rate, self.max_rejections
        )
        if self._loaded:
            self.controller.load_state_dict(self._loaded)
            self._loaded = None

    def on_train_epoch_end(self) -> None:
        """Judge the epoch."""
        cast(Any, super()).on_train_epoch_end()
        assert self.controller is not None
        decision = self.controller.judge(self.measure())
        cast(Any, self).log_dict(
            {
                "train/log_loss": decision.log_loss,
                "train/attempted_log_loss": decision.attempted,
                "train/accepted": float(decision.accepted),
                "train/lr": decision.lr,
            }
        )

    def measure(self) -> float:
        """``log L``, the log of the mean loss over the training data, on all processes."""
        module, trainer = cast(Any, self), cast(Any, self).trainer
        loader, limit = with_own_workers(trainer.train_dataloader), trainer.num_training_batches
        batches = TrainerBatches(trainer, loader, limit, training=True)
        precise = torch.float32 if module.device.type == "mps" else torch.float64
        # shuffling draws random numbers, and so may hooks and log_losses: training must not notice
        with evaluating(module, batches), trainer.precision_plugin.forward_context():
            log_losses = torch.cat([self.log_losses(b).flatten() for b in batches]).to(precise)
        sums = module.all_gather(log_losses.logsumexp(0)).flatten()
        counts = module.all_gather(torch.tensor(len(log_losses), device=module.device))
        return float(sums.logsumexp(0) - counts.sum().to(precise).log())

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Put the controller into the checkpoint."""
        cast(Any, super()).on_save_checkpoint(checkpoint)
        own, optimizers = self.controller, cast(Any, self).trainer.optimizers
        # that of a fit before is there still when a finder of a learning rate saves the next one
        if own is not None and any(own.optimizer is optimizer for optimizer in optimizers):
            checkpoint["loss_controller"] = own.state_dict()

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Take the controller from the checkpoint, for a run that resumes and for no other."""
        cast(Any, super()).on_load_checkpoint(checkpoint)
        trainer = cast(Any, self)._trainer  # load_from_checkpoint has none
        if trainer is not None and trainer.state.fn == "fit":
            self._loaded = checkpoint.get("loss_controller")


def _log_mean(log_losses: Tensor) -> Tensor:
    return log_losses.logsumexp(0) - log_losses.new_tensor(log_losses.numel()).log()
