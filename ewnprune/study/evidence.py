"""All that a report is made of: a study's points, what they show, and what the runs recorded."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ewnprune.curve.curve import Curve
from ewnprune.study.recorded import Recorded, rows_of, trained_as

if TYPE_CHECKING:
    from ewnprune.study.analysis import Study


@dataclass(frozen=True)
class Evidence:
    """What a report is made of.

    Attributes:
        folder: the study's, as the user named it.
        settings: of the study, as in study.yaml; empty where that is not there.
        points: of every candidate, score and split.
        study: what they show.
        runs: what the runs recorded.
        trains: by the name of a method that trains nothing, whose runs it takes.
    """

    folder: Path
    settings: Mapping[str, Any]
    points: Curve
    study: "Study"
    runs: Sequence[Recorded]
    trains: Mapping[str, str]

    def recorded(self, name: str, shared: bool = False) -> list[dict[str, Any]]:
        """The rows of a file of every run whose points are shown; see `recorded.rows_of`.

        Args:
            name: of the file.
            shared: whether methods that train nothing have those of the runs they take.
        """
        return rows_of(self.runs, self.study.taken, name, self.trains if shared else None)

    def trained(self, label: str) -> str:
        """The label that runs bear; see `recorded.trained_as`."""
        return trained_as(label, self.trains)

    def runs_of(self, method: str) -> list[Recorded]:
        """The runs whose points are shown under a label."""
        label = self.trained(self.study.taken[method][0])
        return [run for run in self.runs if run.method == label]
