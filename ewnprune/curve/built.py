"""Networks with neurons removed for good: what they get right, and what they cost."""

from collections.abc import Callable, Iterable, Mapping, Sequence
from functools import partial
from io import BytesIO
from itertools import chain
from typing import Any, Literal

import torch
from torch import Tensor, nn
from torch.utils._pytree import tree_map_only
from torchmetrics import Metric, MetricCollection

from ewnprune.curve.curve import Curve
from ewnprune.curve.measures import Loss, Measures
from ewnprune.curve.points import CurvePoint
from ewnprune.model.latency import Latency, measure_latency
from ewnprune.model.layers import LayerPatterns, Selection, layer_weight, num_neurons
from ewnprune.model.preserve import evaluating
from ewnprune.model.size import Count, count_macs, count_parameters
from ewnprune.model.tracing import Forward
from ewnprune.pruning.neurons import Score
from ewnprune.pruning.ranking import Scope
from ewnprune.pruning.removal import remove_neurons

Realize = Literal["mask", "remove"] | Callable[..., nn.Module]
"""How the network of a level comes about; a function is called as `remove_neurons` is."""


def realize_name(realize: Realize) -> str:
    """What a way to realize is called in a curve.

    Raises:
        ValueError: it is neither ``"mask"`` nor ``"remove"`` nor a function.

    >>> from ewnprune import remove_and_repair
    >>> realize_name("remove"), realize_name(remove_and_repair)
    ('remove', 'remove_and_repair')
    """
    if callable(realize):
        function = realize.func if isinstance(realize, partial) else realize
        return str(getattr(function, "__name__", type(function).__name__))
    if realize not in ("mask", "remove"):
        raise ValueError(
            f"realize={realize!r}: expected 'mask', 'remove', or a function such as "
            "ewnprune.remove_and_repair"
        )
    return realize


def removed_curve(
    model: nn.Module,
    batches: Callable[[], Iterable[tuple[Any, Any]]],
    levels: Sequence[float],
    scores: Mapping[str, Score],
    selection: Selection,
    *,
    realize: Realize,
    example_input: Any,
    latency_batch_size: int,
    latency_seconds: float,
    metric: Metric | MetricCollection | None,
    loss_fn: Loss | None,
    forward: Forward,
    layers: LayerPatterns | None,
    exclude: LayerPatterns | None,
    scope: Scope,
    initial_norms: Mapping[str, Tensor] | None,
    method: str,
    seed: int | None,
) -> Curve:
    """Build the network of each score and level, run it over the data by itself, and time it.

    Args:
        model: the model, in eval mode.
        batches: gives inputs and targets anew at each call, where the model lies.
        levels: the sparsities.
        scores: functions by name.
        selection: the layers chosen, and those left.
        realize: ``"remove"`` or another function.
        example_input: what that is given to look at, see `sparsity_curve` as for all that follow.
        latency_batch_size: samples per forward pass where the time is measured.
        latency_seconds: how long to measure each network.
        metric: further measures.
        loss_fn: the loss.
        forward: from model and inputs to outputs.
        layers: which layers.
        exclude: which of them to leave.
        scope: ``"layer"`` or ``"global"``.
        initial_norms: norms at initialisation.
        method: for the curve.
        seed: for the curve, and for scores that draw numbers.
    """
    remove = remove_neurons if realize == "remove" else realize
    assert callable(remove)
    inputs = example_input
    if inputs is None:
        inputs, _ = next(iter(batches()), (None, None))
    if inputs is None:
        raise ValueError("the loader gave no batch: expected at least one")
    names = list(selection.chosen)
    total = _sizes(model, forward, inputs, names)
    points = []
    for name, score in scores.items():
        networks = {
            level: remove(
                model,
                level,
                inputs,
                score=score,
                layers=layers,
                exclude=exclude,
                scope=scope,
                initial_norms=initial_norms,
                seed=seed,
                forward=forward,
            )
            for level in levels
        }
        latencies = _time(networks, forward, inputs, latency_batch_size, latency_seconds)
        for level, network in networks.items():
            sizes = _sizes(network, forward, inputs, names)
            counts: dict[str, Any] = {key: Count(sizes[key], total[key]) for key in total}
            measured = _evaluate(network, forward, batches(), metric, loss_fn)
            costs = {"bytes": _bytes(network), "latency_ms": latencies[level].milliseconds}
            measured["metrics"] = {**measured.get("metrics", {}), **costs}
            points.append(
                CurvePoint(
                    method=method,
                    seed=seed,
                    score=name,
                    scope=scope,
                    realize=realize_name(realize),
                    sparsity=level,
                    **counts,
                    **measured,
                )
            )
    latency = latencies[levels[0]]
    notes = (
        "neurons removed for good: each network was built and run by itself",
        f"latency: median, batch of {latency.batch_size}, on {latency.device}, "
        f"{latency.threads} CPU threads, torch {torch.__version__}",
        *(f"{name}: left: {reason}" for name, reason in selection.left.items()),
    )
    return Curve(tuple(points), notes)


def _evaluate(
    network: nn.Module,
    forward: Forward,
    batches: Iterable[tuple[Any, Any]],
    metric: Metric | MetricCollection | None,
    loss_fn: Loss | None,
) -> dict[str, Any]:
    iterator = iter(batches)
    first, first_targets = next(iterator)
    with evaluating(network):
        measures = Measures(1, metric, loss_fn, forward(network, first), first_targets)
        for inputs, targets in chain([(first, first_targets)], iterator):
            measures.add_batch([forward(network, inputs)], targets)
        return measures.results()[0]


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
    timed = {str(level): partial(forward, network.eval()) for level, network in networks.items()}
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
