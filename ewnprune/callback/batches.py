"""What a Trainer holds, as plain functions want it: its batches, its seed."""

import os
import random
from collections.abc import Iterator
from contextlib import contextmanager
from copy import copy
from itertools import count, islice
from typing import Any

import numpy as np
import torch
from torch.utils._pytree import tree_leaves
from torch.utils.data import BatchSampler, DataLoader, DistributedSampler, IterableDataset

from ewnprune.errors import reason_of
from ewnprune.model.preserve import evaluating, generators_of
from ewnprune.namespaces import has_own


class TrainerBatches:
    """A Trainer's loader, on the device and through the hooks of a batch, as in its own loops.

    Args:
        trainer: the Trainer.
        loader: the loader.
        limit: how many batches.
        training: whether they are batches of training, which hooks may augment.
    """

    def __init__(self, trainer: Any, loader: Any, limit: float, training: bool = False) -> None:
        self.trainer, self.loader, self.training = trainer, loader, training
        self.limit = None if limit == float("inf") else int(limit)
        # whose generators the sweep puts back
        self.generator = getattr(loader, "generator", None)
        self.sampler = getattr(loader, "sampler", None)
        self.batch_sampler = getattr(loader, "batch_sampler", None)

    def __iter__(self) -> Iterator[Any]:
        for raw in islice(_without_repeats(self.loader), self.limit):
            converted = self.trainer.precision_plugin.convert_input(raw)
            with _stage(self.trainer, self.training):
                converted = self.trainer.lightning_module._on_before_batch_transfer(converted)
                converted = self.trainer.strategy.batch_to_device(converted)
            yield converted


class TrainingBatches(TrainerBatches):
    """The first batches that a training loader gives under the seed of the run.

    It is a loader of their own, so that none is taken from the training, and they are the same in a
    run that was resumed. Random numbers are the caller's to put back, as
    `evaluating` does.

    Attributes:
        of: how many training loaders there are, of which this is the first.
    """

    of = 1

    def __iter__(self) -> Iterator[Any]:
        seed_draws(self.loader, global_seed())
        found = False
        for batch in super().__iter__():
            found = True
            yield batch
        if not found:  # one that was to go on at the end of an epoch begins the next
            yield from super().__iter__()


@contextmanager
def _stage(trainer: Any, training: bool) -> Iterator[None]:
    """The stage that the hooks of a batch ask the Trainer for, as it is in the loop of their data.

    A fit takes curves between two steps of training, and hooks augment where ``trainer.training``.
    """
    before = trainer.state.stage
    if training:
        trainer.training = True
    elif trainer.state.fn == "fit":
        trainer.validating = True
    try:
        yield
    finally:
        trainer.state.stage = before


def seed_draws(loader: Any, seed: int | None) -> None:
    """Seed the global random numbers and `generators_of` a loader; the caller puts them back."""
    seed = (seed or 0) % 2**32
    random.seed(seed)
    np.random.seed(seed)
    torch.manual_seed(seed)
    for generator in generators_of(loader):
        generator.manual_seed(seed)


def training_batches(trainer: Any, pl_module: Any, most: int) -> TrainingBatches | str:
    """Training batches of a Trainer, or the reason why there are none.

    Args:
        trainer: at any time of a fit, or of an evaluation: the training data are then asked of the
            data module.
        pl_module: its module, left as it is.
        most: how many batches.
    """
    fitting = trainer.state.fn == "fit"
    try:
        with evaluating(pl_module):  # random numbers too
            loaders = trainer.train_dataloader if fitting else _asked_for(trainer)
    except Exception as error:  # any code of the user
        return f"the data module gives no training data ({reason_of(error, 100)})"
    flat = tree_leaves(loaders) if loaders is not None else []
    if not flat:
        return "no training data are at hand, which a LightningDataModule would give"
    loader = flat[0]
    if isinstance(loader, Iterator) or isinstance(getattr(loader, "dataset", 0), IterableDataset):
        return "the training data are a stream, and what is taken of it would not be trained on"
    twin = with_own_workers(copy(loader))
    limit = min(most, trainer.num_training_batches) if fitting else most
    batches = TrainingBatches(trainer, twin, limit, training=True)
    batches.of = len(flat)
    return batches


def with_own_workers(loader: Any) -> Any:
    """A loader that leaves another's persistent workers alone, whose batches are trained on.

    Such a DataLoader has one iterator, which whoever iterates over it begins anew.

    Args:
        loader: any; what is no DataLoader comes back as it is.
    """
    if not isinstance(loader, DataLoader):
        return loader
    twin = copy(loader)
    vars(twin)["_iterator"] = None
    return twin


def _asked_for(trainer: Any) -> Any:
    """What the data module gives; of a fit before, the Trainer has forgotten the loaders."""
    data = trainer.datamodule
    # the hook of the base raises an error that is no part of the public interface
    if data is None or not has_own(data, "train_dataloader"):
        return None
    data.setup("fit")
    return data.train_dataloader()


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
