from __future__ import annotations

import os

# before torch is imported: the processes that test side by side would wait for each other's threads
os.environ.setdefault("OMP_NUM_THREADS", "1")

from pathlib import Path

import pytest
import torch

from lightning_modules.fetch import fetch
from lightning_modules.files import cache_dir


@pytest.fixture(scope="session")
def mnist_dir() -> Path:
    """A folder with MNIST in torchvision's layout, fetched once per machine; do not write to it."""
    fetch(cache_dir(), "MNIST", replace=True)
    return cache_dir()


torch.manual_seed(0)  # for the layers that test modules make when they are imported


@pytest.fixture(autouse=True)
def _seeded(monkeypatch: pytest.MonkeyPatch) -> None:
    """Every test draws the same numbers, alone or among others; its files need no disk."""
    torch.manual_seed(0)
    monkeypatch.setattr(os, "fsync", lambda _: None)
