"""`removal_curve`: what networks with neurons removed for good get right, and what they cost."""

from collections.abc import Callable, Iterable, Mapping, Sequence
from copy import deepcopy
from dataclasses import replace
from functools import partial
from io import BytesIO
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils._pytree import tree_map_only

from ewnprune.curve import Count, Curve
from ewnprune.graph import Forward, call
from ewnprune.latency import Latency, measure_latency
from ewnprune.layers import LayerPatterns, layer_weight, num_neurons, select_layers
from ewnprune.masks import check_sparsities
from ewnprune.preserve import device_of, evaluating, to_device
from ewnprune.ranking import Score, find_scores
from ewnprune.removal import remove_neurons
from ewnprune.sizes import count_macs, count_parameters
from ewnprune.sweep import Batch, inputs_and_targets, sparsity_curve


def removal_curve(
    model: nn.Module,
    loader: Iterable[Any],
    sparsities: Iterable[float],
    scores: str | Score | Sequence[str | Score] = ("norm",),
    *,
    remove: Callable[..., nn.Module] = remove_neurons,
    latency_batch_size: int = 1,
    latency_seconds: float = 0.5,
    batch: Batch = inputs_and_targets,
    forward: Forward = call,
    layers: LayerPatterns | None = None,
    exclude: LayerPatterns | None = None,
    method: str = "",
    **removal: Any,
) -> Curve:
    """Remove neurons for good at every level, and measure each smaller network.

    `sparsity_curve` masks, which is quick and costs what the dense network costs. Here each
    network is built by `remove_neurons` and run over the loader by itself: parameters and MACs are
    counted on it, and two measures are added to each point's metrics: ``"bytes"``, the size of its
    state dict on disk, and ``"latency_ms"``, the median time of a forward pass
    (`measure_latency`). The notes say on what device, at which batch size.

    Args:
        model: see `remove_neurons`; left as it is. Reparametrized layers must be folded first.
        loader: gives the batches, once for each network.
        sparsities: the levels, in [0, 1).
        scores: functions of `ewnprune.scores`, by name or import path, or any `Score`.
        remove: `remove_neurons`, or `remove_and_repair` and its like; give them a ``method`` each.
        latency_batch_size: samples per forward pass where the time is measured.
        latency_seconds: how long to measure each network.
        batch: from a batch of the loader to inputs and targets.
        forward: from model and inputs to outputs; ``model(inputs)`` by default.
        layers: which layers, see `select_layers`.
        exclude: which of them to leave.
        method: name for the series of points.
        **removal: further arguments of that function: ``scope``, ``initial_norms``, ``seed``.

    Returns:
        One point per score and level.

    Raises:
        ValueError: as `remove_neurons` and `sparsity_curve` do.

    >>> from torch.utils.data import DataLoader, TensorDataset
    >>> net = nn.Sequential(nn.Linear(4, 10), nn.ReLU(), nn.Linear(10, 3))
    >>> data = DataLoader(TensorDataset(torch.randn(64, 4), torch.randint(3, (64,))), 16)
    >>> curve = removal_curve(net, data, (0, 0.8), latency_seconds=0.01)
    >>> [point.parameters for point in curve]
    [Count(left=83, total=83), Count(left=19, total=83)]
    >>> sorted(curve.points[0].metrics)
    ['bytes', 'latency_ms']
    """
    levels = check_sparsities(sparsities)
    device = device_of(model)
    raw = next(iter(loader), None)
    if raw is None:
        raise ValueError("the loader gave no batch: expected at least one")
    inputs = to_device(batch(raw)[0], device)
    names = list(select_layers(model, layers, exclude).chosen)
    total = _sizes(model, forward, inputs, names)
    points = []
    for score in [scores] if isinstance(scores, str) or callable(scores) else scores:
        (name,) = find_scores(score)
        networks = {
            level: remove(
                model,
                level,
                inputs,
                score=score,
                layers=layers,
                exclude=exclude,
                forward=forward,
                **removal,
            )
            for level in levels
        }
        latencies = _time(networks, forward, inputs, latency_batch_size, latency_seconds)
        for level, network in networks.items():
            (point,) = sparsity_curve(
                network, loader, (0,), batch=batch, forward=forward, method=method
            )
            sizes = _sizes(network, forward, inputs, names)
            counts: dict[str, Any] = {key: Count(sizes[key], total[key]) for key in total}
            measured = {"bytes": _bytes(network), "latency_ms": latencies[level].milliseconds}
            points.append(
                replace(
                    point,
                    sparsity=level,
                    score=name,
                    scope=removal.get("scope", "layer"),
                    seed=removal.get("seed"),
                    metrics={**point.metrics, **measured},
                    **counts,
                )
            )
    latency = latencies[levels[0]]
    notes = (
        "neurons removed for good: each network was built and run by itself",
        f"latency: median, batch of {latency.batch_size}, on {latency.device}, "
        f"{latency.threads} CPU threads, torch {torch.__version__}",
    )
    return Curve(tuple(points), notes)


def _sizes(
    network: nn.Module, forward: Forward, inputs: Any, names: Sequence[str]
) -> dict[str, int]:
    chosen = [network.get_submodule(name) for name in names]
    with evaluating(network):
        macs, _ = count_macs(network, forward, _batch_of(inputs, 1))
    return {
        "neurons": sum(num_neurons(layer) for layer in chosen),
        "weights": sum(layer_weight(layer).numel() for layer in chosen),
        "parameters": count_parameters(network),
        "macs": macs,
    }


def _time(
    networks: Mapping[float, nn.Module], forward: Forward, inputs: Any, size: int, seconds: float
) -> dict[float, Latency]:
    timed = {str(level): partial(forward, deepcopy(n).eval()) for level, n in networks.items()}
    latencies = measure_latency(timed, _batch_of(inputs, size), seconds=seconds)
    return {level: latencies[str(level)] for level in networks}


def _bytes(network: nn.Module) -> int:
    """Size of the file that ``torch.save(network.state_dict(), path)`` writes."""
    file = BytesIO()
    torch.save(network.state_dict(), file)
    return file.tell()


def _batch_of(inputs: Any, size: int) -> Any:
    """A batch of another size, of the same samples over and over."""

    def resize(tensor: Tensor) -> Tensor:
        return torch.cat([tensor] * -(-size // len(tensor)))[:size]

    return tree_map_only(Tensor, resize, inputs)
