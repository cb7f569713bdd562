"""Where a path leads, and files that are replaced at once or not at all."""

import csv
import os
import re
import tempfile
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any


def local_path(path: str | os.PathLike[str]) -> Path:
    """A path as the user means it, with the home folder in the place of ``~``.

    A shell leaves ``~`` in ``--option=~/folder`` as it is, and a YAML file has no shell.

    Raises:
        ValueError: it leads to another machine; our files would go to a folder ``s3:``.

    >>> local_path("runs/version_0").as_posix()
    'runs/version_0'
    >>> local_path("s3://bucket/runs")
    Traceback (most recent call last):
    ValueError: s3://bucket/runs: expected a path on this machine, not an address
    """
    if re.match(r"\w[\w+.-]+:/", os.fspath(path)):  # one slash is left of two in a Path
        raise ValueError(f"{path}: expected a path on this machine, not an address")
    return Path(os.path.expanduser(path))


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
        with open(name, "rb+") as written:  # Windows flushes only what can be written to
            os.fsync(written.fileno())  # else the new name may reach the disk before the content
        os.chmod(name, 0o666 & ~_umask())  # mkstemp gives a file for its owner alone
        os.replace(name, path)
    except BaseException:
        os.unlink(name)
        raise


def write_text(path: str | os.PathLike[str], text: str) -> None:
    """Write a file of UTF-8, line ends as they are, at once or not at all."""
    with replacing(path) as unfinished:
        unfinished.write_text(text, encoding="utf-8", newline="")


def write_rows(
    path: str | os.PathLike[str],
    rows: Iterable[Mapping[str, Any]],
    columns: Sequence[str] | None = None,
    line_end: str = "\r\n",
) -> None:
    """Write a CSV file, at once or not at all.

    Args:
        path: the file.
        rows: a cell that a row lacks is empty.
        columns: by default those that any row has, in order of first appearance.
        line_end: of every line.

    Raises:
        ValueError: a row has other columns than those given.
    """
    rows = list(rows)
    if columns is None:
        columns = list(dict.fromkeys(name for row in rows for name in row))
    with replacing(path) as unfinished, open(unfinished, "w", encoding="utf-8", newline="") as file:
        writer = csv.DictWriter(file, columns, lineterminator=line_end)
        writer.writeheader()
        writer.writerows(rows)


def read_rows(path: str | os.PathLike[str]) -> list[dict[str, str]]:
    """The rows of a CSV file; none where there is no file.

    Raises:
        OSError: it cannot be read.
    """
    path = Path(path)
    if not path.is_file():
        return []
    with path.open(encoding="utf-8", newline="") as file:
        return [*csv.DictReader(file)]


def _umask() -> int:
    mask = os.umask(0o077)
    os.umask(mask)
    return mask
