"""Write a network to a file and hold the file against it; a folder that is whole or not there."""

import os
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch

from ewnprune.errors import reason_of
from ewnprune.export.batches import Batches
from ewnprune.export.calling import Calling
from ewnprune.export.formats import Format, Network
from ewnprune.export.trained import Trained
from ewnprune.model.tensors import close, same, tensors_in
from ewnprune.pruning.smaller import largest_difference


def check_file(
    trained: Trained, batches: Batches, calling: Calling, loaded: Network
) -> dict[str, Any]:
    """Compare the file with the network on all batches."""
    total, largest = 0, 0.0
    for batch in batches:
        inputs, _ = trained.pruning.batch(batch)
        expected = calling.outputs(inputs)
        try:
            with torch.no_grad():
                outputs = loaded(inputs)
        except Exception as error:  # of whatever runs the file
            raise ValueError(
                "the network read back from its file does not take a batch that the network itself "
                f"takes ({reason_of(error, 200)}): only the number of samples may vary in "
                "it; try another --format"
            ) from error
        if not same(outputs, expected, close):
            raise ValueError(
                "the network read back from its file gives other outputs than the one "
                "written: this format cannot hold it; try another --format"
            )
        total += len(tensors_in(inputs)[0])
        largest = max(largest, largest_difference(outputs, expected))
    return {"samples": total, "largest_difference_of_file": largest}


def write_network(name: str, kind: Format, calling: Calling, path: Path) -> None:
    """Write a network as a format has it.

    Raises:
        ValueError: the format cannot hold it.
    """
    try:
        kind.write(calling, path)
    except OSError:
        raise
    except Exception as error:  # tracing runs the user's code, which may raise anything
        raise ValueError(
            f"the network cannot be written as {name} ({reason_of(error, 200)}): try "
            "another --format"
        ) from error


def size_of(name: str, kind: Format, calling: Calling) -> int:
    """Bytes of the file that a network is written to, by the name that it would have."""
    with tempfile.TemporaryDirectory() as scratch:
        path = Path(scratch) / kind.file
        write_network(name, kind, calling, path)
        return path.stat().st_size


@contextmanager
def new_folder(folder: Path) -> Iterator[Path]:
    """A folder to write in, which gets its name when all is written, and else goes."""
    scratch = Path(tempfile.mkdtemp(dir=folder.parent, prefix=f".{folder.name}."))
    try:
        whole = scratch / folder.name  # mkdtemp gives a folder for its owner alone
        whole.mkdir()
        yield whole
        for path in whole.iterdir():
            with path.open("rb+") as written:
                os.fsync(written.fileno())
        os.rename(whole, folder)
    finally:
        shutil.rmtree(scratch)
