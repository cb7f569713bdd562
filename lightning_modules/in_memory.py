"""What data modules of images that lie in memory have in common: split, loaders, going on."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
import pytorch_lightning as pl
import torch
from torch import Tensor

from lightning_modules.loader import ImageLoader


class Images(NamedTuple):
    """Images and their classes.

    Attributes:
        pixels: ``(N, H, W)`` or ``(N, C, H, W)`` uint8.
        labels: ``(N,)`` int64.
    """

    pixels: Tensor
    labels: Tensor


class InMemoryImages(pl.LightningDataModule):
    """Images held in memory as one uint8 tensor; a subclass says where they come from.

    Args:
        batch_size: Number of images in a batch (of each process).
        val_size: Number of training images held out for validation.
        seed: Chooses the split, the order of every epoch, the shifts and the flips.
        shift: Training images are moved by up to so many pixels each way, at random and anew in
            every epoch; see `ImageLoader`.
        flip: Whether half of the training images, drawn anew in every epoch, are mirrored.

    Attributes:
        mean: Mean pixel of the training images where white is 1, or that of each channel.
        std: Standard deviation, likewise.

    Raises:
        ValueError: If a number is out of range.
    """

    mean: float | Sequence[float]
    std: float | Sequence[float]

    def __init__(
        self, batch_size: int, val_size: int, seed: int, shift: int, flip: bool = False
    ) -> None:
        super().__init__()
        if batch_size < 1:
            raise ValueError(f"batch_size must be at least 1, got {batch_size}")
        if val_size < 0:
            raise ValueError(f"val_size must not be negative, got {val_size}")
        if shift < 0:
            raise ValueError(f"shift must not be negative, got {shift}")
        if seed < 0:
            raise ValueError(f"seed must not be negative, got {seed}")
        self.batch_size = batch_size
        self.val_size = val_size
        self.seed = seed
        self.shift = shift
        self.flip = flip
        self._parts: dict[str, Images] = {}
        self._resume: dict[str, int] | None = None

    def read(self) -> tuple[Images, Images]:
        """Training and test images; sets what is known of them only then."""
        raise NotImplementedError

    def setup(self, stage: str | None = None) -> None:
        """Reads and checks the images, splits them and moves them to the trainer's device.

        Raises:
            FileNotFoundError: If there are none.
            ValueError: If they are not what is expected, or fewer than `val_size`.
        """
        if not self._parts:
            train, test = self.read()
            if self.val_size >= len(train.labels):
                raise ValueError(
                    f"val_size must be less than the {len(train.labels)} training images, got "
                    f"{self.val_size}"
                )
            order = torch.from_numpy(np.random.default_rng(self.seed).permutation(len(train[0])))
            val, rest = order[: self.val_size].sort()[0], order[self.val_size :].sort()[0]
            self._parts = {
                "val": Images(train.pixels[val], train.labels[val]),
                "train": Images(train.pixels[rest], train.labels[rest]),
                "test": test,
            }
        if self.trainer is not None:
            device = self.trainer.strategy.root_device
            moved = {
                k: Images(v.pixels.to(device), v.labels.to(device)) for k, v in self._parts.items()
            }
            self._parts = moved

    def train_dataloader(self) -> ImageLoader:
        """Training images, in an order that `seed` and the epoch choose: ``(x, y)``."""
        # Trainer(overfit_batches=...) wants the same batches in every epoch
        overfit = getattr(self.trainer, "overfit_batches", 0)
        loader = self._loader("train", shuffle=not overfit)
        if self.trainer is not None:
            # resumed at the end of an epoch with max_steps, Lightning sets an epoch too late:
            # https://github.com/Lightning-AI/pytorch-lightning/issues/19617
            trainer = self.trainer
            loader.current_epoch = lambda: trainer.current_epoch
        if self._resume is not None:
            loader.load_state_dict(self._resume)
            self._resume = None
        return loader

    def val_dataloader(self) -> ImageLoader | list[ImageLoader]:
        """Validation images, always in the same order: ``(x, y)``; no loader if there are none."""
        return self._loader("val") if self.val_size else []

    def test_dataloader(self) -> ImageLoader:
        """The data set's test images, always in the same order: ``(x, y)``."""
        return self._loader("test")

    def predict_dataloader(self) -> ImageLoader:
        """The test images without their labels: ``x``."""
        return self._loader("test", labels=False)

    # Lightning itself restores the state of a loader, but not where configure_optimizers asks for
    # the number of steps: https://github.com/Lightning-AI/pytorch-lightning/issues/20550

    def state_dict(self) -> dict[str, int]:
        """Where the iteration over the training images stands."""
        loader = self.trainer.train_dataloader if self.trainer is not None else None
        return loader.state_dict() if isinstance(loader, ImageLoader) else {}

    def load_state_dict(self, state_dict: dict[str, int]) -> None:
        """Makes a resumed fit go on from there."""
        if self.trainer is not None and self.trainer.state.fn == "fit":
            self._resume = state_dict

    def _loader(self, part: str, shuffle: bool = False, labels: bool = True) -> ImageLoader:
        if not self._parts:
            raise RuntimeError("the images are not loaded: call prepare_data() and setup() first")
        share: dict[str, Any] = {}
        if self.trainer is not None and self.trainer.distributed_sampler_kwargs:
            kwargs = self.trainer.distributed_sampler_kwargs
            share = {"rank": kwargs["rank"], "world_size": kwargs["num_replicas"]}
        return ImageLoader(
            self._parts[part].pixels,
            self._parts[part].labels if labels else None,
            self.batch_size,
            mean=self.mean,
            std=self.std,
            shuffle=shuffle,
            seed=self.seed,
            shift=self.shift if part == "train" else 0,
            flip=self.flip and part == "train",
            **share,
        )
