"""MNIST and Fashion-MNIST for Lightning, held in memory as one tensor."""

from __future__ import annotations

from pathlib import Path
from typing import Literal

import torch
from torch import Tensor

from lightning_modules.fetch import fetch
from lightning_modules.files import (
    TEST_IMAGES,
    TEST_LABELS,
    TRAIN_IMAGES,
    TRAIN_LABELS,
    data_root,
    find,
    in_cache,
    read,
)
from lightning_modules.in_memory import Images, InMemoryImages

# mean and standard deviation of the training pixels, where white is 1
_STATISTICS = {"MNIST": (0.1307, 0.3081), "FashionMNIST": (0.2860, 0.3530)}


class MNISTDataModule(InMemoryImages):
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
        if not 0 <= val_size < 60_000:
            raise ValueError(
                f"val_size must be from 0 to 59999 of the 60,000 training images, got {val_size}"
            )
        super().__init__(batch_size, val_size, seed, shift)
        self.save_hyperparameters(ignore=["data_dir"])  # another machine has other folders
        self.data_dir = data_dir
        self.name: Literal["MNIST", "FashionMNIST"] = "FashionMNIST" if fashion else "MNIST"
        self.mean, self.std = _STATISTICS[self.name]

    def prepare_data(self) -> None:
        """Gets the files where they are missing; Lightning calls this in one process of a machine.

        Raises:
            CorruptFileError: If a file is damaged. Only in the user's cache folder is it replaced.
            RuntimeError: If no way to get the files works.
            OSError: If they cannot be stored.
        """
        root = data_root(self.data_dir)
        fetch(root, self.name, replace=in_cache(self.data_dir))

    def read(self) -> tuple[Images, Images]:
        """The 60,000 training and 10,000 test images; checks their SHA-256.

        Raises:
            FileNotFoundError: If `prepare_data` has not run.
            CorruptFileError: If a file is damaged.
        """
        root = data_root(self.data_dir)
        folder = find(root, self.name)
        if folder is None:
            raise FileNotFoundError(
                f"no {self.name} in {root}: call prepare_data() first, as the Trainer does"
            )

        def tensor(file: str) -> Tensor:
            return torch.from_numpy(read(folder, self.name, file).copy())

        train = Images(tensor(TRAIN_IMAGES), tensor(TRAIN_LABELS).long())
        return train, Images(tensor(TEST_IMAGES), tensor(TEST_LABELS).long())
