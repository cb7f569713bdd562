"""What a study was asked for: options of its fits from a file, and those its folder has already."""

import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import yaml

from ewnprune.configs import config_path
from ewnprune.errors import UsageError
from ewnprune.study.plan import nested
from ewnprune.study.recorded import SETTINGS
from ewnprune.study.run import CHECKPOINTS, FINISHED

STUDY = "study.yaml"
_TRAINED = (FINISHED, "checkpoints/*.ckpt", *CHECKPOINTS)


def load_fit_config(name: str | None) -> dict[str, Any]:
    """The options of a file for ``ewnprune fit``, but for scores: those of methods replace them.

    Args:
        name: of a shipped file, or a path; None for no options.

    Raises:
        FileNotFoundError: there is neither.
        UsageError: the file holds no options.
        ValueError: it is no YAML file.
    """
    if name is None:
        return {}
    path = Path(config_path(name, "--fit_config"))
    options = yaml.safe_load(path.read_text(encoding="utf-8"))
    if not isinstance(options, Mapping | None):
        raise UsageError(
            f"--fit_config {name}: it holds a {type(options).__name__}; expected options of "
            "`ewnprune fit`, as in trainer: {max_epochs: 5}"
        )
    return _without_scores(options or {})


def joined(folder: Path, settings: dict[str, Any]) -> dict[str, Any]:
    """A study's settings, with those of the study that lies in the folder already.

    Where nothing is trained yet, others may take the place of those.

    Args:
        folder: of the study.
        settings: what is asked for now: ``fit``, ``vary``, ``own``, ``reference``, ``methods``.

    Raises:
        ValueError: the folder was made with other settings.
        UsageError: the reference is no method of the study, or study.yaml is somebody else's.
    """
    path = folder / STUDY
    known = yaml.safe_load(path.read_text(encoding="utf-8")) if path.is_file() else {**settings}
    if not isinstance(known, dict) or {*known} != {*settings}:
        raise UsageError(
            f"{path} is no file that ewnprune compare has written, which would write over it: "
            "give it another name, or another --folder"
        )
    if path.is_file() and _is_trained(folder):
        known["fit"] = _without_scores(known["fit"])  # older studies have those of --fit_config
        for key in ("fit", "vary"):
            if known[key] != settings[key]:
                raise ValueError(
                    f"{folder} holds a study with {key} = {known[key]}, and this one has "
                    f"{settings[key]}: give another --folder, or the same settings"
                )
        for name, method in known["own"].items():
            asked = settings["own"].setdefault(name, method)
            ranks = asked.get("trains") and method.get("trains")  # no run is its own
            if asked != method and not ranks:
                raise ValueError(
                    f"{folder} holds a study with another method {name!r}: give it another name"
                )
        settings["methods"] = list(dict.fromkeys([*known["methods"], *settings["methods"]]))
        settings["reference"] = settings["reference"] or known["reference"]
    methods = settings["methods"]
    settings["reference"] = settings["reference"] or ("none" if "none" in methods else methods[0])
    if settings["reference"] not in methods:
        raise UsageError(
            f"--reference {settings['reference']}: expected one of the study's methods, "
            f"{', '.join(methods)}"
        )
    return settings


def _is_trained(folder: Path) -> bool:
    """Whether a run of a study has come as far as a checkpoint."""
    return any(any(folder.glob(f"runs/*/{left}")) for left in _TRAINED)


def forget_untrained(folder: Path) -> None:
    """Remove the runs of a study in which nothing is trained: other settings may have made them."""
    if not _is_trained(folder):
        for path in folder.glob(f"runs/*/{SETTINGS}"):
            shutil.rmtree(path.parent)


def _without_scores(fit: Mapping[str, Any]) -> dict[str, Any]:
    """Options without the scores, which `compare` refuses: it could not read its own settings.

    >>> _without_scores({"prune": {"scores": ["norm"], "realize": "mask"}, "trainer": {}})
    {'prune': {'realize': 'mask'}, 'trainer': {}}
    """
    options = nested(fit)
    if isinstance(options.get("prune"), dict):
        options["prune"].pop("scores", None)
    return options
