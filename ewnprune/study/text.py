"""A study's results as text, for the terminal."""

from math import isnan
from typing import TYPE_CHECKING

from ewnprune.columns import blocks, fill
from ewnprune.curve.equal_size import LEFT
from ewnprune.study.estimates import Estimate, estimate, permutation
from ewnprune.study.labels import Label, labels_of
from ewnprune.study.naming import interval, short
from ewnprune.study.statistics import WITHIN, Difference, compared_levels, values_at
from ewnprune.study.tables import size_rows

if TYPE_CHECKING:
    from ewnprune.study.analysis import Study


def format_study(study: "Study") -> str:
    """The study as text, for a terminal of 80 columns."""
    names = labels_of(study.curve)
    measured = {point.sparsity for point in study.curve}
    shown = {0.0, *compared_levels(measured), *(d.sparsity for d in study.differences)}
    levels = sorted(shown & measured)
    data = {"test": "test", "val": "validation"}[study.split]
    head = f"accuracy (%) on {data} data, mean ± sample standard deviation over seeds"
    rows = [["removed", *(f"{100 * level:g} %" for level in levels)]]
    for name in names:
        cells = [_mean_sd(values_at(study.curve, name, level)) for level in levels]
        unit = study.curve.where(method=name).points[0].unit
        rows.append([name + ("" if unit == "neurons" else f" ({unit})"), *cells])
    lines = _table(head, rows)

    sizes = size_rows(study)
    for size, name in (("parameters", "parameters"), ("macs", "MACs (on paper for weights)")):
        means = {(r["method"], r["left"]): r["mean"] for r in sizes if r["size"] == size}
        if means:
            head = f"mean accuracy (%) at equal {name}, between levels by straight lines"
            rows = [["left", *(f"{100 * left:g} %" for left in LEFT)]]
            for label in dict.fromkeys(method for method, _ in means):
                found = [means.get((label, left)) for left in LEFT]
                rows.append([label, *("-" if v is None else f"{100 * v:.1f}" for v in found)])
            lines += _table(head, rows)

    head = "mean over the curve, largest % removed within so many points of dense [95 %]"
    rows = [["", "taken", "curve", *(f"within {points:g}" for points in WITHIN)]]
    for s in study.summaries:
        if s.area is not None:
            label, score = study.taken[s.method]
            inside = Label.parse(label).candidate
            how = ", ".join(part for part in (inside, short(score)) if part)
            cells = [_interval(s.area), *(_interval(s.within[points], 0) for points in WITHIN)]
            rows.append([s.method, how, *cells])
    lines += _table(head, rows)

    if study.differences:
        pairs = {(d.method, d.sparsity): d for d in study.differences}
        compared = list(dict.fromkeys(method for method, _ in pairs))
        top = ["removed", *(f"{100 * level:g} %" for level in levels if level)]
        how = permutation(max(len(d.estimate.values) for d in study.differences))
        for head, show in (
            (f"difference to {study.reference} in pairs of one seed, points [95 %]", _points),
            (f"its p, by {how}, corrected over the levels by Holm", _p),
        ):
            rows = [[name, *(show(pairs.get((name, x))) for x in levels if x)] for name in compared]
            lines += _table(head, [top, *rows])
    for sentence in study.caveats:
        lines += fill(sentence)
    lines += ["", "Of what a comparison should report (Blalock et al. 2020), this one lacks:"]
    for item in study.items:
        if not item.met:
            lines += fill(f"{item.demand}: {item.note}", "  ", "    ")
    return "\n".join(lines) + "\n"


def _table(head: str, rows: list[list[str]]) -> list[str]:
    """The heading, the table in as many blocks as it takes, and an empty line."""
    first, *others = zip(*rows, strict=True)
    return [*fill(head), "\n\n".join(blocks([first], others, left=1)), ""]


def _mean_sd(values: dict[int | None, float]) -> str:
    if not values:
        return "-"
    found = estimate(values)
    return f"{100 * found.mean:.1f}" + ("" if isnan(found.sd) else f" ± {100 * found.sd:.1f}")


def _interval(found: Estimate, digits: int = 1) -> str:
    return interval(found.mean, found.low, found.high, digits)


def _points(difference: Difference | None) -> str:
    return "-" if difference is None else _interval(difference.estimate)


def _p(difference: Difference | None) -> str:
    return "-" if difference is None else f"{difference.p_holm:.3f}"
