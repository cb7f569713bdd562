"""How long a network takes, measured."""

import logging
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import torch

from ewnprune.model.fast_attention import fast_attention_as_outside
from ewnprune.model.tensors import tensors_in

_ROUNDS = 5


@dataclass(frozen=True)
class Latency:
    """How long one batch takes, as measured on one machine.

    Attributes:
        milliseconds: the median over many runs.
        batch_size: samples per run.
        device: ``"cpu"``, or the name of the GPU.
        threads: threads that torch could use on the CPU.
    """

    milliseconds: float
    batch_size: int
    device: str
    threads: int


def measure_latency(
    networks: Mapping[str, Callable[[Any], Any]], inputs: Any, *, seconds: float = 1.0
) -> dict[str, Latency]:
    """Time the forward passes of some networks, side by side, without gradients.

    Measured by `torch.utils.benchmark.Timer`, which warms up and waits for a GPU to finish. The
    networks take turns, so that a machine that is busy for a while is so for all of them. What
    masks zero is still computed: only the time of a network that is smaller says anything.

    Args:
        networks: modules, or other functions of the inputs, by name; each in the mode (train,
            eval) that it is in.
        inputs: one batch, on the networks' device.
        seconds: at least how long to measure each network.

    Raises:
        ValueError: there is no time to measure in, or no tensor among the inputs.

    >>> latency = measure_latency({"relu": torch.relu}, torch.zeros(4, 8), seconds=0.01)["relu"]
    >>> latency.batch_size, latency.device, latency.milliseconds > 0
    (4, 'cpu', True)
    """
    # it looks for a CUDA compiler, which nobody here asks for, and logs that it finds no GPU
    logger = logging.getLogger("torch.utils.cpp_extension")
    before, logger.disabled = logger.disabled, True
    from torch.utils.benchmark import Measurement, Timer

    logger.disabled = before

    if not seconds > 0:
        raise ValueError(f"seconds={seconds}: expected a positive time to measure each network in")
    tensors = [tensor for tensor in tensors_in(inputs) if tensor.ndim]
    if not tensors:
        raise ValueError("the inputs hold no batch of samples: expected a tensor (batch, ...)")
    threads = torch.get_num_threads()
    timers = {
        name: Timer(
            "network(inputs)", globals={"network": n, "inputs": inputs}, num_threads=threads
        )
        for name, n in networks.items()
    }
    measured: dict[str, list[Measurement]] = {name: [] for name in networks}
    # the timer waits for the current device
    with torch.inference_mode(), fast_attention_as_outside(), torch.cuda.device_of(tensors[0]):
        for _ in range(_ROUNDS):
            for name, timer in timers.items():
                measured[name].append(timer.blocked_autorange(min_run_time=seconds / _ROUNDS))
    gpu = tensors[0].device.type == "cuda"
    device = torch.cuda.get_device_name(tensors[0].device) if gpu else str(tensors[0].device)
    found = {}
    for name, rounds in measured.items():
        (all_rounds,) = Measurement.merge(rounds)
        found[name] = Latency(1e3 * all_rounds.median, len(tensors[0]), device, threads)
    return found
