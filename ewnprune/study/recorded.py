"""What the runs of a study recorded of themselves; of older runs, or lost ones, there is less."""

import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from ewnprune.files import read_rows
from ewnprune.study.versions import VERSIONS

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
        """How long the attempt that trained it took, and measuring, however often."""
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
    """The runs that lie in a study's folder, unfinished ones too; of those made again one each."""
    found: dict[Any, Recorded] = {}
    for path in by_age(path.parent for path in folder.glob(f"runs/*/{SETTINGS}")):
        settings = json.loads((path / SETTINGS).read_text(encoding="utf-8"))
        method, seed, part = (settings[key] for key in ("method", "seed", "part"))
        fit = settings.get("fit", {})
        found[method, seed, part] = Recorded(path, method, seed, part, fit, _versions(path))
    return sorted(found.values(), key=lambda run: run.folder)


def by_age(folders: Iterable[Path]) -> list[Path]:
    """The folders of runs, unfinished ones before others, which come in the order they finished.

    A run is made again where its options are others than before. Of all that are alike the last
    counts.
    """
    told = {folder: _versions(folder) for folder in folders}
    return sorted(told, key=lambda at: (bool(told[at]), told[at].get("finished", ""), at.name))


def _versions(folder: Path) -> dict[str, str]:
    path = folder / VERSIONS
    return json.loads(path.read_text(encoding="utf-8")) if path.is_file() else {}
