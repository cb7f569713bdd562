"""The progress bar of ``ewnprune fit``: Lightning's, drawn as often as an eye can follow."""

import time
from typing import Any

from pytorch_lightning import Trainer
from pytorch_lightning.callbacks import TQDMProgressBar

_SECONDS = 0.1  # between two drawings


class ThrottledProgressBar(TQDMProgressBar):
    """Lightning's bar, drawn ten times a second at most, and after the last batch of an epoch.

    Lightning draws it after every ``refresh_rate`` batches. That is too often for batches of some
    milliseconds, where drawing takes a twelfth of the time (``python -m benchmarks.epoch``), and
    any other number is too seldom for batches of some seconds.
    """

    def __init__(self) -> None:
        super().__init__()
        self._drawn = 0.0

    def on_train_batch_end(self, trainer: Trainer, *args: Any, **kwargs: Any) -> None:
        now = time.monotonic()
        if now - self._drawn > _SECONDS or trainer.is_last_batch:
            self._drawn = now
            super().on_train_batch_end(trainer, *args, **kwargs)
