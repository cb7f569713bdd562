"""Curves and norms to whatever loggers a Trainer has, by what each of them can do.

No logger is imported: a method that is there is used, one that is not is left out, so that loggers
that nobody here has heard of get at least the numbers. The files in the run folder are the source
of truth; loggers are a mirror.
"""

from collections.abc import Callable, Iterable
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from ewnprune.curve.curve import Curve
from ewnprune.curve.points import CurvePoint

if TYPE_CHECKING:
    from matplotlib.figure import Figure


_AXIS = "/over_thousandths_removed"
"""What the steps of a scalar are where a logger has whole steps alone, for its name to say."""


def monitored(curve: Curve, key: str = "prune") -> dict[str, Tensor]:
    """Each level's measures, by names such as ``prune/val/acc@0.9``, for callbacks to monitor.

    Args:
        curve: points of one split, at one time; those of the first score count.
        key: what the names begin with.

    >>> points = (CurvePoint(sparsity=0.9, accuracy=0.5, split="val"),)
    >>> monitored(Curve(points))
    {'prune/val/acc@0.9': tensor(0.5000)}
    """
    first = curve.points[0].score
    return {
        f"{key}/{point.split}/{name}@{point.sparsity:g}": torch.tensor(value, device="cpu")
        for point in curve.where(score=first, layer="")
        for name, value in _measures(point).items()
    }


def log_curve(
    loggers: Iterable[Any], curve: Curve, figure: "Figure", step: int, key: str = "prune"
) -> None:
    """Log a curve as numbers, and as a table and a picture where the logger can hold them.

    Args:
        loggers: a Trainer's loggers.
        curve: points of one split, at one time of one run.
        figure: the same curve drawn.
        step: the Trainer's global step.
        key: what the names of all that is logged begin with.
    """
    for logger in loggers:
        experiment: Any = getattr(logger, "experiment", None)
        if hasattr(logger, "log_table"):  # W&B and its like
            _log_table(logger, experiment, curve, key)
        elif hasattr(experiment, "add_figure"):  # TensorBoard
            _log_by_thousandths(logger, curve, key)
            experiment.add_figure(f"{key}/{curve.points[0].split}", figure, step)
        elif hasattr(experiment, "log_figure") and hasattr(logger, "run_id"):  # MLflow
            _log_by_thousandths(logger, curve, key)
            name = f"sparsity_curve_{curve.points[0].split}.png"
            experiment.log_figure(logger.run_id, figure, name)
        else:
            _log_points(logger, curve, key, step)


def log_norms(loggers: Iterable[Any], norms: dict[str, Tensor], step: int) -> None:
    """Log each layer's norms as a histogram where the logger can draw one.

    Of a layer that has diverged none is drawn.

    Args:
        loggers: a Trainer's loggers.
        norms: layer name to its neurons' norms, each of shape ``(neurons,)``.
        step: the Trainer's global step.
    """
    for logger in loggers:
        experiment: Any = getattr(logger, "experiment", None)
        if hasattr(experiment, "add_histogram"):
            for name, values in norms.items():
                drawn = values.float().cpu()
                if drawn.isfinite().all():  # else TensorBoard raises, for there are no bins
                    experiment.add_histogram(f"norms/{name}", drawn, step)


def _measures(point: CurvePoint) -> dict[str, float]:
    found = {"acc": point.accuracy, "loss": point.loss, **point.metrics}
    return {name: value for name, value in found.items() if value is not None}


def _row(point: CurvePoint, key: str) -> dict[str, float]:
    """The point's measures by the names they are logged under."""
    layer = f"/{point.layer}" if point.layer else ""
    return {
        f"{key}/{point.split}_{name}/{point.score}{layer}": value
        for name, value in _measures(point).items()
    }


def _row_of_epoch(point: CurvePoint, key: str) -> dict[str, float]:
    """The same by names of this epoch alone: where sparsity is the axis, the next goes back."""
    epoch = "" if point.epoch is None else f"/epoch_{point.epoch}"
    return {name + epoch: value for name, value in _row(point, key).items()}


def _log_by_thousandths(logger: Any, curve: Curve, key: str) -> None:
    for level in dict.fromkeys(point.sparsity for point in curve):
        rows = (_row_of_epoch(point, key) for point in curve.where(sparsity=level))
        row = {name + _AXIS: value for one in rows for name, value in one.items()}
        logger.log_metrics(row, round(1000 * level))


def _log_points(
    logger: Any,
    curve: Curve,
    key: str,
    step: int | None,
    row_of: Callable[[CurvePoint, str], dict[str, float]] = _row,
) -> None:
    for level in dict.fromkeys(point.sparsity for point in curve):
        row = {f"{key}/sparsity": level}
        for point in curve.where(sparsity=level):
            row |= row_of(point, key)
        logger.log_metrics(row, step)


def _log_table(logger: Any, experiment: Any, curve: Curve, key: str) -> None:
    if hasattr(experiment, "define_metric"):
        # by exact name, which comes before the "*" that Lightning ties to its global step
        for name in dict.fromkeys(n for point in curve for n in _row_of_epoch(point, key)):
            experiment.define_metric(name, step_metric=f"{key}/sparsity")
    columns = ["score", "sparsity", "neurons left", "accuracy", "loss"]
    rows = [
        [p.score, p.sparsity, p.neurons.left if p.neurons else None, p.accuracy, p.loss]
        for p in curve
    ]
    if any(point.layer for point in curve):
        columns = ["layer", *columns]
        rows = [[point.layer, *row] for point, row in zip(curve, rows, strict=True)]
    logger.log_table(f"{key}/{curve.points[0].split}_curve", columns=columns, data=rows)
    _log_points(logger, curve, key, None, _row_of_epoch)
