"""The batches of a data module, as a Trainer would give them to the model."""

import logging
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import islice
from typing import Any

from pytorch_lightning import LightningDataModule, LightningModule, Trainer
from pytorch_lightning.utilities import CombinedLoader
from torch.utils._pytree import tree_leaves

from ewnprune.callback.batches import seed_draws

_HOOKS = ("on_before_batch_transfer", "transfer_batch_to_device", "on_after_batch_transfer")


@dataclass(frozen=True)
class Batches:
    """A data module's batches, through the hooks of a batch, as ``(inputs, targets)`` or else.

    Attributes:
        data: the data module.
        model: whose hooks are called where the data module has none of its own.
        loader: the data module's loader.
        split: of what: ``"val"``, ``"test"`` or ``"train"``.
        first: only so many, drawn under a seed.
        seed: that seed.
    """

    data: LightningDataModule
    model: LightningModule
    loader: Any
    split: str
    first: int | None = None
    seed: int | None = None

    @classmethod
    def of(cls, data: LightningDataModule, model: LightningModule, split: str) -> "Batches | None":
        """The first loader of a split, or None."""
        data.setup({"val": "validate", "train": "fit"}.get(split, split))
        # absent hooks raise MisconfigurationException, which is no part of the public interface
        hook = f"{split}_dataloader"
        if getattr(type(data), hook) is getattr(LightningDataModule, hook):
            return None
        found = getattr(data, hook)()
        loaders = tree_leaves(found.iterables if isinstance(found, CombinedLoader) else found)
        return cls(data, model, loaders[0], split) if loaders and loaders[0] is not None else None

    def __iter__(self) -> Iterator[Any]:
        if self.first is not None:
            seed_draws(self.loader, self.seed)
        before, move, after = map(self._hook, _HOOKS)
        trainer = self._trainer() if before or move or after else None
        for batch in islice(self.loader, self.first):
            with self._under(trainer):
                batch = before(batch, 0) if before else batch
                batch = move(batch, self.model.device, 0) if move else batch
                batch = after(batch, 0) if after else batch
            yield batch

    def _hook(self, name: str) -> Callable[..., Any] | None:
        """The data module's, else the model's, as in Lightning; None where neither has one."""
        for owner, base in ((self.data, LightningDataModule), (self.model, LightningModule)):
            if getattr(type(owner), name) is not getattr(base, name):
                return getattr(owner, name)  # type: ignore[no-any-return]
        return None

    def _trainer(self) -> Trainer:
        """A Trainer that does what is done with such data, as far as hooks can see."""
        logging.getLogger("pytorch_lightning").setLevel(logging.WARNING)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # that there is a GPU, which is not used
            trainer = Trainer(
                accelerator="cpu",
                devices=1,
                logger=False,
                enable_checkpointing=False,
                enable_progress_bar=False,
                enable_model_summary=False,
            )
        trainer.datamodule = self.data  # type: ignore[attr-defined]  # as its fit does
        trainer.strategy.connect(self.model)
        trainer.training = self.split == "train"
        trainer.validating = self.split == "val"
        trainer.testing = self.split == "test"
        return trainer

    @contextmanager
    def _under(self, trainer: Trainer | None) -> Iterator[None]:
        """Hooks may ask the Trainer what it does: no images are distorted to validate on them."""
        self.model.trainer = self.data.trainer = trainer
        try:
            yield
        finally:
            self.model.trainer = self.data.trainer = None  # without one `log` does nothing
