"""Cut channels out of a copy of a model, and see that it gives what it should."""

from collections.abc import Mapping
from typing import Any

from torch import Tensor, nn
from torch.utils._pytree import tree_leaves

from ewnprune.coupled import Couplings, Group
from ewnprune.graph import Forward, close, same
from ewnprune.layers import type_name
from ewnprune.preserve import clone, evaluating


def cut(
    small: nn.Module,
    couplings: Couplings,
    groups: list[Group],
    removed: Mapping[str, list[int]],
    forward: Forward,
    inputs: Any,
    expected: Any,
) -> float:
    """Remove the channels and run the network; its largest difference to what is expected.

    Raises:
        ValueError: the network does not run any more, or gives other outputs.
    """
    modes = {module: module.training for module in small.modules()}
    for group in groups:
        if removed[group.name]:
            couplings.remove(group, removed[group.name])
    try:
        with evaluating(small):
            outputs = forward(small, clone(inputs))
    except Exception as error:  # any code of the user
        reason = " ".join(str(error).split())[:160]
        raise broken(small, f"does not run ({type(error).__name__}: {reason})") from error
    finally:
        for module, training in modes.items():
            module.training = training
    if expected is None:
        return 0.0
    if not same(outputs, expected, close):
        raise broken(small, "does not give the outputs of the masked one on the example")
    tensors = [tree_leaves(tree) for tree in (outputs, expected)]
    return max(
        (
            float((a - b).abs().max())
            for a, b in zip(*tensors, strict=True)
            if isinstance(a, Tensor)
        ),
        default=0.0,
    )


def broken(model: nn.Module, what: str) -> ValueError:
    """The error for a network that is not what it should be, and does ``what`` instead."""
    return ValueError(
        f"the smaller {type_name(model)} {what}: its forward pass depends on the number of "
        "neurons in a way that cannot be followed; use mask_neurons, or leave layers with exclude="
    )
