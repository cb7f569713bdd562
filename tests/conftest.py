from __future__ import annotations

import os

# before torch is imported: the processes that test side by side would wait for each other's threads
os.environ.setdefault("OMP_NUM_THREADS", "1")
os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")  # where a test asks for more of them

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import HealthCheck, settings
from matplotlib.figure import Figure

from ewnprune.callback import run_files
from ewnprune.curve import built
from ewnprune.curve.curve import Curve
from ewnprune.curve.figure import plot_curve
from ewnprune.experiments.mnist_digits import Digits
from ewnprune.export import card
from ewnprune.model.latency import Latency, measure_latency
from ewnprune.pruning import budget
from lightning_modules.fetch import fetch
from lightning_modules.files import cache_dir

pytest.register_assert_rewrite("toys")  # what their assertions compare is shown as a test's is

# a machine that is busy with other work is slow, and no example is wrong for that
settings.register_profile("suite", deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.load_profile("suite")


@pytest.fixture(scope="session")
def mnist_dir() -> Path:
    """A folder with MNIST in torchvision's layout, fetched once per machine; do not write to it."""
    fetch(cache_dir(), "MNIST", replace=True)
    return cache_dir()


@pytest.fixture
def digits() -> Callable[..., Digits]:
    """Makes images of which fifty pixels carry the class, some more clearly than others."""

    def make(count: int, dtype: torch.dtype = torch.float64) -> Digits:
        generator = torch.Generator().manual_seed(4)
        y = torch.arange(count) % 10
        x = torch.randn(count, 784, generator=generator, dtype=torch.float64) / 3
        clear = 1 + 9 * torch.rand(count, generator=generator, dtype=torch.float64)
        for k in range(10):
            x[y == k, 5 * k : 5 * k + 5] += clear[y == k, None]
        return Digits(x.to(dtype), y)

    return make


torch.manual_seed(0)  # for the layers that test modules make when they are imported


@pytest.fixture(autouse=True)
def _seeded(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Every test draws the same numbers, alone or among others; its files need no disk.

    Networks of a curve and of an export are timed, but not for long, and the figure of a fit is
    drawn, but its files are empty.
    """
    torch.manual_seed(0)
    _forget_seed()
    monkeypatch.setattr(os, "fsync", lambda _: None)
    monkeypatch.setattr(run_files, "plot_curve", _drawn)
    for module in (built, card, budget):
        monkeypatch.setattr(module, "measure_latency", _soon)
    yield
    _forget_seed()
    torch.set_flush_denormal(False)  # a run of a study, which has a process of its own, sets it


def _forget_seed() -> None:
    """What Lightning's seed_everything leaves for other processes, and the next test would find."""
    for name in ("PL_GLOBAL_SEED", "PL_SEED_WORKERS"):
        os.environ.pop(name, None)


@pytest.fixture
def figure_files(monkeypatch: pytest.MonkeyPatch) -> None:
    """The figures of fits are files as users have them; a third of what a small fit costs."""
    monkeypatch.setattr(run_files, "plot_curve", plot_curve)


def _drawn(curve: Curve, *paths: Path, **options: Any) -> Figure:
    figure = plot_curve(curve, **options)
    for path in paths:
        path.touch()
    return figure


def _soon(*args: Any, seconds: float) -> dict[str, Latency]:
    return measure_latency(*args, seconds=min(seconds, 0.01))
