"""A command in a child process, run to its end or killed on the way."""

import contextlib
import os
import signal
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path


def _start(folder: Path, run: Callable[[], int | None], temporary: Path | None = None) -> int:
    folder.mkdir(parents=True, exist_ok=True)
    child = os.fork()
    if child:
        return child
    try:
        os.setsid()  # its children can be killed with it
        os.chdir(folder)
        log = os.open("log.txt", os.O_WRONLY | os.O_CREAT | os.O_APPEND)
        os.dup2(log, 1)
        os.dup2(log, 2)
        if temporary is not None:
            tempfile.tempdir = str(temporary)
        status = run() or 0
    except BaseException as error:
        print(f"{type(error).__name__}: {error}", file=sys.stderr)
        status = 99
    sys.stdout.flush()
    os._exit(status)


def whole(folder: Path, run: Callable[[], int | None]) -> float:
    """Run to the end; gives back the seconds."""
    began = time.monotonic()
    _, status = os.waitpid(_start(folder, run), 0)
    if status:
        raise AssertionError(f"status {status}: {(folder / 'log.txt').read_text()[-2000:]}")
    return time.monotonic() - began


def cut(
    folder: Path,
    run: Callable[[], int | None],
    seconds: float,
    temporary: Path | None = None,
) -> bool:
    """Run and kill after so many seconds; gives back whether it was still alive."""
    child = _start(folder, run, temporary)
    time.sleep(seconds)
    ended, status = os.waitpid(child, os.WNOHANG)
    if ended:
        assert status == 0, (folder / "log.txt").read_text()[-2000:]
        return False
    with contextlib.suppress(ProcessLookupError):
        os.killpg(child, signal.SIGKILL)
    os.kill(child, signal.SIGKILL)
    os.waitpid(child, 0)
    return True
