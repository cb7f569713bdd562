"""The authors' logged results, https://github.com/DepenM/Exp-WN, as CSV files."""

import csv
from importlib.resources import files


def read(name: str) -> list[dict[str, str]]:
    """The rows of ``<name>.csv``.

    >>> read("simple_traj_endpoints")[0]["steps"]
    '57'
    """
    with (files(__name__) / f"{name}.csv").open(encoding="utf-8") as file:
        return list(csv.DictReader(file))
