"""`remove_and_repair`: what removed neurons gave on average goes to the biases that follow."""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from ewnprune.model.layers import LayerPatterns, spatial_dims
from ewnprune.model.preserve import evaluating
from ewnprune.model.tensors import clone, device_of, one_sample, to_device
from ewnprune.model.tracing import Forward, call
from ewnprune.pruning.choice import Choice, Indices, given
from ewnprune.pruning.neurons import Score
from ewnprune.pruning.ranking import Scope
from ewnprune.pruning.removal import remove_chosen


def remove_and_repair(
    model: nn.Module,
    sparsity: float | None = None,
    calibration: Any = None,
    *,
    indices: Indices | None = None,
    score: str | Score = "norm",
    layers: LayerPatterns | None = None,
    exclude: LayerPatterns | None = None,
    scope: Scope = "layer",
    round_to: int = 1,
    initial_norms: Mapping[str, Tensor] | None = None,
    seed: int | None = None,
    forward: Forward = call,
) -> nn.Module:
    """`remove_neurons`, with the mean contribution of what goes added to the biases that follow.

    No training. Each layer that reads removed neurons adds something of theirs to its outputs; the
    mean of that, in the dense network, over the calibration batch and all positions, is added to
    its bias. No other bias comes nearer to the dense layer, in mean square. For a Linear layer it
    is ``W[:, R] m[R]`` with ``m`` the mean inputs and ``R`` those that go; for a convolution that
    pads with zeros it is the mean of border and interior. A layer without a bias gets one. The
    neurons that go are those that `remove_neurons` removes.

    Args:
        model: see `remove_neurons`; left as it is.
        sparsity: fraction of the neurons to remove, in [0, 1).
        calibration: a batch of inputs; never test data, where the result is to be tested.
        indices: instead of a sparsity, the neurons by layer, see `remove_neurons`, as for the
            arguments that follow.
        score: what decides which neurons go.
        layers: which layers.
        exclude: which of them to leave.
        scope: ``"layer"`` or ``"global"``.
        round_to: a multiple for the number that stays.
        initial_norms: norms at initialisation.
        seed: seed of scores that draw numbers.
        forward: from model and inputs to outputs.

    Raises:
        ValueError: as `remove_neurons` does, or a norm reads across the neurons (LayerNorm,
            GroupNorm): without them it gives other values, which no bias makes up for.

    >>> _ = torch.manual_seed(0)
    >>> net, x = nn.Sequential(nn.Linear(4, 10), nn.ReLU(), nn.Linear(10, 3)), torch.randn(64, 4)
    >>> small = remove_and_repair(net, 0.5, x)
    >>> torch.allclose(small(x).mean(0), net(x).mean(0), atol=1e-6)
    True
    """
    choice = Choice(sparsity, indices, score, layers, exclude, scope, round_to, initial_norms, seed)
    inputs = to_device(given(calibration), device_of(model))
    repair = partial(fold_contributions, forward=forward, inputs=inputs)
    return remove_chosen(model, choice, one_sample(inputs), forward, prepare=repair)


def fold_contributions(
    model: nn.Module, gone: Mapping[str, Tensor], forward: Forward, inputs: Any
) -> None:
    """Add the mean of what some inputs of layers contribute to the layers' biases, in place.

    Args:
        model: the dense model.
        gone: for each layer, by name, which of its inputs to do without, ``(inputs,)``.
        forward: from model and inputs to outputs.
        inputs: the calibration batch.
    """
    with evaluating(model), _contributions(model, gone) as means:
        forward(model, clone(inputs))
    for name, mean in means.items():
        layer: Any = model.get_submodule(name)
        if layer.bias is None:
            layer.bias = nn.Parameter(mean, requires_grad=layer.weight.requires_grad)
        else:
            with torch.no_grad():
                layer.bias += mean


@contextmanager
def _contributions(model: nn.Module, gone: Mapping[str, Tensor]) -> Iterator[dict[str, Tensor]]:
    """Gather the mean of what some inputs of layers add to each output, ``(outputs,)``."""
    sums: dict[str, list[tuple[Tensor, int]]] = {name: [] for name in gone}
    means: dict[str, Tensor] = {}

    def note(name: str, layer: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        rest = {key: value for key, value in kwargs.items() if key != "input"}
        values = args[0] if args else kwargs["input"]
        trailing = spatial_dims(layer)
        only = gone[name].to(values.device).view(-1, *[1] * trailing)
        added = layer.forward(torch.where(only, values, 0), *args[1:], **rest)
        added = added.movedim(-1 - trailing, 0).flatten(1)
        if layer.bias is not None:
            added = added - layer.bias[:, None]
        sums[name].append((added.sum(1), added.shape[1]))

    handles = [
        model.get_submodule(name).register_forward_pre_hook(partial(note, name), with_kwargs=True)
        for name in gone
    ]
    try:
        yield means
        means |= {
            name: torch.stack([total for total, _ in parts]).sum(0) / sum(n for _, n in parts)
            for name, parts in sums.items()
        }
    finally:
        for handle in handles:
            handle.remove()
