"""A LightningModule that trains any network to classify, and its default learning-rate schedule."""

from __future__ import annotations

import math
from typing import Any, cast

import pytorch_lightning as pl
import torch
from pytorch_lightning.cli import LRSchedulerCallable, OptimizerCallable
from pytorch_lightning.utilities.types import OptimizerLRScheduler
from torch import Tensor, nn
from torch.optim.lr_scheduler import LRScheduler, OneCycleLR
from torchmetrics.classification import MulticlassAccuracy

from lightning_modules.networks import CNN, MLP


class OneCycle(LRScheduler):
    """One-cycle learning rate over the whole of training, peaking at the optimizer's own rate.

    The rates are those of `torch.optim.lr_scheduler.OneCycleLR` with ``max_lr`` the optimizer's
    learning rate and ``cycle_momentum=False`` (Smith & Topin, https://arxiv.org/abs/1708.07120).
    That class must be told the number of steps when it is made, which a config file cannot know;
    here `Classifier` sets `total_steps` when an epoch starts.

    Args:
        optimizer: The optimizer to schedule.
        pct_start: Fraction of the steps in which the rate rises.

    Attributes:
        total_steps: Number of optimizer steps of the whole training, or None while not known.

    Raises:
        ValueError: If `pct_start` is not between 0 and 1.
    """

    _FIRST = 1 / 25  # of the peak, as in torch
    _LAST = _FIRST / 1e4

    def __init__(self, optimizer: torch.optim.Optimizer, pct_start: float = 0.3) -> None:
        if not 0 < pct_start < 1:
            raise ValueError(
                f"pct_start must lie between 0 and 1, neither included, got {pct_start}"
            )
        self.pct_start = pct_start
        self.total_steps: int | None = None
        super().__init__(optimizer)

    def factor(self, step: int) -> float:
        """Learning rate at `step`, counted from 0, as a fraction of the peak."""
        if step == 0:  # asked before training starts, when total_steps cannot be known
            return self._FIRST
        if self.total_steps is None:
            raise RuntimeError("OneCycle.total_steps is not set: Classifier sets it, or set it")
        peak, end = self.pct_start * self.total_steps - 1, self.total_steps - 1
        if step <= peak:
            return _cosine(self._FIRST, 1.0, step / peak)
        return _cosine(1.0, self._LAST, min(1.0, (step - peak) / (end - peak)))

    def get_lr(self) -> list[float | Tensor]:
        """Learning rate of each parameter group at the current step."""
        return [peak * self.factor(self.last_epoch) for peak in self.base_lrs]


def _cosine(start: float, end: float, fraction: float) -> float:
    return end + (start - end) / 2 * (1 + math.cos(math.pi * fraction))


class Classifier(pl.LightningModule):
    """Trains a network to classify; it neither knows nor minds how the network is made.

    Logs ``train/loss``, ``train/acc``, ``val/loss``, ``val/acc``, ``test/loss`` and ``test/acc``,
    each once per epoch.

    Args:
        network: Maps inputs ``(B, ...)`` to logits ``(B, num_classes)``; None makes an `MLP`.
        optimizer: Called with the parameters, gives the optimizer. On a command line give the class
            and its learning rate together (``--model.optimizer=Adam --model.optimizer.lr=1e-3``):
            a class alone keeps the rate of the default.
        scheduler: Called with the optimizer, gives the learning-rate schedule; None keeps the rate
            constant. `OneCycle` and torch's ``OneCycleLR`` go on after every step, any other
            schedule after every epoch.
        loss: Called with logits ``(B, num_classes)`` and classes ``(B,)``; None is the
            cross-entropy.
        num_classes: Number of classes.

    Raises:
        TypeError: If `network` is not a module, or `optimizer` or `scheduler` is not a function.

    Example:
        >>> import torch
        >>> from lightning_modules import CNN, Classifier
        >>> model = Classifier(CNN(), optimizer=lambda p: torch.optim.Adam(p, lr=1e-3))
        >>> model(torch.zeros(2, 1, 28, 28)).shape
        torch.Size([2, 10])
    """

    def __init__(
        self,
        # nn.Module says it all, but jsonargparse finds a bare "MLP" only where no other subclass of
        # the same name is imported, and torchvision.ops has one
        network: MLP | CNN | nn.Module | None = None,
        optimizer: OptimizerCallable = lambda p: torch.optim.SGD(p, lr=0.1, momentum=0.9),
        scheduler: LRSchedulerCallable | None = OneCycle,
        loss: nn.Module | None = None,
        num_classes: int = 10,
    ) -> None:
        super().__init__()
        if network is not None and not isinstance(network, nn.Module):
            raise TypeError(f"network must be a torch.nn.Module such as MLP(), got {network!r}")
        if not callable(optimizer):
            raise TypeError(f"optimizer must be a function of the parameters, got {optimizer!r}")
        if scheduler is not None and not callable(scheduler):
            raise TypeError(f"scheduler must be a function of the optimizer, got {scheduler!r}")
        # A checkpoint with functions or modules in it cannot be read with weights_only=True. Under
        # LightningCLI, which marks itself so, their places are taken by their config: plain text.
        self.save_hyperparameters(ignore=["network", "optimizer", "scheduler", "loss"])
        if "_instantiator" in self.hparams:
            self.save_hyperparameters()
        self.network = MLP(num_classes=num_classes) if network is None else network
        self.optimizer = optimizer
        self.scheduler = scheduler
        self.loss = nn.CrossEntropyLoss() if loss is None else loss
        self.train_acc = MulticlassAccuracy(num_classes, average="micro")
        self.val_acc = MulticlassAccuracy(num_classes, average="micro")
        self.test_acc = MulticlassAccuracy(num_classes, average="micro")

    def forward(self, x: Tensor) -> Tensor:
        """Logits ``(B, num_classes)`` of inputs ``(B, ...)``."""
        return cast(Tensor, self.network(x))

    def training_step(self, batch: tuple[Tensor, Tensor], batch_idx: int) -> Tensor:
        """Loss of one batch ``(x, y)``."""
        return self._step(batch, "train")

    def validation_step(self, batch: tuple[Tensor, Tensor], batch_idx: int) -> None:
        """Logs the loss and counts the accuracy of one batch ``(x, y)``."""
        self._step(batch, "val")

    def test_step(self, batch: tuple[Tensor, Tensor], batch_idx: int) -> None:
        """Logs the loss and counts the accuracy of one batch ``(x, y)``."""
        self._step(batch, "test")

    def predict_step(self, batch: Any, batch_idx: int) -> dict[str, Tensor]:
        """Class ``(B,)`` and probabilities ``(B, num_classes)`` of a batch ``x`` or ``(x, y)``."""
        x = batch[0] if isinstance(batch, tuple | list) else batch
        probabilities = self(x).softmax(dim=-1)
        return {"class": probabilities.argmax(dim=-1), "probabilities": probabilities}

    def configure_optimizers(self) -> OptimizerLRScheduler:
        """Makes the optimizer and its schedule."""
        optimizer = self.optimizer(self.parameters())
        if self.scheduler is None:
            return optimizer
        scheduler = self.scheduler(optimizer)
        return {
            "optimizer": optimizer,
            "lr_scheduler": {
                "scheduler": scheduler,
                "interval": "step" if isinstance(scheduler, OneCycle | OneCycleLR) else "epoch",
                # pytorch_lightning.cli.ReduceLROnPlateau has one
                "monitor": getattr(scheduler, "monitor", None),
            },
        }

    def on_train_epoch_start(self) -> None:
        """Tells `OneCycle` how many steps it has: all to come, with those it has taken.

        Raises:
            ValueError: If the Trainer does not know.
        """
        # Not in configure_optimizers: asking there makes Lightning drop the state of a loader, so
        # that a run resumed in mid-epoch repeats batches:
        # https://github.com/Lightning-AI/pytorch-lightning/issues/20550
        scheduler = self.lr_schedulers()
        if isinstance(scheduler, OneCycle):
            steps = self.trainer.estimated_stepping_batches
            if math.isinf(steps) or steps < 0:  # -1 of data without a length
                raise ValueError(
                    "OneCycle needs to know the number of steps: give the Trainer max_epochs or "
                    "max_steps and, for data without a length, limit_train_batches; or choose "
                    "another scheduler"
                )
            # a schedule that was made in the middle of training does not count what was before
            scheduler.total_steps = int(steps) - self.trainer.global_step + scheduler.last_epoch

    def on_train_epoch_end(self) -> None:
        """Logs the accuracy of the epoch."""
        self._log_accuracy("train")

    def on_validation_epoch_end(self) -> None:
        """Logs the accuracy of the epoch."""
        self._log_accuracy("val")

    def on_test_epoch_end(self) -> None:
        """Logs the accuracy of the epoch."""
        self._log_accuracy("test")

    def _step(self, batch: tuple[Tensor, Tensor], stage: str) -> Tensor:
        x, y = batch
        logits = self(x)
        loss = cast(Tensor, self.loss(logits, y))
        epoch: dict[str, Any] = {"on_step": False, "on_epoch": True, "batch_size": len(y)}
        self.log(f"{stage}/loss", loss, sync_dist=True, **epoch)
        # update, not forward, which computes the value of the batch too; and logged once per epoch,
        # since a call of self.log takes longer than the update
        getattr(self, f"{stage}_acc").update(logits, y)
        return loss

    def _log_accuracy(self, stage: str) -> None:
        accuracy: MulticlassAccuracy = getattr(self, f"{stage}_acc")
        if accuracy.update_called:  # a subclass may have a step of its own
            self.log(f"{stage}/acc", accuracy, prog_bar=stage != "train")
