"""All that a report is made of: a study's points, what they show, and what the runs recorded."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ewnprune.curve.curve import Curve
from ewnprune.study.labels import Label
from ewnprune.study.recorded import Recorded

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
        """The rows of a file of every run whose points are shown, by the names they are shown by.

        Args:
            name: of the file; where it has a column of scores, rows of other scores are left out.
            shared: whether methods that train nothing have those of the runs they take.
        """
        rows: list[dict[str, Any]] = []
        for run in self.runs:
            for method, (label, score) in self.study.taken.items():
                trained = self.trained(label) if shared else label
                if trained == run.method and run.part is None:
                    tags = {"method": method, "seed": run.seed}
                    lines = run.rows(name)
                    rows += [tags | line for line in lines if line.get("score", score) == score]
        return rows

    def trained(self, label: str) -> str:
        """The label that the runs of a method bear, where it ranks what another has trained."""
        parsed = Label.parse(label)
        return str(replace(parsed, method=self.trains.get(parsed.method, parsed.method)))

    def runs_of(self, method: str) -> list[Recorded]:
        """The runs whose points are shown under a label."""
        label = self.trained(self.study.taken[method][0])
        return [run for run in self.runs if run.method == label]
