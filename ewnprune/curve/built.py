"""What networks cost that were really built: bytes on disk, and measured time."""

from collections.abc import Sequence
from functools import partial
from typing import Any, Literal

import torch

from ewnprune.curve.variant import Variant
from ewnprune.model.latency import measure_latency
from ewnprune.model.size import state_dict_bytes
from ewnprune.model.tensors import repeated, samples
from ewnprune.model.tracing import Forward
from ewnprune.pruning.notes import Note

Realize = Literal["mask", "remove", "repair"]
"""How the network of a level comes about.

- ``mask``: as removal would make it, evaluated and dropped;
- ``remove``: built, and its bytes and latency measured too;
- ``repair``: the same, with the mean of what was removed added to the biases that follow.
"""


def measure_costs(
    variants: Sequence[Variant], forward: Forward, inputs: Any, batch_size: int, seconds: float
) -> tuple[list[dict[str, float]], list[Note]]:
    """Build networks and measure what they cost, side by side.

    Args:
        variants: the networks.
        forward: from network and inputs to outputs.
        inputs: a batch.
        batch_size: samples per forward pass where the time is measured.
        seconds: how long to measure each network.

    Returns:
        For each network ``"bytes"``, the size of its state dict on disk, and ``"latency_ms"``, the
        median time of a forward pass after warming up; and how that was measured.
    """
    networks = {str(place): variant.network() for place, variant in enumerate(variants)}
    timed = {name: partial(forward, network) for name, network in networks.items()}
    latencies = measure_latency(timed, repeated(inputs, batch_size), seconds=seconds)
    costs = [
        {"bytes": float(state_dict_bytes(network)), "latency_ms": latencies[name].milliseconds}
        for name, network in networks.items()
    ]
    one = next(iter(latencies.values()))
    batch = f"batch of {one.batch_size}" if samples(inputs) else "a batch of the data"
    how = f"median, {batch}, on {one.device}, {one.threads} CPU threads, torch {torch.__version__}"
    inputs = any(group.inputs for group in variants[0].found.groups)
    what = "inputs" if inputs else "neurons"
    built = f"{what} removed for good: each network was built, and timed by itself"
    return costs, [Note("sizes", built), Note("latency", how)]
