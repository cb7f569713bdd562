"""Where the runs of a study run: processes of this machine, or (`ray_engine`) of a cluster."""

import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Generator, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path

from ewnprune.errors import UsageError

Events = Generator[tuple[Path, int] | None, None, None]
"""A folder and its run's exit status as each ends; None after each look. Closing ends runs."""

LOOK_EVERY = 0.5  # seconds


def run_locally(folders: Sequence[Path], workers: int | None = None) -> Events:
    """Run each folder's run in a process of its own, several at a time.

    Args:
        folders: the runs' folders, in the order to start them.
        workers: how many at a time; as many as there are cores (or runs) by default. The cores are
            shared evenly: each process computes with ``cores // workers`` threads.

    Yields:
        A folder and its exit status as each ends; None after each look, so that the caller can
        show progress.

    Raises:
        UsageError: ``workers`` < 1.
    """
    check_workers(workers)
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    cores = cores or 1
    workers = min(workers or cores, max(len(folders), 1))
    environment = {**os.environ, **threads(cores // workers)}
    waiting, running = list(folders), dict[Path, subprocess.Popen[bytes]]()
    with terminated_as_interrupted():
        try:
            while waiting or running:
                while waiting and len(running) < workers:
                    folder = waiting.pop(0)
                    running[folder] = start_run(folder, environment)
                time.sleep(LOOK_EVERY)
                for folder, process in list(running.items()):
                    if process.poll() is not None:
                        process.communicate()  # closes the pipe
                        del running[folder]
                        yield folder, process.returncode
                yield None
        finally:
            stop_runs(running.values())


def start_run(
    folder: Path, environment: Mapping[str, str], cwd: str | None = None
) -> "subprocess.Popen[bytes]":
    """Start a run, which ends with the process that calls this, however that one ends.

    Else a study that is started again after it was killed would have two processes in one folder.
    The pipe is how the run notices: its other end is closed when this process is gone.
    """
    python = [sys.executable, *(["-P"] if sys.flags.safe_path else [])]
    with open(folder / "log.txt", "ab") as log:
        return subprocess.Popen(
            [*python, "-m", "ewnprune.study.run", str(folder), "--while-stdin-is-open"],
            stdin=subprocess.PIPE,
            stdout=log,
            stderr=subprocess.STDOUT,
            env=environment,
            cwd=cwd,
            start_new_session=True,  # a second Ctrl-C would cut them off before they have saved
        )


def stop_runs(processes: Iterable["subprocess.Popen[bytes]"], patience: float = 30) -> None:
    """Let them finish the batch and leave a checkpoint; end those that take longer."""
    processes = list(processes)
    for process in processes:
        process.send_signal(signal.SIGINT)
    deadline = time.monotonic() + patience
    for process in processes:
        try:
            process.wait(max(0.0, deadline - time.monotonic()))
        except subprocess.TimeoutExpired:
            process.kill()
        process.communicate()


def threads(count: int) -> dict[str, str]:
    """The environment of a process that computes with so many threads."""
    number = str(max(1, count))
    return {"OMP_NUM_THREADS": number, "MKL_NUM_THREADS": number}


def check_workers(workers: int | None) -> None:
    """Refuse fewer than one."""
    if workers is not None and workers < 1:
        raise UsageError(f"workers={workers}: expected at least 1")


@contextmanager
def terminated_as_interrupted() -> Iterator[None]:
    """SIGTERM, a service manager's way to say Ctrl-C, raises KeyboardInterrupt as that does."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before = signal.signal(signal.SIGTERM, signal.default_int_handler)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)
