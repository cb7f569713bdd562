"""Where the runs of a study run: processes of this machine."""

import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator, Sequence
from pathlib import Path


def run_locally(
    folders: Sequence[Path], workers: int | None = None, interval: float = 0.5
) -> Iterator[tuple[Path, int] | None]:
    """Run each folder's run in a process of its own, several at a time.

    Args:
        folders: the runs' folders, in the order to start them.
        workers: how many at a time; as many as there are cores (or runs) by default. The cores are
            shared evenly: each process computes with ``cores // workers`` threads.
        interval: seconds between two looks at the processes.

    Yields:
        A folder and its exit status as each ends; None after each look, so that the caller can
        show progress.

    Raises:
        ValueError: ``workers`` < 1.
    """
    if workers is not None and workers < 1:
        raise ValueError(f"workers={workers}: expected at least 1")
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    cores = cores or 1
    workers = min(workers or cores, max(len(folders), 1))
    threads = str(max(1, cores // workers))
    environment = {**os.environ, "OMP_NUM_THREADS": threads, "MKL_NUM_THREADS": threads}
    waiting, running = list(folders), dict[Path, subprocess.Popen[bytes]]()
    main_thread = threading.current_thread() is threading.main_thread()
    if main_thread:  # a service manager's way to say Ctrl-C
        before = signal.signal(signal.SIGTERM, signal.default_int_handler)
    try:
        while waiting or running:
            while waiting and len(running) < workers:
                folder = waiting.pop(0)
                running[folder] = _start(folder, environment)
            time.sleep(interval)
            for folder, process in list(running.items()):
                if process.poll() is not None:
                    del running[folder]
                    yield folder, process.returncode
            yield None
    finally:
        if main_thread:
            signal.signal(signal.SIGTERM, before)
        for process in running.values():
            process.send_signal(signal.SIGINT)  # they finish the batch and leave a checkpoint
        deadline = time.monotonic() + 30
        for process in running.values():
            try:
                process.wait(max(0.0, deadline - time.monotonic()))
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()


def _start(folder: Path, environment: dict[str, str]) -> "subprocess.Popen[bytes]":
    with open(folder / "log.txt", "ab") as log:
        return subprocess.Popen(
            [sys.executable, "-m", "ewnprune.study_run", str(folder)],
            stdout=log,
            stderr=subprocess.STDOUT,
            env=environment,
            start_new_session=True,  # a second Ctrl-C would cut them off before they have saved
        )
