"""What only the training pass does: heads that help to train also read neurons."""

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils._pytree import tree_leaves

from ewnprune.model.copying import training_twin
from ewnprune.model.layers import LAYER_TYPES, type_name
from ewnprune.model.tensors import clone, two_samples
from ewnprune.model.tracing import Forward


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
        outputs = run_in_training(trained, forward, inputs)
    except Exception as error:  # any code of the user, which may want targets when it trains
        reason = " ".join(str(error).split())[:80]
        untried = f"{type_name(network)} does not run so on inputs alone"
        return TrainingPass(inputs, untried=f"{untried} ({type(error).__name__}: {reason})")
    return TrainingPass(inputs, outputs, frozenset(called))


def run_in_training(network: nn.Module, forward: Forward, inputs: Any) -> Any:
    """The outputs, with the random numbers left as they were."""
    tensors = [leaf for leaf in tree_leaves(inputs) if isinstance(leaf, Tensor)]
    gpus = {t.device for t in [*network.parameters(), *tensors] if t.device.type == "cuda"}
    with torch.random.fork_rng(devices=list(gpus)):
        return forward(network, clone(inputs))
