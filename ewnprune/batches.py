"""What a Trainer holds, as plain functions want it: its batches, its seed."""

import os
from collections.abc import Iterator
from itertools import islice
from typing import Any


class TrainerBatches:
    """A Trainer's loader, on the device and through the hooks of a batch, as in its own loops."""

    def __init__(self, trainer: Any, loader: Any, limit: float) -> None:
        self.trainer, self.loader = trainer, loader
        self.limit = None if limit == float("inf") else int(limit)
        # whose generators the sweep puts back
        self.generator = getattr(loader, "generator", None)
        self.sampler = getattr(loader, "sampler", None)

    def __iter__(self) -> Iterator[Any]:
        for raw in islice(self.loader, self.limit):
            converted = self.trainer.precision_plugin.convert_input(raw)
            converted = self.trainer.lightning_module._on_before_batch_transfer(converted)
            yield self.trainer.strategy.batch_to_device(converted)


def global_seed() -> int | None:
    """What Lightning's ``seed_everything`` left for other processes to find."""
    seed = os.environ.get("PL_GLOBAL_SEED")
    return None if seed is None else int(seed)
