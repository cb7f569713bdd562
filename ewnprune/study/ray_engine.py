"""Where the runs of a study run: the machines of a Ray cluster (extra ``ray``).

Each run is a task of one CPU, and of one GPU where the cluster has any, with a process of its own
inside, as on one machine. The runs' folders lie on a file system that all machines share: they hold
the checkpoints that a run goes on from on another machine when its own is lost.
"""

import importlib
import logging
import os
import socket
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any
from uuid import uuid4

from ewnprune import __version__
from ewnprune.study.engines import (
    LOOK_EVERY,
    Events,
    check_workers,
    start_run,
    stop_runs,
    terminated_as_interrupted,
    threads,
)

_RETRIES = 3  # of a run whose worker or machine is lost; Ray's own default
_PATIENCE = 60  # seconds for a machine to answer


def import_ray() -> Any:
    """The package.

    Raises:
        ImportError: it is not installed.
    """
    # a tool that is asked for curves is not to report on its user; whoever wants it says so
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    try:
        return importlib.import_module("ray")
    except ImportError as error:
        raise ImportError("--engine ray needs the package ray: pip install ray") from error


def run_on_ray(
    folders: Sequence[Path],
    workers: int | None = None,
    address: str | None = None,
) -> Events:
    """Run each folder's run as a task of a Ray cluster.

    A run whose worker or machine is lost is tried again, up to three times, and goes on from its
    last checkpoint.

    Args:
        folders: the runs' folders, in the order to start them.
        workers: how many at a time; by default as many as the cluster has room for.
        address: of the cluster, ``host:port``, or ``auto`` for the one that this machine belongs
            to. By default one is started on this machine, and stopped at the end.

    Yields:
        As `engines.run_locally` does.

    Raises:
        ImportError: Ray is not installed.
        ConnectionError: there is no cluster at ``address``.
        ValueError: ``workers`` < 1, or a machine of the cluster that cannot run these runs: it does
            not see their folders, or has another ewnprune.
    """
    check_workers(workers)
    ray = import_ray()
    _join(ray, address, workers)
    tasks: dict[Any, Path] = {}
    waiting = [folder.resolve() for folder in folders]
    given = dict(zip(waiting, folders, strict=True))
    try:
        _check_machines(ray, waiting)
        gpus = 1 if ray.cluster_resources().get("GPU") else 0
        task = ray.remote(num_cpus=1, num_gpus=gpus, max_retries=_RETRIES)(_run)
        kept = {key: os.environ[key] for key in ("PYTHONPATH",) if key in os.environ}
        with terminated_as_interrupted():
            while waiting or tasks:
                while waiting and len(tasks) < (workers or len(folders)):
                    folder = waiting.pop(0)
                    tasks[task.remote(folder, os.getcwd(), kept)] = folder
                done, _ = ray.wait(list(tasks), num_returns=len(tasks), timeout=LOOK_EVERY)
                for reference in done:
                    folder = tasks.pop(reference)
                    yield given[folder], _status(ray, reference, folder)
                yield None
    finally:
        for reference in tasks:
            ray.cancel(reference)
        if tasks:  # as long as the processes may take to leave a checkpoint
            ray.wait(list(tasks), num_returns=len(tasks), timeout=40)
        ray.shutdown()


def _run(folder: Path, here: str, environment: dict[str, str]) -> int:
    """One run, in a worker of the cluster; gives back its exit status."""
    process = start_run(folder, {**os.environ, **environment, **threads(1)}, cwd=here)
    try:
        while process.poll() is None:
            time.sleep(0.2)  # a wait that Ray's cancel could not interrupt would be for good
    finally:
        stop_runs([process])
    return int(process.returncode)


def _join(ray: Any, address: str | None, workers: int | None) -> None:
    quiet: dict[str, Any] = {"logging_level": logging.ERROR, "log_to_driver": False}
    if address is None:
        # nothing is shipped through the object store: its least size
        ray.init(
            address="local",
            num_cpus=workers,
            include_dashboard=False,
            object_store_memory=80_000_000,
            **quiet,
        )
        return
    host, colon, port = address.rpartition(":")
    if address != "auto":
        if not colon or not port.isdecimal():
            raise ValueError(f"--address {address}: expected auto or host:port")
        try:  # Ray itself would try for many minutes
            socket.create_connection((host.removeprefix("ray://"), int(port)), 10).close()
        except OSError as error:
            raise ConnectionError(
                f"--address {address}: no answer ({error}); start a cluster with ray start --head"
            ) from error
    try:
        ray.init(address=address, **quiet)
    except ConnectionError as error:
        raise ConnectionError(
            f"--address {address}: no Ray cluster found; start one with ray start --head, or leave "
            "the address out for one on this machine alone"
        ) from error


def _check_machines(ray: Any, folders: Sequence[Path]) -> None:
    """Refuse a cluster with a machine that cannot run the runs, before any is started."""
    strategy = importlib.import_module("ray.util.scheduling_strategies")
    here, token = os.getcwd(), folders[0].parent / f".seen-{uuid4().hex}"
    look = ray.remote(num_cpus=0, max_retries=0)(_look)
    nodes = [n for n in ray.nodes() if n["Alive"] and n["Resources"].get("CPU")]
    if not nodes:
        raise ValueError("--engine ray: no machine of the cluster has a CPU to run on")
    token.touch()
    try:
        for node in nodes:
            pinned = strategy.NodeAffinitySchedulingStrategy(node["NodeID"], soft=False)
            try:
                asked = look.options(scheduling_strategy=pinned).remote(token, here, __version__)
                problem = ray.get(asked, timeout=_PATIENCE)
            except ray.exceptions.RayError as error:
                problem = f"it cannot run ewnprune: {str(error).strip().splitlines()[-1]}"
            if problem:
                raise ValueError(f"--engine ray: machine {node['NodeManagerAddress']}: {problem}")
    finally:
        token.unlink()


def _look(token: Path, here: str, version: str) -> str:
    """What keeps this machine from running these runs; nothing if nothing does."""
    if version != __version__:
        return f"it has ewnprune {__version__}; expected {version}, as where the study is started"
    if not token.is_file() or not Path(here).is_dir():
        seen = token.parent if not token.is_file() else here
        return (
            f"it does not see {seen}: expected a study in a folder, started from a folder, that "
            "all machines share under the same path"
        )
    return ""


def _status(ray: Any, reference: Any, folder: Path) -> int:
    try:
        return int(ray.get(reference))
    except ray.exceptions.RayError as error:
        reason = " ".join(str(error).split())
        with open(folder / "log.txt", "a", encoding="utf-8") as log:
            log.write(f"\newnprune: error: Ray gave it up: {reason[:500]}\n")
        return 1
