"""What penalties share: layers, and what an optimizer is to step by."""

from typing import Any

import torch
from torch import Tensor, nn

from ewnprune.callback.refusals import refuse_scaled_gradients
from ewnprune.model.layers import LayerPatterns, select_layers


def gradients(trainer: Any, optimizer: torch.optim.Optimizer, asking: str) -> dict[int, Tensor]:
    """The gradient that the optimizer's next step takes, by the ``id`` of each parameter with one.

    Asked before the step, it is what mixed precision has unscaled, once per step whatever is
    accumulated.

    Args:
        trainer: the Trainer.
        optimizer: the one that is about to step.
        asking: the name of the callback.

    Raises:
        ValueError: the optimizer unscales them in its own step.

    >>> net = nn.Linear(2, 1)
    >>> net.bias.grad = torch.ones(1)
    >>> optimizer = torch.optim.SGD(net.parameters(), lr=0.1)
    >>> gradients(None, optimizer, "Mine") == {id(net.bias): net.bias.grad}
    True
    """
    refuse_scaled_gradients(trainer, optimizer, asking)
    groups = optimizer.param_groups
    return {id(p): p.grad for group in groups for p in group["params"] if p.grad is not None}


def plain_layers(
    model: nn.Module, layers: LayerPatterns | None, exclude: LayerPatterns | None, asking: str
) -> dict[str, Any]:
    """The layers chosen, by name, for a callback that works on plain weights.

    Args:
        model: the model.
        layers: which layers, see `select_layers`.
        exclude: which of them to leave.
        asking: the name of the callback.

    Raises:
        ValueError: a layer's weight is no parameter of its own.
    """
    chosen = select_layers(model, layers, exclude).chosen
    for name, layer in chosen.items():
        if "weight" not in layer._parameters:
            raise ValueError(
                f"{asking} on layer {name!r}, which is reparametrized: it works on plain weights; "
                "set prune.parametrization to null, and remove what torch.nn.utils put on"
            )
    return dict(chosen)
