"""What the runs of a study recorded of themselves; of older runs, or lost ones, there is less."""

import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import yaml

from ewnprune.files import read_rows
from ewnprune.study.labels import Label

SETTINGS = "run.json"
"""The file of a run that says what it is."""

_TRAINING = "training.csv"


@dataclass(frozen=True)
class Recorded:
    """A run as its folder tells it.

    Attributes:
        folder: where it lies.
        method: the label of what was trained.
        seed: its seed.
        part: the level that this run alone is the point of, if it is one.
        fit: its options.
        versions: what it ran with and on; empty until it is finished.
    """

    folder: Path
    method: str
    seed: int
    part: float | None
    fit: Mapping[str, Any]
    versions: Mapping[str, str]

    def rows(self, name: str) -> list[dict[str, str]]:
        """The rows of one of its CSV files; none where it is not there."""
        return read_rows(self.folder / name)

    @property
    def epochs(self) -> int:
        """How many it trained; 0 where that is not known."""
        return max((int(row["epoch"]) + 1 for row in self.rows(_TRAINING)), default=0)

    @property
    def seconds(self) -> float | None:
        """How long its last attempt took, measuring included."""
        value = self.versions.get("seconds")
        return None if value is None else float(value)

    @property
    def checkpoint(self) -> Path:
        """Its trained network."""
        return self.folder / "checkpoints/final.ckpt"

    def whole_config(self) -> dict[str, Any]:
        """All options of its first fit, those by default too; empty where they are not there."""
        path = self.folder / "fit_0/config.yaml"
        return yaml.safe_load(path.read_text(encoding="utf-8")) if path.is_file() else {}


def recorded_runs(folder: Path) -> list[Recorded]:
    """The runs that lie in a study's folder, unfinished ones too."""
    found = []
    for path in sorted(folder.glob(f"runs/*/{SETTINGS}")):
        settings = json.loads(path.read_text(encoding="utf-8"))
        versions = path.parent / "versions.json"
        told = json.loads(versions.read_text(encoding="utf-8")) if versions.is_file() else {}
        method, seed, part = (settings[key] for key in ("method", "seed", "part"))
        fit = settings.get("fit", {})
        found.append(Recorded(path.parent, method, seed, part, fit, told))
    return found


def trained_as(label: str, trains: Mapping[str, str]) -> str:
    """The label that the runs of a method bear, where it ranks what another has trained.

    Args:
        label: the method's.
        trains: by the name of a method whose runs it takes.

    >>> trained_as("random @ epochs=5", {"random": "none"})
    'none @ epochs=5'
    """
    parsed = Label.parse(label)
    return str(replace(parsed, method=trains.get(parsed.method, parsed.method)))


def rows_of(
    runs: Iterable[Recorded],
    taken: Mapping[str, tuple[str, str]],
    name: str,
    trains: Mapping[str, str] | None = None,
) -> list[dict[str, Any]]:
    """The rows of a file of every run whose points are shown, under the names they are shown by.

    Args:
        runs: the runs.
        taken: for each method the label and score that were chosen, see `statistics.chosen`.
        name: of the file; where it has a column of scores, rows of other scores are left out.
        trains: see `trained_as`; without, methods that train nothing have no rows.
    """
    rows: list[dict[str, Any]] = []
    for run in runs:
        for method, (label, score) in taken.items():
            if trained_as(label, trains or {}) == run.method and run.part is None:
                tags = {"method": method, "seed": run.seed}
                lines = run.rows(name)
                rows += [tags | line for line in lines if line.get("score", score) == score]
    return rows
