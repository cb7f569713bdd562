"""What a Trainer holds, as plain functions want it: its batches, its seed."""

import os
from collections.abc import Iterator
from itertools import count, islice
from typing import Any

from torch.utils.data import BatchSampler, DistributedSampler


class TrainerBatches:
    """A Trainer's loader, on the device and through the hooks of a batch, as in its own loops."""

    def __init__(self, trainer: Any, loader: Any, limit: float) -> None:
        self.trainer, self.loader = trainer, loader
        self.limit = None if limit == float("inf") else int(limit)
        # whose generators the sweep puts back
        self.generator = getattr(loader, "generator", None)
        self.sampler = getattr(loader, "sampler", None)

    def __iter__(self) -> Iterator[Any]:
        for raw in islice(_without_repeats(self.loader), self.limit):
            converted = self.trainer.precision_plugin.convert_input(raw)
            converted = self.trainer.lightning_module._on_before_batch_transfer(converted)
            yield self.trainer.strategy.batch_to_device(converted)


def _without_repeats(loader: Any) -> Iterator[Any]:
    """A loader's batches without the samples that even out the processes, so that all count once.

    torch's DistributedSampler, which Lightning puts in, fills up the last places with the first
    samples.
    """
    sampler = getattr(loader, "sampler", None)
    own = size = 0
    if isinstance(sampler, DistributedSampler) and type(loader.batch_sampler) is BatchSampler:
        samples = len(sampler.dataset)  # type: ignore[arg-type]
        own = len(range(sampler.rank, samples, sampler.num_replicas))
        size = loader.batch_size
    for start, batch in zip(count(0, size), loader):
        if own and own < min(start + size, len(sampler)):  # type: ignore[arg-type]
            left = list(sampler)[start:own]  # type: ignore[arg-type]
            if left:
                yield loader.collate_fn([loader.dataset[index] for index in left])
            return
        yield batch


def global_seed() -> int | None:
    """What Lightning's ``seed_everything`` left for other processes to find."""
    seed = os.environ.get("PL_GLOBAL_SEED")
    return None if seed is None else int(seed)
