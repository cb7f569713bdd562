"""`ewnprune compare`: a study, methods by seeds, each run in a folder of its own."""

import json
import shlex
from collections.abc import Callable, Iterator, Mapping
from contextlib import closing, contextmanager
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any, Literal

import yaml
from filelock import FileLock, Timeout

from ewnprune.columns import fill
from ewnprune.curve.curve import Curve
from ewnprune.curve.files import read_curve, write_curve
from ewnprune.errors import UsageError
from ewnprune.files import local_path, write_text
from ewnprune.study.analysis import Study, gather
from ewnprune.study.artifacts import configured_loggers, log_artifacts
from ewnprune.study.engines import Events, check_workers, run_locally
from ewnprune.study.labels import Label, labels_of
from ewnprune.study.methods import Method, find_methods, parse_methods, parse_seeds
from ewnprune.study.options import check_options
from ewnprune.study.page import write_report
from ewnprune.study.plan import Run, expand, merge, nested
from ewnprune.study.progress import watch
from ewnprune.study.ray_engine import import_ray, run_on_ray
from ewnprune.study.recorded import SETTINGS, by_age
from ewnprune.study.refusals import refuse_empty, refuse_scores
from ewnprune.study.run import CONFIG, FINISHED
from ewnprune.study.settings import STUDY, forget_untrained, joined, load_fit_config
from ewnprune.study.tables import write_tables
from ewnprune.study.text import format_study


def compare(
    methods: str | list[str] = "none,swn,ewn",
    seeds: str | int | list[int] = "0-2",
    folder: Path = Path("study"),
    fit: dict | None = None,  # type: ignore[type-arg]  # of Any, jsonargparse makes what it names
    fit_config: str | None = None,
    vary: dict[str, list[Any]] | None = None,
    own: dict[str, dict] | None = None,  # type: ignore[type-arg]
    reference: str | None = None,
    workers: int | None = None,
    engine: Literal["local", "ray"] = "local",
    address: str | None = None,
) -> int:
    """Train with several methods and seeds, prune each at many levels, and say what that shows.

    By default MNIST, 784-1024-10, three methods, three seeds, five epochs. Finished runs are
    skipped, so a study that was interrupted goes on, and one that is done can be extended by seeds
    and methods: give the same folder. For a method that only ranks what another trains (random,
    magnitude), networks are measured again and not trained anew. A run that fails is reported and
    stops no other. Runs of one seed share initial network, data and their order. Scores, and the
    strength of a penalty, are chosen on validation data; accuracies are shown on test data.

    The folder then has points.csv (every point of every run), levels.csv, differences.csv,
    summaries.csv and study.txt, what is printed; and report/index.html, the page of `ewnprune
    report`, which is written anew whenever a run has finished.

    Args:
        methods: names with commas between: none, swn, ewn, group_lasso, random, random_ratios,
            magnitude, dense; log_sum, ewn_log_norm, d_gating_2, d_gating_3, d_gating_4, ham,
            ham_neurons, ham_weights, powerprop, powerprop_neurons, powerprop_weights, group_hs,
            network_slimming, nested_lasso, prunable (docs/compare.md says what each is); or your
            own.
        seeds: such as 0-4 or 0,2,7.
        folder: where the study lies.
        fit: options of `ewnprune fit` for all runs, as in its YAML files; scores are those of the
            methods. A logger of W&B or MLflow among them gets the page and its tables at the end.
        fit_config: the name of a shipped YAML file of options, or a path; `fit` comes on top.
        vary: options to vary, each with a list of values: {trainer.max_epochs: [5, 20]}.
        own: methods of your own: for each name `fit`, its options, and if need be `scores`,
            `candidates`, `parts` or `trains` as in `ewnprune.study.methods.Method`.
        reference: the method that the others are compared with; by default none, or the first.
        workers: how many runs at a time; by default one per core.
        engine: local, processes of this machine; or ray, a Ray cluster whose machines share the
            study's folder and the one this is started from.
        address: of the Ray cluster, host:port, or auto for the one that this machine belongs to;
            by default one is started on this machine.

    Returns:
        0, or 1 if a run failed.

    Raises:
        UsageError: unknown methods, bad seeds, no workers; options that `ewnprune fit` does not
            have; a reference that is no method of the study; an address without Ray.
        ValueError: settings other than those the folder was made with.
        RuntimeError: the same study is running already.
        ImportError: Ray is asked for and not installed.
    """
    folder = local_path(folder)
    start = _find_engine(engine, address)
    check_workers(workers)
    defined = parse_methods(own or {})
    wanted = find_methods(methods, defined)
    refuse_scores(fit or {}, vary or {}, own or {})
    refuse_empty(vary or {})
    base = merge(load_fit_config(fit_config), nested(fit or {}))
    asked: dict[str, Any] = {"fit": base, "vary": vary or {}, "own": own or {}}
    asked |= {"reference": reference, "methods": list(wanted)}
    settings = joined(folder, json.loads(json.dumps(asked)))
    defined = parse_methods(settings["own"])
    known = find_methods(settings["methods"], defined)
    runs = expand(folder / "runs", wanted, parse_seeds(seeds), base, vary or {}, defined, known)
    check_options(_unfinished(runs), defined)
    loggers = configured_loggers(base)  # or an error, now
    with _alone(folder):
        forget_untrained(folder)
        write_text(folder / STUDY, yaml.safe_dump(settings, sort_keys=False))
        todo = _prepare(runs)
        print(f"ewnprune: {len(runs)} runs, {len(runs) - len(todo)} of them finished: {folder}")
        then, folders = partial(_write_so_far, folder, known), [run.folder for run in todo]
        # closed before the folder is free: a page may be interrupted, and runs take time to end
        with closing(start(folders, workers)) as events:
            failed = watch(events, todo, then) if todo else []
        study = _write_results(folder, known)
        if study is not None:
            text = format_study(study)
            write_text(folder / "study.txt", text)
            print(text, end="")
            log_artifacts(loggers, folder / "report", folder.resolve().name)
    for path in failed:
        print(f"ewnprune: failed: {path.name}: {_last_line(path)} (all of it: {path}/log.txt)")
    if study is not None:
        files = sorted([*folder.glob("*.csv"), folder / "study.txt"])
        print("", *fill(f"written to {folder}: {', '.join(path.name for path in files)}"), sep="\n")
        print(f"page: {folder / 'report' / 'index.html'}")
        print(f"the page anew: ewnprune report {shlex.quote(str(folder))}")
    return 1 if failed else 0


def _write_results(folder: Path, methods: Mapping[str, Method]) -> Study | None:
    """Points, tables and page of the runs that are finished; None where none is."""
    points = collect(folder, methods)
    if not points.points:
        return None
    write_curve(points, folder / "points.csv")
    found = gather(folder)
    write_tables(found.study, folder)
    write_report(found, folder / "report")
    return found.study


def _write_so_far(folder: Path, methods: Mapping[str, Method]) -> None:
    """The same while other runs go on, which it must not stop: at the end it is an error."""
    try:
        _write_results(folder, methods)
    except Exception as error:  # whatever it is, it comes again at the end, and is told here
        kind = "" if isinstance(error, ValueError) else f"{type(error).__name__}: "
        print(f"ewnprune: no page of the runs so far: {kind}{error}", flush=True)


def collect(folder: Path, methods: Mapping[str, Method]) -> Curve:
    """All points of a study's finished runs, under the names of the methods asked for."""
    folders = sorted(path.parent for path in folder.glob(f"runs/*/{FINISHED}"))
    curves = {run: read_curve(run / FINISHED) for run in folders}
    found = Curve()
    for run in (*folders, *by_age(folders)):  # once for their order, and then the last counts
        found += curves[run]
    found = Curve(
        tuple({(p.method, p.seed, p.score, p.split, p.sparsity): p for p in found}.values()),
        found.notes,
    )
    points = Curve((), found.notes)
    for name, method in methods.items():
        for label in labels_of(found):
            trained = Label.parse(label)
            if trained.method == (method.trains or name):
                renamed = str(replace(trained, method=name))
                for score in method.scores:
                    points += found.where(method=label, score=score).tagged(method=renamed)
    return points


def _find_engine(engine: str, address: str | None) -> Callable[..., Events]:
    if engine == "ray":
        import_ray()  # or an error, before anything is written
        return partial(run_on_ray, address=address)
    if address is not None:
        raise UsageError(f"--address {address}: it is Ray's; expected --engine ray with it")
    return run_locally


def _unfinished(runs: list[Run]) -> list[Run]:
    """Those without a curve by each of their scores; one that is trained is only measured anew."""
    todo = []
    for run in runs:
        path, wanted = run.folder / FINISHED, (run.config.get("prune") or {}).get("scores", ())
        if not path.is_file() or {*wanted} - {point.score for point in read_curve(path)}:
            todo.append(run)
    return todo


def _prepare(runs: list[Run]) -> list[Run]:
    """Write the settings of the runs that are to do."""
    todo = _unfinished(runs)
    for run in todo:
        run.folder.mkdir(parents=True, exist_ok=True)
        (run.folder / "progress").unlink(missing_ok=True)
        recorder = {
            "class_path": "ewnprune.study.run.Recorder",
            "init_args": {"folder": str(run.folder)},
        }
        keep_last = {
            "class_path": "pytorch_lightning.callbacks.ModelCheckpoint",
            "init_args": {
                "dirpath": str(run.folder / "checkpoints"),
                "filename": "last",
                "enable_version_counter": False,
                "mode": "max",  # of nothing: a user's own, "min" by default, has another state then
            },
        }
        quiet = {"enable_progress_bar": False, "enable_model_summary": False}
        config = merge({"trainer": {**quiet, "callbacks": []}}, run.config)
        if config["trainer"].get("devices") in (None, "auto"):
            config["trainer"]["devices"] = 1  # of two GPUs Lightning would take both
        own = {"callbacks": [recorder, keep_last], "enable_checkpointing": True}
        own["default_root_dir"] = str(run.folder)  # where SLURM's checkpoints lie
        config = merge(config, {"trainer": own})
        write_text(run.folder / CONFIG, yaml.safe_dump(config, sort_keys=False))
        settings = {"method": run.method, "seed": run.seed, "part": run.part, "fit": run.config}
        write_text(run.folder / SETTINGS, json.dumps(settings, indent=1) + "\n")
    return todo


@contextmanager
def _alone(folder: Path) -> Iterator[None]:
    """Keep a second command out of the folder: two processes would train one run."""
    folder.mkdir(parents=True, exist_ok=True)
    try:
        with FileLock(folder / ".lock", blocking=False):
            yield
    except Timeout as error:
        raise RuntimeError(f"{folder}: another ewnprune compare is at work in it") from error


def _last_line(folder: Path) -> str:
    path = folder / "log.txt"
    text = path.read_text(encoding="utf-8", errors="replace") if path.is_file() else ""
    return text.strip().splitlines()[-1] if text.strip() else "it said nothing"
