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

_DATA = "lightning_modules.MNISTDataModule"
_LONGEST = 200
_WHOLE = {"prune": {"sparsities": [0.0]}}  # as it is trained, it is the point of its level
_OF_A_CLASS = ("class_path", "init_args", "dict_kwargs")


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
    study: Mapping[str, Method] | None = None,
) -> list[Run]:
    """The runs that a study needs, seed by seed, each once.

    Args:
        folder: that of the runs.
        methods: whose runs are wanted.
        seeds: of each.
        base: options of all.
        vary: options that vary, each with its values.
        own: the study's own methods.
        study: all methods of the study, whose scores a run measures; by default `methods`.
    """
    everything, study = {**METHODS, **own}, study or methods
    # a folder is named by all scores that a known method may want of its run, so that a study that
    # grows finds it; where networks are built, by those of the study
    built = (base.get("prune") or {}).get("realize", "mask") != "mask"
    named = study if built else METHODS
    runs: dict[Path, Run] = {}
    for seed, values in product(seeds, list(product(*vary.values()))):
        varied = dict(zip(vary, values, strict=True))
        settings = describe(varied)
        for asked, method in methods.items():
            name = method.trains or asked
            method = everything[name]
            variants: list[tuple[str, float | None, Mapping[str, Any]]] = [
                *((str(key), None, options) for key, options in method.candidates.items()),
                *(("", float(level), options) for level, options in method.parts.items()),
            ]
            for candidate, part, options in variants or [("", None, {})]:
                config = merge(base, {} if part is None else _WHOLE)
                config = merge(merge(config, nested(method.fit)), nested(options))
                for key, value in varied.items():
                    config = merge(config, nested({key: value}))
                config = _seeded(config, seed)
                label = str(Label(name, candidate, settings))
                every = merge(config, _scores(name, method, named))
                path = folder / _folder_name(label, part, seed, every)
                config = merge(config, _scores(name, method, study))
                runs[path] = Run(path, label, seed, part, config)
    return list(runs.values())


def _scores(name: str, method: Method, others: Mapping[str, Method]) -> dict[str, Any]:
    """As options: the scores of a method, and of those others that take its runs."""
    taking = [other for other in others.values() if other.trains == name]
    scores = dict.fromkeys(score for each in (method, *taking) for score in each.scores)
    return {"prune": {"scores": list(scores)}}


def merge(under: Mapping[str, Any], over: Mapping[str, Any]) -> dict[str, Any]:
    """Options laid over options. Another class brings its own arguments; callbacks are added.

    >>> merge({"model": "my.Model"}, {"model": {"init_args": {"width": 3}}})
    {'model': {'class_path': 'my.Model', 'init_args': {'width': 3}}}
    """
    if "class_path" in under and _arguments_alone(over):
        over = {"init_args": over}
    if "init_args" in over and _arguments_alone(under):
        under = {"init_args": under}
    if over.get("class_path", under.get("class_path")) != under.get("class_path"):
        return dict(copy.deepcopy(over))
    merged = dict(copy.deepcopy(under))
    for key, value in over.items():
        known = merged.get(key)
        if isinstance(known, str):
            known = {"class_path": known}  # its name alone, where it is a class
        if key == "callbacks" and known is not None:
            merged[key] = [*_listed(known), *_listed(copy.deepcopy(value))]
        elif isinstance(value, Mapping) and isinstance(known, Mapping):
            merged[key] = merge(known, value)
        else:
            merged[key] = copy.deepcopy(value)
    return merged


def _arguments_alone(options: Mapping[str, Any]) -> bool:
    """Whether options of a class leave out that they are its arguments, as a command line may."""
    return bool(options) and not {*_OF_A_CLASS} & {*options}


def _listed(callbacks: Any) -> list[Any]:
    """None, one or several, as the Trainer takes them."""
    if callbacks is None:
        return []
    return callbacks if isinstance(callbacks, list) else [callbacks]


def nested(options: Mapping[str, Any]) -> dict[str, Any]:
    """Options by the names that a command line has for them, each in its group.

    >>> nested({"trainer.max_epochs": 5, "trainer": {"devices": 1}})
    {'trainer': {'max_epochs': 5, 'devices': 1}}
    """
    found: dict[str, Any] = {}
    for name, value in options.items():
        for part in reversed(str(name).split(".")):
            value = {part: value}
        found = merge(found, value)
    return found


def _seeded(config: dict[str, Any], seed: int) -> dict[str, Any]:
    """The options with the seed; a data module that takes a seed gets it too."""
    config = {**config, "seed_everything": seed}
    data = config.get("data", {})
    if data is None:
        return config  # `fit` refuses it in a line of its own
    data = merge({"class_path": _DATA}, {"class_path": data} if isinstance(data, str) else data)
    module, _, name = data["class_path"].rpartition(".")
    found = getattr(importlib.import_module(module or "lightning_modules"), name, None)
    if found is not None and "seed" in inspect.signature(found).parameters:
        config["data"] = merge(data, {"init_args": {"seed": seed}})
    return config


def _folder_name(label: str, part: float | None, seed: int, config: Mapping[str, Any]) -> str:
    digest = hashlib.sha256(json.dumps(config, sort_keys=True).encode()).hexdigest()[:8]
    level = "" if part is None else f"-{part:g}"
    what = re.sub(r"[^\w.=+-]+", "_", f"{label}{level}-seed={seed}-").encode()
    if len(what) > _LONGEST:  # a folder's name has 255 bytes at most; the digest tells them apart
        what = what[:_LONGEST] + b"-"
    return what.decode(errors="ignore") + digest
