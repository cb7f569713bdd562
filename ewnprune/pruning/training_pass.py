"""What only the training pass does: heads that help to train also read neurons."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils._pytree import tree_leaves

from ewnprune.model.copying import copy_network
from ewnprune.model.layers import LAYER_TYPES, type_name
from ewnprune.model.tensors import clone, same, two_samples
from ewnprune.model.tracing import Forward
from ewnprune.pruning.groups import Group
from ewnprune.pruning.smaller import build_smaller


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
    inputs = two_samples(inputs)  # of one alone a BatchNorm has no variance
    called: set[str] = set()
    trained = training_twin(network)
    for name, module in trained.named_modules():
        if isinstance(module, LAYER_TYPES):
            module.register_forward_hook(lambda *_, name=name: called.add(name))
    try:
        outputs = _run(trained, forward, inputs)
    except Exception as error:  # any code of the user, which may want targets when it trains
        reason = " ".join(str(error).split())[:80]
        untried = f"{type_name(network)} does not run so on inputs alone"
        return TrainingPass(inputs, untried=f"{untried} ({type(error).__name__}: {reason})")
    return TrainingPass(inputs, outputs, frozenset(called))


def training_twin(network: nn.Module) -> nn.Module:
    """A copy in train mode, with buffers of its own: the pass writes to them."""
    twin = copy_network(network, share=True)
    twin.train()
    for module in twin.modules():
        if isinstance(module, torch.jit.ScriptModule):
            module.eval()  # which the copy shares
            continue
        for name, buffer in module._buffers.items():
            module._buffers[name] = None if buffer is None else buffer.clone()
    return twin


def why_untrainable(
    network: nn.Module, forward: Forward, dense: TrainingPass, groups: Sequence[Group]
) -> str:
    """What is wrong with training the network without half of some groups; empty if nothing is."""
    half = {g.name: torch.arange(g.units) >= g.units // 2 for g in groups}
    try:
        outputs = _run(training_twin(build_smaller(network, groups, half)), forward, dense.inputs)
    except Exception as error:  # any code of the user
        reason = " ".join(str(error).split())[:80]
        return f"without them it cannot be trained ({type(error).__name__}: {reason})"
    if not same(outputs, dense.outputs, lambda one, other: one.shape == other.shape):
        return "without them it gives outputs of another shape in training"
    return ""


def rehearse_training(
    network: nn.Module, forward: Forward, dense: TrainingPass, groups: Sequence[Group]
) -> bool:
    """Try that the network can be trained without half of each group.

    Groups of which that does not hold are marked as such that nobody can follow.

    Returns:
        Whether it holds of all.
    """
    if dense.untried or not groups or not why_untrainable(network, forward, dense, groups):
        return True
    for group in groups:
        group.unfollowed = why_untrainable(network, forward, dense, [group])
    sound = [group for group in groups if not group.unfollowed]
    reason = why_untrainable(network, forward, dense, sound) if sound else ""
    for group in sound:
        group.unfollowed = reason
    return False


def _run(network: nn.Module, forward: Forward, inputs: Any) -> Any:
    tensors = [leaf for leaf in tree_leaves(inputs) if isinstance(leaf, Tensor)]
    gpus = {t.device for t in [*network.parameters(), *tensors] if t.device.type == "cuda"}
    with torch.random.fork_rng(devices=list(gpus)):
        return forward(network, clone(inputs))
