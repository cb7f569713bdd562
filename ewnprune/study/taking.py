"""The command that exports a point of a report, or why there is none."""

from shlex import quote
from typing import TYPE_CHECKING, Any

from ewnprune.curve.curve import Curve
from ewnprune.study.statistics import values_at

if TYPE_CHECKING:
    from ewnprune.study.evidence import Evidence


def export_commands(found: "Evidence") -> dict[str, dict[float, str]]:
    """For each method and level the command, of the seed that is best there on validation data.

    Methods have none where single weights are masked, which no smaller network has, and where no
    checkpoint lies.
    """
    commands: dict[str, dict[float, str]] = {}
    for method, (label, score) in found.study.taken.items():
        of_method = found.study.curve.where(method=method)
        units = {point.unit for point in of_method}
        runs = {
            r.seed: r for r in found.runs_of(method) if r.part is None and r.checkpoint.is_file()
        }
        if "weights" in units or not runs:
            continue
        val = found.points.where(method=label, score=score, split="val")
        for level in sorted({point.sparsity for point in of_method}):
            values: dict[Any, float] = values_at(val, label, level)
            seed = max(runs, key=lambda s: (values.get(s, -1.0), -s))
            run = quote(str(runs[seed].checkpoint))
            words = f"ewnprune export {run} {_size(of_method, level)} --score {quote(score)}"
            words += " --inputs true" if "inputs" in units else ""
            commands.setdefault(method, {})[level] = words
    return commands


def why_not(found: "Evidence", method: str) -> str:
    """Why a method has no command, where it has none."""
    if any(point.unit == "weights" for point in found.study.curve.where(method=method)):
        return "single weights are masked, and no network is smaller for it"
    if any(run.part is not None and run.checkpoint.is_file() for run in found.runs_of(method)):
        return (
            "each of its networks was trained as small as it is, and lies in the folder of its run "
            "as checkpoints/final.ckpt"
        )
    return "no checkpoint of it lies in the study's folder"


def _size(curve: Curve, level: float) -> str:
    """The option that has a level for export: a fraction that goes, or of a cost what is left."""
    of = curve.points[0].level_of
    return f"--sparsity {level:g}" if of == "units" else f"--{of} {1 - level:g}"
