"""What the runs of a study recorded, as the rows of tables."""

from typing import TYPE_CHECKING, Any

from ewnprune.study.labels import Label, labels_of

if TYPE_CHECKING:
    from ewnprune.study.evidence import Evidence

Rows = list[dict[str, Any]]
CLASSES_SHOWN = 20
"""Classes that a figure and a table have room for."""


def class_rows(found: "Evidence") -> Rows:
    """One row for each method, level and class: the accuracy, mean over seeds."""
    values: dict[tuple[str, float, str], list[float]] = {}
    for row in found.recorded("classes.csv", shared=True):
        key = row["method"], float(row["sparsity"]), row["class"]
        values.setdefault(key, []).append(float(row["accuracy"]))
    return [
        {
            "method": method,
            "sparsity": level,
            "class": name,
            "seeds": len(of),
            "mean": sum(of) / len(of),
        }
        for (method, level, name), of in values.items()
    ]


def layer_rows(found: "Evidence") -> Rows:
    """One row for each method, layer and level: the neurons left, mean over seeds."""
    values: dict[tuple[str, str, int, float], list[int]] = {}
    for row in found.recorded("layers.csv", shared=True):
        key = row["method"], row["layer"], int(row["total"]), float(row["sparsity"])
        values.setdefault(key, []).append(int(row["left"]))
    return [
        {
            "method": method,
            "layer": layer,
            "total": total,
            "sparsity": level,
            "seeds": len(of),
            "left": sum(of) / len(of),
        }
        for (method, layer, total, level), of in values.items()
    ]


def effort_rows(found: "Evidence") -> Rows:
    """One row for each method: what its results took, over all its candidates and seeds."""
    rows = []
    ranked: dict[str, set[str]] = {}
    for label, score in dict.fromkeys((point.method, point.score) for point in found.points):
        ranked.setdefault(str(Label.parse(label).chosen()), set()).add(score)
    for method in labels_of(found.study.curve):
        name = found.trained(method)
        runs = [run for run in found.runs if str(Label.parse(run.method).chosen()) == name]
        finished = [run for run in runs if run.versions]
        if not finished:
            continue
        seconds = [run.seconds for run in finished if run.seconds is not None]
        rows.append(
            {
                "method": method,
                "trains": "" if name == method else name,
                "runs": len(finished),
                "candidates": len({run.method for run in finished}),
                "scores": len(ranked[method]),
                "epochs": sum(run.epochs for run in finished),
                "seconds": sum(seconds),
            }
        )
    return rows


def class_level(rows: Rows) -> float | None:
    """The level that classes are compared at: the one nearest to 0.9; None where nothing is."""
    levels = {row["sparsity"] for row in rows if row["sparsity"]}
    return min(levels, key=lambda level: abs(level - 0.9), default=None)


def losses(rows: Rows, level: float) -> dict[tuple[str, str], float]:
    """The points of a hundred that each method and class loses at a level."""
    means = {(row["method"], row["class"], row["sparsity"]): row["mean"] for row in rows}
    return {
        (method, name): 100 * (dense - means[method, name, level])
        for (method, name, at), dense in means.items()
        if at == 0 and (method, name, level) in means
    }


def forgotten_first(lost: dict[tuple[str, str], float]) -> list[str]:
    """The classes, those first that lose most over the methods."""
    total: dict[str, float] = {}
    for (_, name), value in lost.items():
        total[name] = total.get(name, 0.0) + value
    return sorted(total, key=lambda name: -total[name])
