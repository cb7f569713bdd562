"""A folder of images by class for Lightning, held in memory as one tensor."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor
from torchvision import datasets

from lightning_modules.files import CorruptFileError
from lightning_modules.in_memory import Images, InMemoryImages


class ImageFolderDataModule(InMemoryImages):
    """Images of one size in ``train/<class>/`` and ``test/<class>/``, held as one uint8 tensor.

    Pixels are normalized by mean and standard deviation of each channel over the images of
    ``train``. Training and validation images are a seeded split of those; with ``val_size=0`` there
    is no validation. Nothing is written.

    Args:
        data_dir: Folder with ``train`` and ``test``, each with a folder of images for every class.
            Classes are numbered in the order of their names.
        batch_size: Number of images in a batch (of each process).
        val_size: Number of images held out for validation.
        seed: Chooses the split, the order of every epoch, the shifts and the flips.
        shift: Training images are moved by up to so many pixels each way, at random and anew in
            every epoch; what moves in is black.
        flip: Whether half of the training images, drawn anew in every epoch, are mirrored.

    Attributes:
        classes: Names of the classes, known after `setup`.

    Raises:
        ValueError: If a number is out of range.
    """

    classes: tuple[str, ...] = ()

    def __init__(
        self,
        data_dir: str | Path,
        batch_size: int = 128,
        val_size: int = 0,
        seed: int = 0,
        shift: int = 0,
        flip: bool = False,
    ) -> None:
        super().__init__(batch_size, val_size, seed, shift, flip)
        self.save_hyperparameters(ignore=["data_dir"])  # another machine has other folders
        self.data_dir = data_dir

    @property
    def num_classes(self) -> int:
        """How many classes there are, known after `setup`."""
        return len(self.classes)

    def read(self) -> tuple[Images, Images]:
        """Training and test images.

        Raises:
            FileNotFoundError: If a folder or a class has none.
            CorruptFileError: If a file is no image.
            ValueError: If sizes, colours or classes differ, or all pixels of a channel are alike.
        """
        train, test, self.classes = read_folder(Path(self.data_dir).expanduser())
        self.mean, self.std = statistics(train.pixels)
        if 0 in self.std:
            raise ValueError(
                f"all pixels of a channel are alike in {self.data_dir}: expected images that differ"
            )
        return train, test


def read_folder(folder: Path) -> tuple[Images, Images, tuple[str, ...]]:
    """The images in ``train`` and ``test`` of a folder, and the names of their classes.

    Raises:
        FileNotFoundError: If a folder or a class has none.
        CorruptFileError: If a file is no image.
        ValueError: If sizes, colours or classes differ.
    """
    for part in ("train", "test"):
        if not (folder / part).is_dir():
            raise FileNotFoundError(
                f"there is no folder {folder / part}: expected {folder}/train/<class>/*.png and "
                f"{folder}/test/<class>/*.png"
            )
    (train, classes), (test, others) = _read_part(folder / "train"), _read_part(folder / "test")
    if classes != others:
        name = sorted(set(classes) ^ set(others))[0]
        raise ValueError(f"class {name!r} is not in both train and test of {folder}")
    if train.pixels.shape[1:] != test.pixels.shape[1:]:
        sizes = [" x ".join(map(str, part.pixels.shape[1:])) for part in (train, test)]
        raise ValueError(
            f"images in {folder} are {sizes[0]} in train and {sizes[1]} in test: expected one "
            "size, and grey or coloured images in both"
        )
    return train, test, classes


def statistics(pixels: Tensor) -> tuple[list[float], list[float]]:
    """Mean and standard deviation of each channel of images, where white is 1.

    >>> statistics(torch.tensor([0, 255], dtype=torch.uint8).view(2, 1, 1))
    ([0.5], [0.5])
    """
    means, deviations = [], []
    for channel in [pixels] if pixels.dim() == 3 else pixels.unbind(1):
        # by how often each value comes: exact, and without the pixels as floats
        counts = torch.bincount(channel.flatten(), minlength=256).double()
        values, share = torch.arange(256, device="cpu").double() / 255, counts / counts.sum()
        mean = (share * values).sum()
        means.append(mean.item())
        deviations.append((share * (values - mean).square()).sum().sqrt().item())
    return means, deviations


def _read_part(folder: Path) -> tuple[Images, tuple[str, ...]]:
    found = datasets.ImageFolder(str(folder))
    arrays = [_read(Path(path)) for path, _ in found.samples]
    if any(array.ndim == 3 for array in arrays):  # a grey image among coloured ones is one of them
        arrays = [a if a.ndim == 3 else np.repeat(a[:, :, None], 3, 2) for a in arrays]
    for (path, _), array in zip(found.samples, arrays, strict=True):
        if array.shape != arrays[0].shape:
            (height, width), (first, second) = array.shape[:2], arrays[0].shape[:2]
            raise ValueError(
                f"{path} is {height} x {width} pixels and {found.samples[0][0]} is {first} x "
                f"{second}: expected images of one size; resize them first"
            )
    pixels = torch.from_numpy(np.stack(arrays))
    if pixels.dim() == 4:
        pixels = pixels.permute(0, 3, 1, 2).contiguous()
    return Images(pixels, torch.tensor(found.targets)), tuple(found.classes)


def _read(path: Path) -> NDArray[np.uint8]:
    """Pixels ``(H, W)`` of a grey image or ``(H, W, 3)`` of a coloured one."""
    try:
        with Image.open(path) as image:
            if image.mode == "P":
                return np.asarray(image.convert("RGB"))
            mode, array = image.mode, np.asarray(image)
    except (OSError, SyntaxError, ValueError) as error:  # Pillow's for what it cannot read
        reason = " ".join(str(error).split())[:100]
        raise CorruptFileError(path, f"{path} cannot be read as an image ({reason})") from error
    if mode not in ("L", "RGB"):
        raise ValueError(
            f"{path} is of mode {mode}: expected 8 bits of grey (L) or of three colours (RGB); "
            "convert it first"
        )
    return array
