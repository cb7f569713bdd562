"""``ewnprune reproduce``: run experiments of the paper and judge them."""

import io
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, redirect_stderr
from pathlib import Path
from typing import Any, Literal, TextIO

import torch

from ewnprune.errors import UsageError
from ewnprune.experiments import (
    conv_rate,
    flow,
    lin_sep,
    mnist,
    mnist_small,
    simple_traj,
    verdict,
    xor,
)
from ewnprune.experiments.descent import METHODS, Method
from ewnprune.files import local_path

Experiment = Literal[
    "simple-traj", "xor", "lin-sep", "conv-rate", "flow", "mnist-small", "mnist", "all"
]
_ROOMS: dict[str, Callable[..., list[verdict.Criterion]]] = {
    "flow": flow.run,
    "simple-traj": simple_traj.run,
    "xor": xor.run,
    "lin-sep": lin_sep.run,
    "conv-rate": conv_rate.run,
    "mnist-small": mnist_small.run,
    "mnist": mnist.run,
}

_SECONDS = 60  # between two lines on how far an experiment is


def reproduce(
    experiment: Experiment,
    out: str = "reproduced",
    seeds: int | None = None,
    depth: Literal[10, 100, 300] | None = None,
    methods: Sequence[Method] = METHODS,
    data_dir: str | None = None,
    device: str = "cpu",
) -> int:
    """Run experiments of the paper, and say which acceptance criteria hold.

    Each leaves its data (CSV), its figure (PNG and SVG, the authors' logged values drawn in) and
    verdict.json in a folder of its own. An experiment that is finished with the same settings is
    not run again, and an interrupted run on MNIST goes on where it stopped.

    Args:
        experiment: what to run; all is everything but mnist, which takes hours.
        out: folder for the results.
        seeds: number of seeds of xor (default 20), conv-rate (3), mnist-small (1) and mnist (2).
        depth: how deep the runs on MNIST go: to log L = -10 (default of mnist, minutes a run), -100
            (default of mnist-small; half an hour a run on mnist) or -300 (mnist-small: 10 minutes
            more; mnist: hours a run on a CPU, minutes for all on a GPU).
        methods: the methods of mnist.
        data_dir: folder of the MNIST files; by default the user's cache, and fetched if need be.
        device: where mnist runs, such as cuda.

    Returns:
        The exit status: 0 if every criterion holds, or nothing was judged, else 1.

    Raises:
        UsageError: a number of seeds below 1, or a device that is not there.
    """
    if seeds is not None and seeds < 1:
        raise UsageError(f"seeds={seeds}: expected a number >= 1")
    _check_device(device)
    options = _options(seeds, depth, methods)
    names = [name for name in _ROOMS if name != "mnist"] if experiment == "all" else [experiment]
    found: list[verdict.Criterion] = []
    for name in names:
        found += _run(name, local_path(out) / name, options[name], data_dir, device)
    failed = sum(not criterion.passed for criterion in found)
    if found:
        print(f"{len(found) - failed} of {len(found)} criteria hold")
    else:
        print("nothing was judged: no criterion is about these methods at this depth")
    return 1 if failed else 0


def _check_device(device: str) -> None:
    expected = UsageError(f"device={device!r}: expected cpu, or a GPU such as cuda")
    try:
        kind = torch.device(device).type
    except RuntimeError as error:
        raise expected from error
    if kind not in ("cpu", "cuda"):  # all is in float64
        raise expected
    if kind == "cuda" and not torch.cuda.is_available():
        raise UsageError(f"device={device!r}: torch sees no GPU here; leave it out to use the CPU")


@contextmanager
def _lines_in_a_file() -> Iterator[None]:
    """Where the output is no terminal, a line a minute in place of the experiments' bars."""
    if sys.stdout.isatty() and sys.stderr.isatty():
        yield
        return
    with redirect_stderr(_Lines(sys.stderr)):
        yield


class _Lines(io.TextIOBase):
    r"""Takes what tqdm draws over and over, after ``\r``, and lets all other text through."""

    def __init__(self, stream: TextIO) -> None:
        self.stream = stream
        self._shown = time.monotonic()

    def write(self, text: str) -> int:
        if not text.startswith("\r"):
            return self.stream.write(text)
        drawn = text.strip()
        if drawn and time.monotonic() > self._shown + _SECONDS:
            print(drawn, flush=True)
            self._shown = time.monotonic()
        return len(text)

    def flush(self) -> None:
        self.stream.flush()


def _options(
    seeds: int | None, depth: int | None, methods: Sequence[Method]
) -> dict[str, dict[str, Any]]:
    """What decides the results of each experiment, defaults included."""
    return {
        "flow": {},
        "simple-traj": {},
        "xor": {"seeds": seeds or 20},
        "lin-sep": {},
        "conv-rate": {"seeds": seeds or 3},
        "mnist-small": {"seeds": seeds or 1, "deep": depth == 300},
        "mnist": {"seeds": seeds or 2, "depth": depth or 10, "methods": list(methods)},
    }


def _run(
    name: str, out: Path, settings: Mapping[str, Any], data_dir: str | None, device: str
) -> list[verdict.Criterion]:
    criteria = verdict.finished(out, settings)
    if criteria is None:
        out.mkdir(parents=True, exist_ok=True)
        (out / "verdict.json").unlink(missing_ok=True)  # of other settings
        where: dict[str, Any] = {}
        if name.startswith("mnist"):
            where["data_dir"] = data_dir
        if name == "mnist":
            where["device"] = device
        begun = time.monotonic()
        with _lines_in_a_file():
            criteria = _ROOMS[name](out, **settings, **where)
        verdict.write_verdict(out, settings, criteria)
        print(f"{name}: {time.monotonic() - begun:.0f} s, in {out}")
    else:
        print(f"{name}: finished before, in {out}")
    if criteria:
        print(verdict.table(criteria))
    return criteria
