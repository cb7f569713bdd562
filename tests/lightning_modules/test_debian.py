"""Fashion-MNIST from Debian's package."""

from __future__ import annotations

import gzip
import os

import pytest

from lightning_modules import MNISTDataModule, fetch
from lightning_modules.files import FILES, SHA256, TEST_LABELS


def source(monkeypatch: pytest.MonkeyPatch, *ways, name: str = "MNIST") -> None:
    """Makes these functions the only ways to get MNIST."""
    monkeypatch.setitem(fetch._SOURCES, name, [(way.__name__, way) for way in ways])


def test_debians_package_of_fashion_mnist(tmp_path, mnist_dir, monkeypatch):
    """MNIST plays Fashion-MNIST, and two scripts play Debian's programs."""
    monkeypatch.setitem(SHA256, "FashionMNIST", SHA256["MNIST"])
    packed = tmp_path / "packed"
    packed.mkdir()
    for file in FILES:
        content = (mnist_dir / "MNIST" / "raw" / file).read_bytes()
        (packed / f"{file}.gz").write_bytes(gzip.compress(content, 0))
    scripts = {
        "apt-get": '[ "$*" = "download dataset-fashion-mnist" ] && touch fashion.deb',
        "dpkg-deb": f'[ -e "$2" ] && mkdir -p "$3"/usr/share/datasets && '
        f'cp -r {packed} "$3"/usr/share/datasets/fashion-mnist',
    }
    for program, script in scripts.items():
        (tmp_path / program).write_text(f"#!/bin/sh\n{script}\n")
        (tmp_path / program).chmod(0o755)
    monkeypatch.setenv("PATH", str(tmp_path), prepend=os.pathsep)
    source(monkeypatch, fetch._debian_fashion, name="FashionMNIST")
    module = MNISTDataModule(tmp_path / "root", fashion=True)
    module.prepare_data()
    module.setup()
    loader = module.test_dataloader()
    assert (loader.mean, loader.std) == (0.2860, 0.3530)
    assert len(loader.images) == 10_000
    assert (tmp_path / "root" / "FashionMNIST" / "raw" / TEST_LABELS).is_file()


def test_without_debian_that_way_says_so(tmp_path, monkeypatch):
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(RuntimeError, match="there is no apt-get here"):
        fetch._debian_fashion(tmp_path)
