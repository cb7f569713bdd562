"""Files that are replaced at once or not at all."""

import os
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path


@contextmanager
def replacing(path: str | os.PathLike[str]) -> Iterator[Path]:
    """Give a path to write to in place of ``path``; what is written there replaces it at the end.

    On an error ``path`` is left as it was and nothing else is left behind. After a crash of the
    machine there is one file or the other, whole.

    Raises:
        OSError: the folder cannot be written to.
    """
    path = Path(path)
    handle, name = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")
    os.close(handle)
    try:
        yield Path(name)
        os.chmod(name, 0o666 & ~_umask())  # mkstemp gives a file for its owner alone
        with open(name, "rb") as written:
            os.fsync(written.fileno())  # else the new name may reach the disk before the content
        os.replace(name, path)
    except BaseException:
        os.unlink(name)
        raise


def _umask() -> int:
    mask = os.umask(0o077)
    os.umask(mask)
    return mask
