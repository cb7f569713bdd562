"""Cut channels out of a copy of a model, and see that it gives what it should."""

from collections.abc import Mapping
from typing import Any

from torch import Tensor, nn
from torch.utils._pytree import tree_leaves

from ewnprune.model.layers import type_name
from ewnprune.model.preserve import evaluating
from ewnprune.model.tensors import clone, close, same
from ewnprune.model.tracing import Forward
from ewnprune.pruning.coupling import Couplings
from ewnprune.pruning.groups import Group
from ewnprune.pruning.heads import rescale_queries


def cut(
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
    small = couplings.model
    for group in groups:
        if removed[group.name]:
            couplings.remove(group, removed[group.name])
            if group.attention or not group.maskable:  # where code may hold on to a width
                _run(small, forward, inputs, f" without neurons of {', '.join(group.makers)}")
    outputs = _run(small, forward, inputs)
    if expected is None:
        return 0.0
    narrowed = [g for g in groups if g.attention and not g.whole and removed[g.name]]
    if narrowed:
        # whether attention divides by a number that it keeps, or by one that has become smaller,
        # only its outputs tell
        before = {key: value.clone() for key, value in small.state_dict().items()}
        for group in narrowed:
            rescale_queries(group, removed[group.name])
        rescaled = _run(small, forward, inputs)
        if _difference(rescaled, expected) < _difference(outputs, expected):
            outputs = rescaled
        else:
            small.load_state_dict(before)
    if not same(outputs, expected, close):
        raise broken(small, "does not give the outputs of the masked one on the example")
    return _difference(outputs, expected)


def _run(small: nn.Module, forward: Forward, inputs: Any, which: str = "") -> Any:
    try:
        with evaluating(small):
            return forward(small, clone(inputs))
    except Exception as error:  # any code of the user
        reason = " ".join(str(error).split())[:160]
        raise broken(small, f"does not run{which} ({type(error).__name__}: {reason})") from error


def _difference(outputs: Any, expected: Any) -> float:
    pairs = zip(tree_leaves(outputs), tree_leaves(expected), strict=True)
    differences = [float((a - b).abs().max()) for a, b in pairs if isinstance(a, Tensor)]
    return max(differences, default=0.0)


def broken(model: nn.Module, what: str) -> ValueError:
    """The error for a network that is not what it should be, and does ``what`` instead."""
    return ValueError(
        f"the smaller {type_name(model)} {what}: its forward pass depends on the number of "
        "neurons in a way that cannot be followed; use mask_neurons, or leave layers with exclude="
    )
