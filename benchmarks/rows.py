"""Results in a CSV file that grows as they come, so that a study goes on where it was stopped."""

from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any

from ewnprune.files import read_rows, write_rows


def have(
    file: Path, key: Mapping[str, Any], run: Callable[[], Iterable[Mapping[str, Any]]]
) -> None:
    """Run what a file has no row of, and add what comes of it; rows are printed as they come.

    Args:
        file: a CSV file, or where one is to be.
        key: what a row of it would have in some columns.
        run: gives the rows.

    >>> from tempfile import TemporaryDirectory
    >>> with TemporaryDirectory() as folder:
    ...     for seed in (0, 1, 1):
    ...         have(Path(folder) / "a.csv", {"seed": seed}, lambda: [{"seed": seed, "error": 1.5}])
    0 1.5
    1 1.5
    """
    texts = {name: str(value) for name, value in key.items()}
    if any(all(row[name] == text for name, text in texts.items()) for row in read_rows(file)):
        return
    new = []
    for row in run():
        print(*row.values(), flush=True)
        new.append({name: str(value) for name, value in row.items()})
    # read again: another process may have written meanwhile
    write_rows(file, [*read_rows(file), *new], line_end="\n")
