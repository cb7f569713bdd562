"""Which runs a study needs: methods by seeds by what varies, each with the options of its fit."""

import copy
import hashlib
import importlib
import inspect
import json
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from itertools import product
from pathlib import Path
from typing import Any

from ewnprune.study.labels import Label, describe
from ewnprune.study.methods import METHODS, Method


@dataclass(frozen=True)
class Run:
    """One training of a study: its folder, the options of ``fit``, and what its points are."""

    folder: Path
    method: str
    seed: int
    part: float | None = None
    config: dict[str, Any] = field(default_factory=dict)


def expand(
    folder: Path,
    methods: Mapping[str, Method],
    seeds: Iterable[int],
    base: Mapping[str, Any],
    vary: Mapping[str, list[Any]],
    own: Mapping[str, Method],
) -> list[Run]:
    """The runs that a study needs, seed by seed, each once."""
    everything = {**METHODS, **own}
    # all scores that any method may want of a run, so that a study grows without training anew; but
    # where networks are built, a score of single weights is refused: those asked for then
    built = (base.get("prune") or {}).get("realize", "mask") != "mask"
    ranking = methods if built else everything
    runs: dict[Path, Run] = {}
    for seed, values in product(seeds, list(product(*vary.values()))):
        varied = dict(zip(vary, values, strict=True))
        settings = describe(varied)
        for asked, method in methods.items():
            name = method.trains or asked
            method = everything[name]
            scores = dict.fromkeys(method.scores)
            for other in ranking.values():
                scores |= dict.fromkeys(other.scores if other.trains == name else ())
            variants: list[tuple[str, float | None, Mapping[str, Any]]] = [
                *((str(key), None, options) for key, options in method.candidates.items()),
                *(("", float(level), options) for level, options in method.parts.items()),
            ]
            for candidate, part, options in variants or [("", None, {})]:
                config = merge(merge(base, method.fit), options)
                config = merge(config, {"prune": {"scores": list(scores)}})
                for key, value in varied.items():
                    config = merge(config, _nested(key, value))
                config = _seeded(config, seed)
                label = str(Label(name, candidate, settings))
                path = folder / _folder_name(label, part, seed, config)
                runs[path] = Run(path, label, seed, part, config)
    return list(runs.values())


def merge(under: Mapping[str, Any], over: Mapping[str, Any]) -> dict[str, Any]:
    """Options laid over options. Another class brings its own arguments; callbacks are added."""
    if over.get("class_path", under.get("class_path")) != under.get("class_path"):
        return dict(copy.deepcopy(over))
    merged = dict(copy.deepcopy(under))
    for key, value in over.items():
        if isinstance(value, Mapping) and isinstance(merged.get(key), Mapping):
            merged[key] = merge(merged[key], value)
        elif key == "callbacks" and isinstance(merged.get(key), list):
            merged[key] = [*merged[key], *copy.deepcopy(value)]
        else:
            merged[key] = copy.deepcopy(value)
    return merged


def _seeded(config: dict[str, Any], seed: int) -> dict[str, Any]:
    """The options with the seed; a data module that takes a seed gets it too."""
    config = {**config, "seed_everything": seed}
    data = config.get("data", {"class_path": "lightning_modules.MNISTDataModule"})
    if isinstance(data, str):
        data = {"class_path": data}
    module, _, name = data["class_path"].rpartition(".")
    found = getattr(importlib.import_module(module or "lightning_modules"), name, None)
    if found is not None and "seed" in inspect.signature(found).parameters:
        config["data"] = merge(data, {"init_args": {"seed": seed}})
    return config


def _nested(key: str, value: Any) -> dict[str, Any]:
    first, dot, rest = key.partition(".")
    return {first: _nested(rest, value) if dot else value}


def _folder_name(label: str, part: float | None, seed: int, config: Mapping[str, Any]) -> str:
    digest = hashlib.sha256(json.dumps(config, sort_keys=True).encode()).hexdigest()[:8]
    level = "" if part is None else f"-{part:g}"
    return re.sub(r"[^\w.=+-]+", "_", f"{label}{level}-seed={seed}-{digest}")
