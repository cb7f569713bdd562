"""A study's tables and page as artifacts of W&B and MLflow, where such a logger is configured."""

from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from jsonargparse import ArgumentParser
from pytorch_lightning.loggers import Logger


def configured_loggers(fit: Mapping[str, Any]) -> list[Any]:
    """The loggers that options of ``fit`` name, made; the runs themselves have others.

    Args:
        fit: options as in a config file.

    Raises:
        ArgumentError: they name none that there is.
        ImportError: one is of a library that is not installed.

    >>> configured_loggers({"trainer": {"logger": False}})
    []
    """
    given = fit.get("trainer", {}).get("logger")
    if given in (None, True, False):
        return []
    parser = ArgumentParser(exit_on_error=False)
    parser.add_argument("--logger", type=list[Logger])
    wanted = given if isinstance(given, list) else [given]
    return list(parser.instantiate_classes(parser.parse_object({"logger": wanted})).logger)


def log_artifacts(loggers: Iterable[Any], folder: Path, name: str) -> None:
    """Give a folder to each logger that keeps such, and let it end.

    Args:
        loggers: by what they can do, as in `ewnprune.callback.loggers`.
        folder: what to keep.
        name: what it is called there.
    """
    for logger in loggers:
        experiment: Any = getattr(logger, "experiment", None)
        if hasattr(logger, "log_table") and hasattr(experiment, "log_artifact"):  # W&B
            experiment.log_artifact(str(folder), name=name, type="study")
        elif hasattr(experiment, "log_artifacts"):  # MLflow
            experiment.log_artifacts(logger.run_id, str(folder), name)
        logger.finalize("success")
