"""What ``ewnprune fit`` says last: what can go, where it lies, and what to type next."""

import shlex
from pathlib import Path
from typing import TYPE_CHECKING

from ewnprune.columns import align
from ewnprune.curve.naming import level_name

if TYPE_CHECKING:
    from ewnprune.curve.curve import Curve

_WITHIN = 1  # point of a hundred


def closing_lines(folder: Path, curve: "Curve | None", checkpoint: str, compares: bool) -> str:
    """Five lines at most.

    Args:
        folder: of the run.
        curve: all that it measured.
        checkpoint: the path of its best checkpoint, empty where there is none.
        compares: whether ``ewnprune compare`` is of the same network and data.
    """
    told: list[tuple[str, str]] = []
    largest, found = _within(curve)
    folder = _short(folder)
    checkpoint = str(_short(Path(checkpoint).expanduser())) if checkpoint else ""
    if found:
        told.append((f"within {_WITHIN} point", found))
    figures = sorted(folder.glob("sparsity_curve*.png"), key=lambda path: path.stat().st_mtime)
    if figures and curve is not None:
        told.append(("figure", str(figures[-1])))
    if checkpoint:
        told.append(("checkpoint", checkpoint))
    commands = []
    if checkpoint and largest:
        # where export looks for the config by itself, and where it lies if that is elsewhere
        inside = Path(checkpoint).resolve().parent.parent == folder.resolve()
        alone = inside and len(list((folder / "checkpoints").glob("*.ckpt"))) == 1
        config = [] if inside else ["--run_config", str(folder / "config.yaml")]
        words = ["ewnprune", "export", str(folder) if alone else checkpoint, *config]
        commands.append(shlex.join([*words, "--max-drop", str(_WITHIN)]))
    commands += ["ewnprune compare"] if compares else []
    told += [("" if index else "next", command) for index, command in enumerate(commands)]
    if not told:
        return ""
    names, texts = zip(*told, strict=True)
    return align([names, texts], left=2)


def _short(path: Path) -> Path:
    here = Path.cwd()
    return path.relative_to(here) if path.is_relative_to(here) else path


def _within(curve: "Curve | None") -> tuple[float, str]:
    """The largest level that costs at most a point, by the best score, and that in words."""
    if curve is None:
        return 0.0, ""
    last = curve.points[-1]
    newest = curve.where(step=last.step, epoch=last.epoch, method=last.method, unit="neurons")
    found = []
    for series in newest.series():
        dense = series.points[0]
        if dense.accuracy is None or dense.sparsity or dense.layer:
            continue
        level = series.largest_sparsity(_WITHIN)
        (point,) = series.where(sparsity=level)
        found.append((level, point.measure(), dense.accuracy))
    if not found:
        return 0.0, ""
    level, accuracy, whole = max(found)
    data = "validation" if last.split == "val" else last.split
    text = (
        f"{100 * level:g} % of the {level_name(newest)} removed: {100 * accuracy:.2f} % "
        f"(whole {100 * whole:.2f} %, {data} data)"
    )
    return level, text
