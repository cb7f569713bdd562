"""What `benchmarks.kin` trains: methods of `ewnprune compare`, by strengths and learning rates."""

from collections.abc import Iterator
from importlib import import_module
from typing import Any

import pytorch_lightning as pl

from benchmarks.depgraph import SparseLearning
from ewnprune import WeightNormPruning
from ewnprune.study.methods import METHODS
from ewnprune.study.plan import merge

LIBRARY, REGS = "torch_pruning", (1e-4, 3e-4, 1e-3, 3e-3)
RATES = (0.1, 0.3)  # the study's, and three times that, as D-Gating's authors have it
TRAINED = [
    *("none", "ewn"),
    *(name for name, m in METHODS.items() if m.candidates and name != "network_slimming"),
    LIBRARY,
]
# trained as another, and pruned by single weights
OF_WEIGHTS = {name: m.trains for name, m in METHODS.items() if "magnitude" in m.scores}
NAMES = {**{name: name for name in TRAINED}, **OF_WEIGHTS}
"""Every method of the study, with the one whose trainings it takes."""

# two epochs are a tenth of a usual training: candidates are tried as they are and four times as
# strong, and exponents of Powerpropagation, of which the least was best, nearer to 1
_FURTHER = {
    "strength": lambda x: 4 * x,
    "beta": lambda x: 4 * x,
    "reg": lambda x: 4 * x,
    "exponent": lambda a: 1 + (a - 1) / 4,
}
_SHOWN = ("alpha", *_FURTHER)


def candidates(method: str) -> dict[str, dict[str, Any]]:
    """The options of a method's trainings, by what was set in them; no learning rate among them."""
    if method == LIBRARY:
        own: list[dict[str, Any]] = [{"reg": reg} for reg in REGS]
        known: dict[str, Any] = {}
    else:
        own, known = [*METHODS[method].candidates.values()] or [{}], METHODS[method].fit
    return {_label(more): merge(known, more) for more in (*own, *map(_further, own))}


def callbacks(method: str, options: dict[str, Any]) -> list[pl.Callback]:
    """What a training of these options has."""
    if method == LIBRARY:
        return [SparseLearning(options["reg"])]
    pruning = WeightNormPruning(_made(options["prune"]["parametrization"]), (0.0,))
    return [*map(_made, options.get("trainer", {}).get("callbacks", [])), pruning]


def _further(options: Any) -> Any:
    if isinstance(options, list):
        return [_further(item) for item in options]
    if not isinstance(options, dict):
        return options
    return {k: _FURTHER[k](v) if k in _FURTHER else _further(v) for k, v in options.items()}


def _label(options: Any) -> str:
    return " ".join(f"{key}={value:g}" for key, value in _settings(options))


def _settings(options: Any) -> Iterator[tuple[str, float]]:
    if isinstance(options, list):
        for item in options:
            yield from _settings(item)
    for key, value in options.items() if isinstance(options, dict) else ():
        if key in _SHOWN:
            yield key, value
        else:
            yield from _settings(value)


def _made(spec: dict[str, Any] | None) -> Any:
    if spec is None:
        return None
    module, _, name = spec["class_path"].rpartition(".")
    return getattr(import_module(module), name)(**spec.get("init_args", {}))
