"""A study's results as tables: in the terminal, and as CSV files."""

from dataclasses import dataclass
from math import isnan
from pathlib import Path
from typing import Any

from ewnprune.budget import LEFT
from ewnprune.checklist import Item, caveats, checklist
from ewnprune.curve import Curve
from ewnprune.statistics import (
    REPORTED,
    WITHIN,
    Difference,
    Estimate,
    Summary,
    chosen,
    differences,
    estimate,
    labels,
    summaries,
    values_at,
)
from ewnprune.study_run import write_rows


@dataclass(frozen=True)
class Study:
    """What a study's points show.

    Attributes:
        curve: the points reported: one score per method, on test data where there are any.
        validation: the same on validation data.
        split: which data `curve` is on.
        taken: for each method the label and score that were chosen.
        reference: what the others are compared with.
        differences: paired, per method and level.
        summaries: per method.
        items: the checklist.
        caveats: what the number of seeds cannot show.
    """

    curve: Curve
    validation: Curve
    split: str
    taken: dict[str, tuple[str, str]]
    reference: str
    differences: list[Difference]
    summaries: list[Summary]
    items: list[Item]
    caveats: list[str]


def analyse(points: Curve, reference: str) -> Study:
    """Choose on validation data, and compare on test data."""
    best, taken = chosen(points)
    split = "test" if best.where(split="test").points else "val"
    curve = best.where(split=split)
    known = {label.partition(" @ ")[0] for label in labels(curve)}
    reference = reference if reference in known else labels(curve)[0].partition(" @ ")[0]
    return Study(
        curve,
        best.where(split="val"),
        split,
        taken,
        reference,
        differences(curve, reference),
        summaries(curve),
        checklist(curve, taken),
        caveats(curve),
    )


def level_rows(study: Study) -> list[dict[str, Any]]:
    """One row per method and level: mean, sample standard deviation, and every seed."""
    rows = []
    for label in labels(study.curve):
        of_method = study.curve.where(method=label)
        for level in sorted({point.sparsity for point in of_method}):
            values = values_at(study.curve, label, level)
            found, point = estimate(values), of_method.where(sparsity=level).points[0]
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


def size_rows(study: Study) -> list[dict[str, Any]]:
    """One row per method, size and fraction left, where neurons are compared with single weights.

    Accuracy at equal parameters, and at equal MACs, between the levels by straight lines.
    """
    if len({point.unit for point in study.curve}) < 2:
        return []
    rows = []
    for size in ("parameters", "macs"):
        for label in labels(study.curve):
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


def difference_rows(study: Study) -> list[dict[str, Any]]:
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


def summary_rows(study: Study) -> list[dict[str, Any]]:
    """One row per method: its area, and the largest sparsity within 0.5, 1 and 2 points."""
    rows = []
    for summary in study.summaries:
        label, _ = study.taken[summary.method]
        row: dict[str, Any] = {"method": summary.method, "taken": label, "score": summary.score}
        if summary.area is not None:
            row |= {"area": summary.area.mean, "area_low": summary.area.low}
            row |= {"area_high": summary.area.high}
        for points, found in summary.within.items():
            row |= {f"within_{points:g}": found.mean, f"within_{points:g}_low": found.low}
            row |= {f"within_{points:g}_high": found.high}
        rows.append(row)
    return rows


def write_tables(study: Study, folder: Path) -> None:
    """levels.csv, differences.csv and summaries.csv, and sizes.csv where units differ."""
    write_rows(folder / "levels.csv", level_rows(study))
    write_rows(folder / "differences.csv", difference_rows(study))
    write_rows(folder / "summaries.csv", summary_rows(study))
    if sizes := size_rows(study):
        write_rows(folder / "sizes.csv", sizes)


def format_study(study: Study) -> str:
    """The study as text, fewer than 100 columns wide."""
    names = labels(study.curve)
    measured = {point.sparsity for point in study.curve}
    levels = [level for level in (0.0, *REPORTED) if level in measured]
    data = {"test": "test", "val": "validation"}[study.split]
    head = f"accuracy on {data} data, %, mean ± sample standard deviation over seeds"
    rows = [["removed", *(f"{level:.0%}" for level in levels)]]
    for name in names:
        cells = [_mean_sd(values_at(study.curve, name, level)) for level in levels]
        unit = study.curve.where(method=name).points[0].unit
        rows.append([name + ("" if unit == "neurons" else f" ({unit})"), *cells])
    lines = [head, *_columns(rows), ""]

    sizes = size_rows(study)
    for size, name in (("parameters", "parameters"), ("macs", "MACs (on paper for weights)")):
        means = {(r["method"], r["left"]): r["mean"] for r in sizes if r["size"] == size}
        if means:
            head = f"mean accuracy at equal {name}, %, between levels by straight lines"
            rows = [["left", *(f"{left:.0%}" for left in LEFT)]]
            for label in dict.fromkeys(method for method, _ in means):
                found = [means.get((label, left)) for left in LEFT]
                rows.append([label, *("-" if v is None else f"{100 * v:.1f}" for v in found)])
            lines += [head, *_columns(rows), ""]

    head = "mean over the curve, and largest % removed within so many points of dense [95 %]"
    rows = [["", "taken", "curve", *(f"within {points:g}" for points in WITHIN)]]
    for s in study.summaries:
        if s.area is not None:
            label, score = study.taken[s.method]
            inside = label.partition("[")[2].partition("]")[0]
            how = f"{inside}, {score}" if inside else score
            cells = [_interval(s.area), *(_interval(s.within[points], 0) for points in WITHIN)]
            rows.append([s.method, how.rpartition(".")[2] if "." in score else how, *cells])
    lines += [head, *_columns(rows), ""]

    if study.differences:
        head = f"difference to {study.reference} in pairs of one seed, points [95 %], p by Holm"
        rows = [["removed", *(f"{level:.0%}" for level in levels if level)]]
        rows += [
            [name, *(_difference(study, name, level) for level in levels if level)]
            for name in names
            if any(d.method == name for d in study.differences)
        ]
        lines += [head, *_columns(rows), ""]
    lines += study.caveats
    lines += ["", "Of what a comparison should report (Blalock et al. 2020), this one lacks:"]
    lines += [f"  {item.demand}: {item.note}" for item in study.items if not item.met]
    return "\n".join(lines) + "\n"


def _columns(rows: list[list[str]]) -> list[str]:
    widths = [max(len(row[i]) for row in rows) for i in range(len(rows[0]))]
    lines = []
    for first, *rest in rows:
        cells = [cell.rjust(width) for cell, width in zip(rest, widths[1:], strict=True)]
        lines.append("  ".join(["", first.ljust(widths[0]), *cells]).rstrip())
    return lines


def _mean_sd(values: dict[int | None, float]) -> str:
    if not values:
        return "-"
    found = estimate(values)
    return f"{100 * found.mean:.1f}" + ("" if isnan(found.sd) else f" ± {100 * found.sd:.1f}")


def _interval(found: Estimate, digits: int = 1) -> str:
    mean = f"{100 * found.mean:.{digits}f}"
    if isnan(found.low):
        return mean
    return f"{mean} [{100 * found.low:.{digits}f}, {100 * found.high:.{digits}f}]"


def _difference(study: Study, method: str, level: float) -> str:
    for d in study.differences:
        if d.method == method and d.sparsity == level:
            return f"{_interval(d.estimate)} p={d.p_holm:.2f}"
    return "-"
