"""What only the training pass does: heads that help to train also read neurons."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn

from ewnprune.errors import reason_of
from ewnprune.model.copying import training_copy
from ewnprune.model.layers import LAYER_TYPES, type_name
from ewnprune.model.tensors import clone, repeated, same, samples, tensors_in
from ewnprune.model.tracing import Forward
from ewnprune.pruning.groups import Group, mark_unfollowed


@dataclass(frozen=True)
class TrainingPass:
    """A network's forward pass in train mode, on an example.

    Attributes:
        inputs: the example, of two samples or more where samples can be told.
        outputs: its outputs; what a cut network gives must have their shapes.
        called: names of the layers that it calls.
        untried: why there is none to look at; empty if there is.
    """

    inputs: Any
    outputs: Any = None
    called: frozenset[str] = frozenset()
    untried: str = ""


def look_at_training(network: nn.Module, forward: Forward, inputs: Any) -> TrainingPass:
    """Run a network in train mode, and leave it and the random numbers as they were.

    Args:
        network: a plain network, in eval mode; without gradients.
        forward: gives the outputs from network and inputs.
        inputs: an example.
    """
    if samples(inputs) == 1:  # of one alone a BatchNorm has no variance
        inputs = repeated(inputs, 2)
    called: set[str] = set()
    trained = training_copy(network)
    for name, module in trained.named_modules():
        if isinstance(module, LAYER_TYPES):
            module.register_forward_hook(lambda *_, name=name: called.add(name))
    try:
        outputs = _run(trained, forward, inputs)
    except Exception as error:  # any code of the user, which may want targets when it trains
        untried = f"{type_name(network)} does not run so on inputs alone"
        return TrainingPass(inputs, untried=f"{untried} ({reason_of(error, 80)})")
    return TrainingPass(inputs, outputs, frozenset(called))


def _why_untrainable(smaller: nn.Module, forward: Forward, dense: TrainingPass) -> str:
    """What is wrong with training a smaller network; empty if nothing is."""
    try:
        outputs = _run(training_copy(smaller), forward, dense.inputs)
    except Exception as error:  # any code of the user
        return f"without them it cannot be trained ({reason_of(error, 80)})"
    if not same(outputs, dense.outputs, lambda one, other: one.shape == other.shape):
        return "without them it gives outputs of another shape in training"
    return ""


def rehearse_training(
    without: Callable[[Sequence[Group]], nn.Module],
    forward: Forward,
    dense: TrainingPass,
    groups: Sequence[Group],
) -> bool:
    """Try that the network can be trained without some of each group.

    Groups of which that does not hold are marked as such that nobody can follow.

    Args:
        without: gives the network without some of these groups.
        forward: gives the outputs from network and inputs.
        dense: the training pass of the whole network.
        groups: those that can be cut, as far as it is known.

    Returns:
        Whether it holds of all.
    """

    def why(some: Sequence[Group]) -> str:
        return _why_untrainable(without(some), forward, dense)

    return bool(dense.untried) or mark_unfollowed(groups, why)


def _run(network: nn.Module, forward: Forward, inputs: Any) -> Any:
    gpus = {
        t.device for t in [*network.parameters(), *tensors_in(inputs)] if t.device.type == "cuda"
    }
    with torch.random.fork_rng(devices=list(gpus)):
        return forward(network, clone(inputs))
