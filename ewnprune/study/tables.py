"""A study's results as tables: their rows, and its CSV files."""

from pathlib import Path
from typing import TYPE_CHECKING, Any

from ewnprune.curve.equal_size import LEFT
from ewnprune.files import write_rows
from ewnprune.study.estimates import estimate, estimate_accuracy
from ewnprune.study.labels import Label, labels_of
from ewnprune.study.statistics import candidates_of, shared_areas, validation_areas, values_at

if TYPE_CHECKING:
    from ewnprune.study.analysis import Study
    from ewnprune.study.evidence import Evidence

_OF_A_DIFFERENCE = (
    *("method", "reference", "sparsity", "seeds"),
    *("mean", "low", "high", "p", "p_holm"),
)


def level_rows(study: "Study") -> list[dict[str, Any]]:
    """One row per method and level: mean, sample standard deviation, and every seed."""
    rows = []
    for label in labels_of(study.curve):
        of_method = study.curve.where(method=label)
        for level in sorted({point.sparsity for point in of_method}):
            values = values_at(study.curve, label, level)
            found, point = estimate_accuracy(values), of_method.where(sparsity=level).points[0]
            row = {
                "method": label,
                "score": point.score,
                "unit": point.unit,
                "sparsity": level,
                "seeds": len(values),
                "mean": found.mean,
                "sd": found.sd,
                "low": found.low,
                "high": found.high,
            }
            for name in ("neurons", "parameters", "macs"):
                count = getattr(point, name)
                if count is not None:
                    row |= {f"{name}_left": count.left, f"{name}_total": count.total}
            rows.append(row | {f"seed {seed}": value for seed, value in values.items()})
    return rows


def size_rows(study: "Study") -> list[dict[str, Any]]:
    """One row per method, size and fraction left, where neurons are compared with single weights.

    Accuracy at equal parameters, and at equal MACs, between the levels by straight lines.
    """
    if len({point.unit for point in study.curve}) < 2:
        return []
    rows = []
    for size in ("parameters", "macs"):
        for label in labels_of(study.curve):
            of_method = study.curve.where(method=label)
            if any(getattr(point, size) is None for point in of_method):
                continue
            for left in LEFT:
                found = {one.points[0].seed: one.at(left, size) for one in of_method.series()}
                values = {seed: value for seed, value in found.items() if value is not None}
                if len(values) == len(found):
                    rows.append(
                        {
                            "method": label,
                            "unit": of_method.points[0].unit,
                            "size": size,
                            "left": left,
                            "seeds": len(values),
                            "mean": estimate(values).mean,
                            "sd": estimate(values).sd,
                        }
                        | {f"seed {seed}": value for seed, value in values.items()}
                    )
    return rows


def difference_rows(study: "Study") -> list[dict[str, Any]]:
    """One row per method and level compared."""
    return [
        {
            "method": d.method,
            "reference": d.reference,
            "sparsity": d.sparsity,
            "seeds": len(d.estimate.values),
            "mean": d.estimate.mean,
            "low": d.estimate.low,
            "high": d.estimate.high,
            "p": d.p,
            "p_holm": d.p_holm,
        }
        for d in study.differences
    ]


def summary_rows(study: "Study") -> list[dict[str, Any]]:
    """One row per method: its area, and the largest sparsity within 0.5, 1 and 2 points."""
    rows = []
    for summary in study.summaries:
        label, score = study.taken[summary.method]
        row: dict[str, Any] = {"method": summary.method, "taken": label, "score": score}
        if summary.area is not None:
            row |= {"area": summary.area.mean, "area_low": summary.area.low}
            row |= {"area_high": summary.area.high}
        for points, found in summary.within.items():
            row |= {f"within_{points:g}": found.mean, f"within_{points:g}_low": found.low}
            row |= {f"within_{points:g}_high": found.high}
        rows.append(row)
    return rows


def candidate_rows(found: "Evidence") -> list[dict[str, Any]]:
    """One row for each candidate and score, with the mean over its curve on validation data.

    It is over the seeds that all candidates of the method have, by which one was chosen; over its
    own where they have none in common.
    """
    rows = []
    methods = candidates_of(found.points)
    for method in labels_of(found.study.curve):
        shared = shared_areas(methods[method])
        for (label, score), points in methods[method].items():
            areas = validation_areas(points)
            counted = shared.get((label, score), areas)
            row: dict[str, Any] = {"method": method, "candidate": Label.parse(label).candidate}
            row |= {"score": score, "chosen": found.study.taken[method] == (label, score)}
            row |= {"seeds": len(counted)}
            if counted:
                row |= {"mean": sum(counted.values()) / len(counted)}
            rows.append(row | {f"seed {seed}": value for seed, value in areas.items()})
    return rows


def write_tables(study: "Study", folder: Path) -> None:
    """levels.csv, differences.csv and summaries.csv, and sizes.csv where units differ."""
    write_rows(folder / "levels.csv", level_rows(study))
    # one method has none: a file without a column is none to those who read it
    write_rows(folder / "differences.csv", difference_rows(study), _OF_A_DIFFERENCE)
    write_rows(folder / "summaries.csv", summary_rows(study))
    if sizes := size_rows(study):
        write_rows(folder / "sizes.csv", sizes)
