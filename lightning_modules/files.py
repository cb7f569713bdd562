"""MNIST's and Fashion-MNIST's four files: where they may lie, and reading them checked."""

from __future__ import annotations

import gzip
import hashlib
import os
import zlib
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

ENVIRONMENT_VARIABLE = "EWNPRUNE_DATA_DIR"
TRAIN_IMAGES, TRAIN_LABELS = "train-images-idx3-ubyte", "train-labels-idx1-ubyte"
TEST_IMAGES, TEST_LABELS = "t10k-images-idx3-ubyte", "t10k-labels-idx1-ubyte"
FILES = (TRAIN_IMAGES, TRAIN_LABELS, TEST_IMAGES, TEST_LABELS)

# SHA-256 of the unpacked files, in the order of FILES
_SUMS = {
    "MNIST": (
        "ba891046e6505d7aadcbbe25680a0738ad16aec93bde7f9b65e87a2fc25776db",
        "65a50cbbf4e906d70832878ad85ccda5333a97f0f4c3dd2ef09a8a9eef7101c5",
        "0fa7898d509279e482958e8ce81c8e77db3f2f8254e26661ceb7762c4d494ce7",
        "ff7bcfd416de33731a308c3f266cc351222c34898ecbeaf847f06e48f7ec33f2",
    ),
    # of the files whose gzip forms have the MD5 sums in torchvision.datasets.FashionMNIST.resources
    "FashionMNIST": (
        "c59f468a2f672dc815687fe0f83887768d799fd8a3f3276145d20f83aa44d888",
        "bad3541b69d912435c50bb6ba87bec294ff4f6a2e1246121d8633921760443d9",
        "5b4141f0afbad91edebe8549f8fcffe087ea10ca49f1dbef5c9a5cd8815ce37b",
        "0402a96d92fd2663957122ceb108a494c5af83dab82d92729df917d7dec38c34",
    ),
}
SHA256 = {name: dict(zip(FILES, sums, strict=True)) for name, sums in _SUMS.items()}
DEBIAN_FASHION = Path("/usr/share/datasets/fashion-mnist")  # of its package dataset-fashion-mnist


class CorruptFileError(ValueError):
    """A file does not hold what its name promises; `path` is the file."""

    def __init__(self, path: Path, message: str) -> None:
        super().__init__(message)
        self.path = path


def cache_dir() -> Path:
    """The folder in this user's cache that downloads go to unless another is given."""
    cache = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    return Path(cache) / "ewnprune"


def data_root(data_dir: str | Path | None) -> Path:
    """The folder to look in: the one given, else the environment's, else the user's cache.

    Raises:
        NotADirectoryError: If it is a file.
    """
    root = _given(data_dir) or cache_dir()
    if root.exists() and not root.is_dir():
        raise NotADirectoryError(f"data_dir is {root}, a file; expected a folder")
    return root


def in_cache(data_dir: str | Path | None) -> bool:
    """Whether the files are in the user's cache, where nobody else has put any."""
    return _given(data_dir) is None


def _given(data_dir: str | Path | None) -> Path | None:
    given = data_dir or os.environ.get(ENVIRONMENT_VARIABLE)
    return Path(given).expanduser() if given else None


def find(root: Path, name: str) -> Path | None:
    """The folder that holds all four files of data set `name`, plain or gzipped, or None.

    Looks in torchvision's layout below `root`, in `root` itself and, for Fashion-MNIST, where
    Debian's package puts it.
    """
    folders = [root / name / "raw", root]
    if name == "FashionMNIST":
        folders.append(DEBIAN_FASHION)
    for folder in folders:
        if all(_path(folder, file) for file in FILES):
            return folder
    return None


def read(folder: Path, name: str, file: str) -> NDArray[np.uint8]:
    """One of the four files of data set `name`: pixels ``(N, 28, 28)`` or labels ``(N,)``.

    Raises:
        FileNotFoundError: If it is not in `folder`.
        CorruptFileError: If its SHA-256 is not the known one.
    """
    path = _path(folder, file)
    if path is None:
        raise FileNotFoundError(f"{folder / file} has gone: run again to get it")
    content = path.read_bytes()
    if path.suffix == ".gz":
        try:
            content = gzip.decompress(content)
        except (gzip.BadGzipFile, EOFError, zlib.error) as error:
            message = f"{path} is damaged ({error}): delete it and run again to get it anew"
            raise CorruptFileError(path, message) from error
    check(content, path, name, file)
    # the checksum vouches for the header: 4 bytes, and 4 for each dimension
    if file in (TRAIN_LABELS, TEST_LABELS):
        return np.frombuffer(content, np.uint8, offset=8)
    return np.frombuffer(content, np.uint8, offset=16).reshape(-1, 28, 28)


def check(content: bytes, path: Path, name: str, file: str) -> None:
    """Raises `CorruptFileError` unless `content` of `path` is file `file` of data set `name`."""
    expected, got = SHA256[name][file], hashlib.sha256(content).hexdigest()
    if got == expected:
        return
    for other, sums in SHA256.items():
        if got in sums.values():
            message = f"{path} is a file of {other}, expected {file} of {name}: give another folder"
            raise CorruptFileError(path, message)
    raise CorruptFileError(
        path,
        f"{path} is damaged ({len(content)} bytes with SHA-256 {got[:12]}..., expected "
        f"{expected[:12]}...): delete it and run again to get it anew",
    )


def _path(folder: Path, file: str) -> Path | None:
    for path in (folder / file, folder / f"{file}.gz"):
        if path.is_file():
            return path
    return None
