"""`ewnprune compare`: a study, methods by seeds, each run in a folder of its own."""

import copy
import hashlib
import importlib
import inspect
import json
import re
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from functools import partial
from itertools import product
from pathlib import Path
from typing import Any, Literal

import yaml
from tqdm import tqdm

from ewnprune.curve import Curve
from ewnprune.curve_files import read_curve, write_curve
from ewnprune.engines import Events, run_locally
from ewnprune.methods import METHODS, Method, find_methods, parse_methods, parse_seeds
from ewnprune.ray_engine import import_ray, run_on_ray
from ewnprune.study_run import CONFIG, FINISHED, SETTINGS, write_text
from ewnprune.study_tables import analyse, format_study, write_tables

_STUDY = "study.yaml"


@dataclass(frozen=True)
class Run:
    """One training of a study: its folder, the options of ``fit``, and what its points are."""

    folder: Path
    method: str
    seed: int
    part: float | None = None
    config: dict[str, Any] = field(default_factory=dict)


def compare(
    methods: str | list[str] = "none,swn,ewn",
    seeds: str | int | list[int] = "0-2",
    folder: Path = Path("study"),
    fit: dict | None = None,  # type: ignore[type-arg]  # of Any, jsonargparse makes what it names
    fit_config: str | None = None,
    vary: dict[str, list[Any]] | None = None,
    own: dict[str, dict] | None = None,  # type: ignore[type-arg]
    reference: str = "none",
    workers: int | None = None,
    engine: Literal["local", "ray"] = "local",
    address: str | None = None,
) -> int:
    """Train with several methods and seeds, prune each at many levels, and say what that shows.

    By default MNIST, 784-1024-10, three methods, three seeds, five epochs. Finished runs are
    skipped, so a study that was interrupted goes on, and one that is done can be extended by seeds
    and methods: give the same folder. A run that fails is reported and stops no other. Runs of one
    seed share initial network, data and their order. Scores, and the strength of a penalty, are
    chosen on validation data; accuracies are shown on test data.

    The folder then has points.csv (every point of every run), levels.csv, differences.csv,
    summaries.csv and study.txt, what is printed.

    Args:
        methods: names with commas between: none, swn, ewn, group_lasso, random, random_ratios,
            magnitude, dense, or your own.
        seeds: such as 0-4 or 0,2,7.
        folder: where the study lies.
        fit: options of `ewnprune fit` for all runs, as in its YAML files.
        fit_config: the name of a shipped YAML file of options, or a path; `fit` comes on top.
        vary: options to vary, each with a list of values: {trainer.max_epochs: [5, 20]}.
        own: methods of your own: for each name `fit`, its options, and if need be `scores`,
            `candidates`, `parts` or `trains` as in `ewnprune.methods.Method`.
        reference: the method that the others are compared with.
        workers: how many runs at a time; by default one per core.
        engine: local, processes of this machine; or ray, a Ray cluster whose machines share the
            study's folder and the one this is started from.
        address: of the Ray cluster, host:port, or auto for the one that this machine belongs to;
            by default one is started on this machine.

    Returns:
        0, or 1 if a run failed.

    Raises:
        ValueError: unknown methods, bad seeds, or settings other than those the folder was made
            with; an address without Ray.
        ImportError: Ray is asked for and not installed.
    """
    start = _find_engine(engine, address)
    defined = parse_methods(own or {})
    wanted = find_methods(methods, defined)
    if reference not in wanted:
        reference = next(iter(wanted))
    base = merge(_load_fit_config(fit_config), fit or {})
    runs = expand(folder / "runs", wanted, parse_seeds(seeds), base, vary or {}, defined)
    settings = {"fit": base, "vary": vary or {}, "own": own or {}, "reference": reference}
    names, defined = _remember(folder, json.loads(json.dumps(settings)), list(wanted))
    todo = _prepare(runs)
    print(f"ewnprune: {len(runs)} runs, {len(runs) - len(todo)} of them finished: {folder}")
    failed = _run(todo, start, workers) if todo else []
    points = collect(folder, find_methods(names, defined))
    if points.points:
        write_curve(points, folder / "points.csv")
        study = analyse(points, reference)
        write_tables(study, folder)
        text = format_study(study)
        write_text(folder / "study.txt", text)
        print(text, end="")
    for path in failed:
        print(f"ewnprune: failed: {path.name}: {_last_line(path)} (all of it: {path}/log.txt)")
    return 1 if failed else 0


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
    runs: dict[Path, Run] = {}
    for seed, values in product(seeds, list(product(*vary.values()))):
        varied = dict(zip(vary, values, strict=True))
        suffix = ", ".join(f"{key.rpartition('.')[2]}={value}" for key, value in varied.items())
        for asked, method in methods.items():
            name = method.trains or asked
            method = everything[name]
            scores = dict.fromkeys(method.scores)
            for other in everything.values():
                scores |= dict.fromkeys(other.scores if other.trains == name else ())
            variants: list[tuple[str, float | None, Mapping[str, Any]]] = [
                *((f"{name}[{key}]", None, options) for key, options in method.candidates.items()),
                *((name, float(level), options) for level, options in method.parts.items()),
            ]
            for label, part, options in variants or [(name, None, {})]:
                config = merge(merge(base, method.fit), options)
                config = merge(config, {"prune": {"scores": list(scores)}})
                for key, value in varied.items():
                    config = merge(config, _nested(key, value))
                config = _seeded(config, seed)
                label = f"{label} @ {suffix}" if suffix else label
                path = folder / _folder_name(label, part, seed, config)
                runs[path] = Run(path, label, seed, part, config)
    return list(runs.values())


def collect(folder: Path, methods: Mapping[str, Method]) -> Curve:
    """All points of a study's finished runs, under the names of the methods asked for."""
    found = Curve()
    for path in sorted(folder.glob(f"runs/*/{FINISHED}")):
        found += read_curve(path)
    points = Curve((), found.notes)
    for name, method in methods.items():
        for label in dict.fromkeys(point.method for point in found):
            trained = re.split(r"\[| @ ", label)[0]
            if trained == (method.trains or name):
                renamed = name + label.removeprefix(trained)
                for score in method.scores:
                    points += found.where(method=label, score=score).tagged(method=renamed)
    return points


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


def _find_engine(engine: str, address: str | None) -> Callable[..., Events]:
    if engine == "ray":
        import_ray()  # or an error, before anything is written
        return partial(run_on_ray, address=address)
    if address is not None:
        raise ValueError(f"--address {address}: it is Ray's; expected --engine ray with it")
    return run_locally


def _run(todo: list[Run], start: Callable[..., Events], workers: int | None) -> list[Path]:
    """Run them and show how far the study is; gives back the folders of those that failed."""
    failed, ended = [], set()
    layout = "{percentage:3.0f}%|{bar}| {n:.1f}/{total} runs, {elapsed} gone, {remaining} left"
    with tqdm(total=len(todo), bar_format=layout, smoothing=0, mininterval=1) as bar:
        for event in start([run.folder for run in todo], workers):
            if event is not None:
                path, status = event
                ended.add(path)
                if status or not (path / FINISHED).is_file():
                    failed.append(path)
            done = sum(1.0 if r.folder in ended else 0.95 * _progress(r.folder) for r in todo)
            bar.update(done - bar.n)
    return failed


def _prepare(runs: list[Run]) -> list[Run]:
    """Write the settings of the runs that are to do."""
    todo = [run for run in runs if not (run.folder / FINISHED).is_file()]
    for run in todo:
        (run.folder / "progress").unlink(missing_ok=True)
        recorder = {
            "class_path": "ewnprune.study_run.Recorder",
            "init_args": {"folder": str(run.folder)},
        }
        keep_last = {
            "class_path": "pytorch_lightning.callbacks.ModelCheckpoint",
            "init_args": {
                "dirpath": str(run.folder / "checkpoints"),
                "filename": "last",
                "enable_version_counter": False,
            },
        }
        quiet = {"enable_progress_bar": False, "enable_model_summary": False}
        config = merge({"trainer": {**quiet, "callbacks": []}}, run.config)
        config = merge(config, {"trainer": {"callbacks": [recorder, keep_last]}})
        write_text(run.folder / CONFIG, yaml.safe_dump(config, sort_keys=False))
        settings = {"method": run.method, "seed": run.seed, "part": run.part, "fit": run.config}
        write_text(run.folder / SETTINGS, json.dumps(settings, indent=1) + "\n")
    return todo


def _remember(
    folder: Path, settings: dict[str, Any], methods: list[str]
) -> tuple[list[str], dict[str, Method]]:
    """Keep the study's settings; gives back the methods asked for and defined so far."""
    path = folder / _STUDY
    if path.is_file():
        known = yaml.safe_load(path.read_text(encoding="utf-8"))
        for key in ("fit", "vary"):
            if known[key] != settings[key]:
                raise ValueError(
                    f"{folder} holds a study with {key} = {known[key]}, and this one has "
                    f"{settings[key]}: give another --folder, or the same settings"
                )
        for name, method in known["own"].items():
            if settings["own"].setdefault(name, method) != method:
                raise ValueError(
                    f"{folder} holds a study with another method {name!r}: give it another name"
                )
        methods = list(dict.fromkeys([*known["methods"], *methods]))
    text = yaml.safe_dump({**settings, "methods": methods}, sort_keys=False)
    write_text(path, text)
    return methods, parse_methods(settings["own"])


def _load_fit_config(name: str | None) -> dict[str, Any]:
    if name is None:
        return {}
    from ewnprune.cli import _config_path

    return yaml.safe_load(Path(_config_path(name)).read_text(encoding="utf-8")) or {}


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


def _progress(folder: Path) -> float:
    path = folder / "progress"
    return float(path.read_text(encoding="utf-8")) if path.is_file() else 0.0


def _last_line(folder: Path) -> str:
    lines = (folder / "log.txt").read_text(encoding="utf-8", errors="replace").strip().splitlines()
    return lines[-1] if lines else "it said nothing"
