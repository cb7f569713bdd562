"""What a study cannot do, though ``ewnprune fit`` can: refused before any run, in one line."""

from collections.abc import Mapping, Sequence
from typing import Any

import yaml

from ewnprune.errors import UsageError
from ewnprune.pruning.score_names import asked_of_data
from ewnprune.study.plan import nested

_OF_WEIGHTS = ("magnitude", "random_weights")
_DENSE = "ewnprune.study.dense.DenseOfPrunedSize"


def refuse_what_no_run_can(config: Mapping[str, Any], part: float | None = None) -> None:
    """Refuse options of a run that it would fail with, most of them after it has trained.

    Args:
        config: the options.
        part: the level that the run alone is the point of, if it is one.

    Raises:
        UsageError: several devices, no checkpoints, no data to measure on, choices by test data,
            scores of single weights where whole units go, a dense network whose size is not known
            before another is trained, or several levels of a run that is one point.
    """
    trainer, prune = (config.get(group) or {} for group in ("trainer", "prune"))
    for name in ("devices", "num_nodes"):
        if not _is_one(trainer.get(name)):  # each process would do all of the run, in one folder
            raise UsageError(
                f"trainer.{name}={trainer[name]}: a run of a study is one process on one device: "
                "leave it out, or name one device, such as [0]; --workers says how many runs go "
                "at a time"
            )
    if all(_told(trainer, f"limit_{split}_batches") == 0 for split in ("val", "test")):
        raise UsageError(
            "trainer.limit_val_batches: 0 and trainer.limit_test_batches: 0 leave nothing that a "
            "study could measure on: leave out one of them"
        )
    for name in ("fast_dev_run", "barebones"):
        if _told(trainer, name):
            raise UsageError(
                f"trainer.{name}={trainer[name]} leaves no checkpoint and no log, which a run of a "
                "study needs: leave it out; trainer.max_epochs and trainer.limit_train_batches "
                "make runs short"
            )
    wanted = asked_of_data(prune.get("scores") or (), prune.get("scope", ""))
    if wanted and _told(trainer, "limit_test_batches") != 0:
        raise UsageError(
            f"{wanted[0]} goes by data, which test data must not be, and a study measures on them: "
            "take another, or say trainer.limit_test_batches: 0 to report on validation data"
        )
    singles = [score for score in prune.get("scores") or () if score in _OF_WEIGHTS]
    built = prune.get("realize", "mask")
    whole = (
        "inputs: true" if _told(prune, "inputs") else "" if built == "mask" else f"realize: {built}"
    )
    if singles and whole:
        raise UsageError(
            f"score {singles[0]!r} ranks single weights, and prune.{whole} takes out whole units: "
            "leave out the methods that rank so, of study.yaml too, or make a study without it"
        )
    levels = prune.get("sparsities")
    if part is not None and not (isinstance(levels, list) and len(levels) == 1):
        raise UsageError(
            f"prune.sparsities={levels}: the run for part {part:g} of a method is the point of "
            "that level alone: leave the levels out, or name the one to measure it at"
        )
    made = [
        one.get("class_path") for one in trainer.get("callbacks") or [] if isinstance(one, dict)
    ]
    if _DENSE in made and (_told(prune, "inputs") or prune.get("level_of", "units") != "units"):
        raise UsageError(
            "the method dense has networks without a fraction of their neurons: expected "
            "prune.level_of: units and no prune.inputs with it, or a study without dense"
        )


def refuse_empty(vary: Mapping[str, Sequence[Any]]) -> None:
    """Refuse options that vary over nothing: a study of no runs.

    Raises:
        UsageError: there is one.
    """
    for name, values in vary.items():
        if not values:
            raise UsageError(f"--vary {name}: []: expected one value at least")


def refuse_scores(
    fit: Mapping[str, Any], vary: Mapping[str, Any], own: Mapping[str, Mapping[str, Any]]
) -> None:
    """Refuse scores among the options of fits: a study ranks by those of its methods.

    Args:
        fit: options of all runs.
        vary: those that vary.
        own: the study's own methods.

    Raises:
        UsageError: there are some.
    """
    given = [("fit", fit), ("vary", vary)]
    for name, method in own.items():
        given.append((f"own.{name}.fit", method.get("fit") or {}))
        for part in ("candidates", "parts"):
            given += [(f"own.{name}.{part}", each) for each in (method.get(part) or {}).values()]
    for where, options in given:
        if "scores" in (nested(options).get("prune") or {}):
            raise UsageError(
                f"{where}: prune.scores: a study ranks by the scores of each method: leave them "
                "out, and define a method of your own with them, as in own: {mine: {trains: none, "
                "scores: [norm]}}"
            )


def _told(options: Mapping[str, Any], name: str) -> Any:
    """A number or a truth among options, which are texts where a command line told them.

    >>> _told({"inputs": "false"}, "inputs"), _told({"limit_test_batches": 0}, "limit_test_batches")
    (False, 0)
    """
    value = options.get(name)
    return yaml.safe_load(value) if isinstance(value, str) else value


def _is_one(devices: Any) -> bool:
    """Whether the Trainer takes one device; left to it, a run takes one.

    >>> [_is_one(devices) for devices in (None, "auto", "1", [3], "[3]", "3,", 2, "2", -1, "0, 1")]
    [True, True, True, True, True, True, False, False, False, False]
    """
    devices = yaml.safe_load(devices) if isinstance(devices, str) else devices
    if isinstance(devices, str) and "," in devices:
        devices = [number for number in devices.split(",") if number]
    return len(devices) == 1 if isinstance(devices, list) else devices in (None, "auto", 1)
