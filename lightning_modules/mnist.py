"""MNIST and Fashion-MNIST for Lightning, held in memory as one tensor."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Literal

import numpy as np
import pytorch_lightning as pl
import torch
from torch import Tensor

from lightning_modules.fetch import fetch
from lightning_modules.files import (
    TEST_IMAGES,
    TEST_LABELS,
    TRAIN_IMAGES,
    TRAIN_LABELS,
    cache_dir,
    data_root,
    find,
    read,
)
from lightning_modules.loader import ImageLoader

# mean and standard deviation of the training pixels, where white is 1
_STATISTICS = {"MNIST": (0.1307, 0.3081), "FashionMNIST": (0.2860, 0.3530)}


class MNISTDataModule(pl.LightningDataModule):
    """MNIST, or Fashion-MNIST: fetched if need be, checked, and held in memory as one uint8 tensor.

    Training and validation images are a seeded split of the 60,000 training images; the test images
    are always the data set's own 10,000. With ``val_size=0`` all 60,000 train and there is *no*
    validation: `val_dataloader` gives no loader, so nothing is ever chosen on test images. Give the
    Trainer ``limit_val_batches=0`` with it, or Lightning warns that there is nothing to validate.

    Args:
        data_dir: Folder that holds the four files, or torchvision's ``MNIST/raw`` with them; where
            they are missing they are fetched into it. None: the environment variable
            ``EWNPRUNE_DATA_DIR``, else ``ewnprune`` in the user's cache folder.
        fashion: Fashion-MNIST instead of MNIST.
        batch_size: Number of images in a batch (of each process).
        val_size: Number of images held out for validation, from 0 to 59,999.
        seed: Chooses the split, the order of every epoch and the shifts.
        shift: Training images are moved by up to so many pixels each way, at random and anew in
            every epoch.

    Raises:
        ValueError: If a number is out of range.

    Example:
        >>> from lightning_modules import MNISTDataModule
        >>> data = MNISTDataModule(batch_size=256, val_size=10_000)
        >>> data.num_classes
        10
    """

    num_classes = 10

    def __init__(
        self,
        data_dir: str | Path | None = None,
        fashion: bool = False,
        batch_size: int = 128,
        val_size: int = 5000,
        seed: int = 0,
        shift: int = 0,
    ) -> None:
        super().__init__()
        if batch_size < 1:
            raise ValueError(f"batch_size must be at least 1, got {batch_size}")
        if not 0 <= val_size < 60_000:
            raise ValueError(
                f"val_size must be from 0 to 59999 of the 60,000 training images, got {val_size}"
            )
        if shift < 0:
            raise ValueError(f"shift must not be negative, got {shift}")
        if seed < 0:
            raise ValueError(f"seed must not be negative, got {seed}")
        self.save_hyperparameters(ignore=["data_dir"])  # another machine has other folders
        self.data_dir = data_dir
        self.name: Literal["MNIST", "FashionMNIST"] = "FashionMNIST" if fashion else "MNIST"
        self.batch_size = batch_size
        self.val_size = val_size
        self.seed = seed
        self.shift = shift
        self._images: dict[str, Tensor] = {}
        self._labels: dict[str, Tensor] = {}
        self._resume: dict[str, int] | None = None

    def prepare_data(self) -> None:
        """Gets the files where they are missing; Lightning calls this in one process of a machine.

        Raises:
            CorruptFileError: If a file is damaged. Only in the user's cache folder is it replaced.
            RuntimeError: If no way to get the files works.
            OSError: If they cannot be stored.
        """
        root = data_root(self.data_dir)
        fetch(root, self.name, replace=root == cache_dir())

    def setup(self, stage: str | None = None) -> None:
        """Reads the files, checks their SHA-256 and moves them to the trainer's device.

        Raises:
            FileNotFoundError: If `prepare_data` has not run.
            CorruptFileError: If a file is damaged.
        """
        if not self._images:
            self._load()
        if self.trainer is not None:
            device = self.trainer.strategy.root_device
            self._images = {k: v.to(device) for k, v in self._images.items()}
            self._labels = {k: v.to(device) for k, v in self._labels.items()}

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
        """The data set's 10,000 test images, always in the same order: ``(x, y)``."""
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

    def _load(self) -> None:
        root = data_root(self.data_dir)
        folder = find(root, self.name)
        if folder is None:
            raise FileNotFoundError(
                f"no {self.name} in {root}: call prepare_data() first, as the Trainer does"
            )

        def tensor(file: str) -> Tensor:
            return torch.from_numpy(read(folder, self.name, file).copy())

        images, labels = tensor(TRAIN_IMAGES), tensor(TRAIN_LABELS).long()
        order = torch.from_numpy(np.random.default_rng(self.seed).permutation(len(images)))
        parts = {"val": order[: self.val_size].sort()[0], "train": order[self.val_size :].sort()[0]}
        self._images = {part: images[index] for part, index in parts.items()}
        self._labels = {part: labels[index] for part, index in parts.items()}
        self._images["test"] = tensor(TEST_IMAGES)
        self._labels["test"] = tensor(TEST_LABELS).long()

    def _loader(self, part: str, shuffle: bool = False, labels: bool = True) -> ImageLoader:
        if not self._images:
            raise RuntimeError("the images are not loaded: call prepare_data() and setup() first")
        mean, std = _STATISTICS[self.name]
        share: dict[str, Any] = {}
        if self.trainer is not None and self.trainer.distributed_sampler_kwargs:
            kwargs = self.trainer.distributed_sampler_kwargs
            share = {"rank": kwargs["rank"], "world_size": kwargs["num_replicas"]}
        return ImageLoader(
            self._images[part],
            self._labels[part] if labels else None,
            self.batch_size,
            mean=mean,
            std=std,
            shuffle=shuffle,
            seed=self.seed,
            shift=self.shift if part == "train" else 0,
            **share,
        )
