"""The files that the callback leaves in the run's folder."""

from collections.abc import Iterable
from itertools import count
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ewnprune.curve.curve import Curve
from ewnprune.curve.figure import plot_curve
from ewnprune.curve.files import write_curve
from ewnprune.curve.heat_map import plot_heat_map
from ewnprune.curve.text import measured
from ewnprune.files import local_path

if TYPE_CHECKING:
    from matplotlib.figure import Figure

_KINDS = (".csv", ".json", ".png", ".svg")


def run_folder(trainer: Any) -> Path:
    """Where the run's files go; all processes must call, for Lightning asks the first.

    Raises:
        ValueError: it is not on this machine.
    """
    return local_path(trainer.log_dir or trainer.default_root_dir)


def choose_paths(
    trainer: Any, split: str, name: str = "sparsity_curve", folder: Path | None = None
) -> list[Path]:
    """``sparsity_curve.csv`` and its like in the run's folder, or numbered ones where those exist.

    All processes must call. Under ``fast_dev_run``, which leaves nothing behind, there are none.

    Args:
        trainer: the Trainer.
        split: of the data.
        name: what the files' names begin with.
        folder: another than the Trainer's.
    """
    usual = run_folder(trainer)
    if trainer.fast_dev_run:
        return []
    return unused(folder or usual, name if split == "val" else f"{name}_{split}", _KINDS)


def unused(folder: Path, stem: str, kinds: Iterable[str]) -> list[Path]:
    """Paths of a stem, one for each kind, or of a numbered stem where one exists."""
    for number in count():
        name = f"{stem}_{number}" if number else stem
        paths = [folder / f"{name}{kind}" for kind in kinds]
        if not any(path.exists() for path in paths):
            break
    return paths


def write_results(curve: Curve, drawn: Curve, paths: list[Path]) -> "Figure":
    """Write all points measured so far as CSV and JSON, and draw some: a heat map per layer.

    Each file is replaced whole or not at all.
    """
    for path in paths:
        path.parent.mkdir(parents=True, exist_ok=True)
        if path.suffix in (".csv", ".json"):
            write_curve(curve, path)
    figures = [path for path in paths if path.suffix in (".png", ".svg")]
    if drawn.points[0].layer:
        return plot_heat_map(drawn, *figures)
    return plot_curve(drawn, *figures, measure=measured(drawn.points[0])[0])
