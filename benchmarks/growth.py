"""How cost and memory grow with neurons, layers, levels, samples and runs.

    python -m benchmarks.growth

Each quantity goes over a decade with the others fixed; the table has the CPU time and the peak
memory of tensors (of Python's objects for runs) at both ends, and the exponent of the power law
fitted to all sizes by least squares of the logarithms. 1 is linear; fixed costs make it smaller.
"""

import argparse
import time
import tracemalloc
from collections.abc import Callable, Iterator
from dataclasses import replace

import numpy as np
import torch
from torch import Tensor, nn

from benchmarks.machine import describe
from benchmarks.memory import peak_bytes
from ewnprune import EWN, Curve, neuron_param_groups, reparametrize, sparsity_curve
from ewnprune.study.analysis import analyse
from ewnprune.training.optimizers import EWNSGD
from lightning_modules import MLP

Work = Callable[[], object]
Case = tuple[str, str, Iterator[tuple[int, Work]]]
DECADE = (1, 2, 4, 7, 10)
LEVELS = (0.0, 0.25, 0.5, 0.75, 0.9)


def data(samples: int, features: int = 784) -> list[tuple[Tensor, Tensor]]:
    """Batches of 128."""
    x, y = torch.randn(samples, features), torch.randint(10, (samples,))
    return list(zip(x.split(128), y.split(128), strict=True))


def sweep_of(network: nn.Module, samples: int, levels: tuple[float, ...] = LEVELS) -> Work:
    """A sweep by two scores."""
    first = next(p for p in network.parameters() if p.ndim == 2)
    batches = data(samples, first.shape[1])
    return lambda: sparsity_curve(network, batches, levels, ("norm", "norm_product"))


def attached(neurons: int) -> Work:
    """What training under EWN adds to a step: the weight and its gradient."""
    network = MLP(hidden=(neurons,))
    reparametrize(network, EWN())
    layer, gradient = network.fc1, torch.randn(neurons, 784)
    return lambda: layer.weight.backward(gradient)


def update(kind: type[EWNSGD] | type[torch.optim.SGD], neurons: int) -> Work:
    """A step of the optimizer."""
    network = MLP(hidden=(neurons,))
    for p in network.parameters():
        p.grad = torch.randn_like(p)
    return kind(neuron_param_groups(network) if kind is EWNSGD else network.parameters(), 1e-9).step


def study_of(methods: int) -> Work:
    """The tables of a study with three seeds of each method."""
    points = sweep_of(MLP(hidden=(16,)), 128)()
    assert isinstance(points, Curve)
    norm = points.where(score="norm")
    curves = [
        Curve(tuple(replace(p, method=f"m{method}", seed=seed, split="val") for p in norm))
        for method in range(methods)
        for seed in range(3)
    ]
    return lambda: analyse(sum(curves, Curve()), "m0")


def cases() -> Iterator[Case]:
    """What grows, of what, and the work at each size."""
    yield "neurons", "EWN's weight and gradient", ((320 * k, attached(320 * k)) for k in DECADE)
    yield "neurons", "EWNSGD step", ((320 * k, update(EWNSGD, 320 * k)) for k in DECADE)
    sgd = torch.optim.SGD
    yield "neurons", "SGD step, to compare", ((320 * k, update(sgd, 320 * k)) for k in DECADE)
    yield "neurons", "sweep", ((320 * k, sweep_of(MLP(hidden=(320 * k,)), 512)) for k in DECADE)
    yield (
        "layers",
        "sweep",
        ((3 * k, sweep_of(MLP(64, (256,) * 3 * k), 512)) for k in DECADE),
    )
    yield (
        "levels",
        "sweep",
        ((4 * k, sweep_of(MLP(64, (256,) * 4), 512, _levels(4 * k))) for k in DECADE),
    )
    yield "samples", "sweep", ((512 * k, sweep_of(MLP(hidden=(512,)), 512 * k)) for k in DECADE)
    yield "runs", "tables of a study", ((6 * k, study_of(2 * k)) for k in DECADE)


def _levels(count: int) -> tuple[float, ...]:
    return tuple(0.95 * i / count for i in range(count))


def seconds(work: Work, repeats: int) -> float:
    """Least CPU time of several calls, each of as many as take a while."""
    work()
    count, start = 0, time.process_time()
    while time.process_time() - start < 0.02:
        work()
        count += 1
    least = (time.process_time() - start) / count
    for _ in range(repeats - 1):
        start = time.process_time()
        for _ in range(count):
            work()
        least = min(least, (time.process_time() - start) / count)
    return least


def objects(work: Work) -> int:
    """Peak bytes of Python's objects."""
    tracemalloc.start()
    work()
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    return peak


def exponent(sizes: list[int], values: list[float]) -> float:
    """Slope of the line through the logarithms; NaN where nothing was needed."""
    if min(values) <= 0:
        return float("nan")
    return float(np.polyfit(np.log(sizes), np.log(values), 1)[0])


def main() -> None:
    """Measure, and print the table."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--repeats", type=int, default=5)
    repeats = parser.parse_args().repeats
    torch.set_num_threads(1)
    torch.manual_seed(0)
    print(f"\nLeast of {repeats} repeats. {describe()}\n")
    print("| grows | of what | CPU ms | exponent | peak MiB | exponent |")
    print("| --- | --- | --- | --- | --- | --- |")
    for grows, what, works in cases():
        sizes, times, peaks = [], [], []
        for size, work in works:
            sizes.append(size)
            times.append(1e3 * seconds(work, repeats))
            peaks.append((objects if grows == "runs" else peak_bytes)(work) / 2**20)
        print(
            f"| {grows}, {sizes[0]} to {sizes[-1]} | {what} | {times[0]:.2f} to {times[-1]:.2f} "
            f"| {exponent(sizes, times):.2f} | {peaks[0]:.3f} to {peaks[-1]:.3f} "
            f"| {exponent(sizes, peaks):.2f} |",
            flush=True,
        )


if __name__ == "__main__":
    main()
