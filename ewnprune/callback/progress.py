"""How far ``ewnprune fit`` is: Lightning's bar at a terminal, a line per epoch in a file."""

import sys
import time
from collections.abc import Callable
from typing import Any

from pytorch_lightning import LightningModule, Trainer
from pytorch_lightning.callbacks import ProgressBar, TQDMProgressBar

_SECONDS = 0.1  # between two drawings


def progress_bar() -> ProgressBar:
    """What suits the standard output: a bar would fill a file with its drawings."""
    return ThrottledProgressBar() if sys.stdout.isatty() else EpochLines()


def _in_percent(metrics: dict[str, Any]) -> dict[str, Any]:
    """Metrics with accuracies as they are read everywhere else here.

    >>> _in_percent({"val/acc": 0.975, "val/loss": 0.1})
    {'val/acc': '97.50 %', 'val/loss': 0.1}
    """
    return {
        name: f"{100 * value:.2f} %"
        if name.rpartition("/")[2] == "acc" and isinstance(value, float) and 0 <= value <= 1
        else value
        for name, value in metrics.items()
    }


class ThrottledProgressBar(TQDMProgressBar):
    """Lightning's bar, drawn ten times a second at most, and after the last batch.

    Lightning draws it after every ``refresh_rate`` batches. That is too often for batches of some
    milliseconds, where drawing takes a twelfth of the time (``python -m benchmarks.epoch``), and
    any other number is too seldom for batches of some seconds.
    """

    def __init__(self) -> None:
        super().__init__()
        self._drawn = 0.0

    def get_metrics(self, trainer: Trainer, pl_module: LightningModule) -> dict[str, Any]:
        return _in_percent(super().get_metrics(trainer, pl_module))

    def on_train_batch_end(self, trainer: Trainer, *args: Any, **kwargs: Any) -> None:
        draw = super().on_train_batch_end
        self._throttle(draw, trainer.is_last_batch, trainer, *args, **kwargs)

    def on_validation_batch_end(
        self, trainer: Trainer, pl_module: Any, outputs: Any, batch: Any, index: int, *loader: int
    ) -> None:
        last = index + 1 >= self.total_val_batches_current_dataloader
        draw = super().on_validation_batch_end
        self._throttle(draw, last, trainer, pl_module, outputs, batch, index, *loader)

    def on_test_batch_end(
        self, trainer: Trainer, pl_module: Any, outputs: Any, batch: Any, index: int, *loader: int
    ) -> None:
        last = index + 1 >= self.total_test_batches_current_dataloader
        draw = super().on_test_batch_end
        self._throttle(draw, last, trainer, pl_module, outputs, batch, index, *loader)

    def on_predict_batch_end(
        self, trainer: Trainer, pl_module: Any, outputs: Any, batch: Any, index: int, *loader: int
    ) -> None:
        last = index + 1 >= self.total_predict_batches_current_dataloader
        draw = super().on_predict_batch_end
        self._throttle(draw, last, trainer, pl_module, outputs, batch, index, *loader)

    def _throttle(self, draw: Callable[..., None], last: bool, *args: Any, **kwargs: Any) -> None:
        now = time.monotonic()
        if now - self._drawn > _SECONDS or last:
            self._drawn = 0.0 if last else now  # the next bar is drawn from its start
            draw(*args, **kwargs)


class EpochLines(ProgressBar):
    """One line per epoch of a fit: which, its metrics, and how long the rest will take."""

    def __init__(self) -> None:
        super().__init__()
        self._enabled = True
        self._begun, self._done_before = 0.0, 0.0

    def get_metrics(self, trainer: Trainer, pl_module: LightningModule) -> dict[str, Any]:
        return _in_percent(super().get_metrics(trainer, pl_module))

    def disable(self) -> None:
        self._enabled = False

    def enable(self) -> None:
        self._enabled = True

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self._begun = time.monotonic()
        self._done_before = _done(trainer, trainer.current_epoch)

    def on_train_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        if not self._enabled:
            return
        epochs = trainer.max_epochs if (trainer.max_epochs or 0) > 0 else None
        parts = [f"epoch {trainer.current_epoch + 1}" + (f" of {epochs}" if epochs else "")]
        for name, value in self.get_metrics(trainer, pl_module).items():
            if name != "v_num":
                parts.append(
                    f"{name} {value:.4g}" if isinstance(value, float) else f"{name} {value}"
                )
        gone = time.monotonic() - self._begun
        parts.append(f"{gone:.0f} s")
        done = _done(trainer, trainer.current_epoch + 1)
        if self._done_before < done < 1:
            left = gone * (1 - done) / (done - self._done_before)
            parts.append(f"about {left:.0f} s left")
        print(", ".join(parts), flush=True)


def _done(trainer: Trainer, epochs: int) -> float:
    """The fraction of a fit that is done after so many epochs; 0 where it has no end."""
    all_epochs = trainer.max_epochs or -1
    by_epochs = epochs / all_epochs if all_epochs > 0 else 0.0
    by_steps = trainer.global_step / trainer.max_steps if trainer.max_steps > 0 else 0.0
    return min(1.0, max(by_epochs, by_steps))
