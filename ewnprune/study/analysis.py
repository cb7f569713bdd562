"""What is made of a study's points: choices on validation data, and what test data show of them."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import yaml

from ewnprune.curve.curve import Curve
from ewnprune.curve.files import read_curve
from ewnprune.study.checklist import Item, reporting_items
from ewnprune.study.evidence import Evidence
from ewnprune.study.labels import Label, labels_of
from ewnprune.study.limits import caveats, edges, guesses
from ewnprune.study.methods import METHODS
from ewnprune.study.recorded import Recorded, recorded_runs
from ewnprune.study.statistics import Difference, Summary, chosen, differences, summaries


@dataclass(frozen=True)
class Study:
    """What a study's points show.

    Attributes:
        curve: the points reported: one score per method, on test data where there are any.
        split: which data `curve` is on.
        taken: for each method the label and score that were chosen.
        reference: what the others are compared with.
        differences: paired, per method and level.
        summaries: per method.
        items: the checklist.
        caveats: what the number of seeds, and the grids of strengths, cannot show.
    """

    curve: Curve
    split: str
    taken: dict[str, tuple[str, str]]
    reference: str
    differences: list[Difference]
    summaries: list[Summary]
    items: list[Item]
    caveats: list[str]


def analyse(points: Curve, reference: str, runs: Sequence[Recorded] = ()) -> Study:
    """Choose on validation data, and compare on test data.

    Args:
        points: of all candidates, scores and splits.
        reference: the method that the others are compared with.
        runs: what the runs recorded, for the checklist.
    """
    best, taken = chosen(points)
    split = "test" if best.where(split="test").points else "val"
    curve = best.where(split=split)
    known = [Label.parse(label).method for label in labels_of(curve)]
    reference = reference if reference in known else known[0]
    return Study(
        curve,
        split,
        taken,
        reference,
        differences(curve, reference),
        summaries(curve),
        reporting_items(curve, taken, runs),
        caveats(curve) + guesses(points, taken) + edges(points, taken),
    )


def gather(folder: Path) -> Evidence:
    """Read a study's folder.

    Raises:
        FileNotFoundError: it holds no points.csv.
    """
    if not (folder / "points.csv").is_file():
        raise FileNotFoundError(
            f"{folder} holds no points.csv: expected the folder of a study with a finished run; "
            f"make one with ewnprune compare --folder {folder}"
        )
    path = folder / "study.yaml"
    settings = yaml.safe_load(path.read_text(encoding="utf-8")) if path.is_file() else {}
    points, runs = read_curve(folder / "points.csv"), recorded_runs(folder)
    own = settings.get("own") or {}
    trains = {name: method.trains for name, method in METHODS.items() if method.trains}
    trains = {name: taken for name, taken in trains.items() if name not in own}
    trains |= {name: method["trains"] for name, method in own.items() if method.get("trains")}
    study = analyse(points, settings.get("reference", "none"), runs)
    return Evidence(folder, settings, points, study, runs, trains)
