"""Acceptance criteria, the files that an experiment leaves, and reading them again."""

import json
import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from matplotlib.figure import Figure

from ewnprune.columns import align
from ewnprune.drawing import save_figure
from ewnprune.files import write_rows, write_text

FLOAT_FORMAT = "{:.9g}"


@dataclass(frozen=True)
class Criterion:
    """One line of a verdict.

    Attributes:
        id: the row of the acceptance table, such as "X1".
        what: what was measured.
        bound: what it had to be, in words.
        value: what it was.
        passed: whether that is within the bound.
    """

    id: str
    what: str
    bound: str
    value: float
    passed: bool


def below(id: str, what: str, value: float, bound: float) -> Criterion:
    """A criterion that wants ``value < bound``.

    >>> below("A", "error", 0.5, 1.0)
    Criterion(id='A', what='error', bound='< 1', value=0.5, passed=True)
    """
    return Criterion(id, what, f"< {bound:g}", value, value < bound)


def above(id: str, what: str, value: float, bound: float) -> Criterion:
    """A criterion that wants ``value > bound``."""
    return Criterion(id, what, f"> {bound:g}", value, value > bound)


def within(id: str, what: str, value: float, low: float, high: float) -> Criterion:
    """A criterion that wants ``low <= value <= high``."""
    return Criterion(id, what, f"in [{low:g}, {high:g}]", value, low <= value <= high)


def near(id: str, what: str, value: float, target: float, tolerance: float) -> Criterion:
    """A criterion that wants ``|value - target| <= tolerance``."""
    passed = abs(value - target) <= tolerance
    return Criterion(id, what, f"{target:.6g} +- {tolerance:g}", value, passed)


def write_verdict(out: Path, settings: Mapping[str, Any], criteria: Sequence[Criterion]) -> None:
    """Write ``verdict.json``; its presence says that the experiment is finished.

    Where there are no criteria nothing has passed, and nothing failed: ``passed`` is null.
    """
    content = {
        "settings": settings,
        "passed": all(c.passed for c in criteria) if criteria else None,
        # JSON has no NaN
        "criteria": [
            asdict(c) | {"value": c.value if math.isfinite(c.value) else str(c.value)}
            for c in criteria
        ],
    }
    write_text(out / "verdict.json", json.dumps(content, indent=2) + "\n")


def finished(out: Path, settings: Mapping[str, Any]) -> list[Criterion] | None:
    """The criteria of an experiment that was finished with these settings, else None."""
    try:
        content = json.loads((out / "verdict.json").read_text(encoding="utf-8"))
    except FileNotFoundError:
        return None
    if content["settings"] != json.loads(json.dumps(settings)):
        return None
    return [Criterion(**row | {"value": float(row["value"])}) for row in content["criteria"]]


def table(criteria: Iterable[Criterion]) -> str:
    """The criteria as aligned text, one a line."""
    rows = [
        ("pass" if c.passed else "FAIL", c.id, c.what, f"{c.value:.6g}", c.bound) for c in criteria
    ]
    return align(list(zip(*rows, strict=True)), left=5)


def write_csv(path: Path, rows: Iterable[Mapping[str, Any]]) -> None:
    """Write rows; a key that a row lacks is empty there."""
    written = (
        {k: FLOAT_FORMAT.format(v) if isinstance(v, float) else v for k, v in row.items()}
        for row in rows
    )
    write_rows(path, written, line_end="\n")


def write_figure(out: Path, figure: Figure) -> None:
    """Write ``figure.png`` and ``figure.svg``."""
    for suffix in ("png", "svg"):
        save_figure(figure, out / f"figure.{suffix}", dpi=150)
