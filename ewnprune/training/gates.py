"""A length for each input feature of the first layers, in the place of one for each neuron."""

from collections.abc import Mapping

from torch import nn

from ewnprune.model.copying import copy_network
from ewnprune.model.inputs import first_layers
from ewnprune.model.layers import conv_groups, listing
from ewnprune.model.preserve import evaluating
from ewnprune.model.tracing import trace


def find_gates(model: nn.Module, chosen: Mapping[str, nn.Module]) -> tuple[str, ...]:
    """The chosen layers that read the model's inputs, which an input feature has a column in.

    Args:
        model: the model, left as it is.
        chosen: the layers.

    Raises:
        ValueError: none of them is seen to.

    >>> net = nn.Sequential(nn.Linear(3, 4), nn.ReLU(), nn.Linear(4, 2))
    >>> find_gates(net, {"0": net[0]})
    ('0',)
    """
    try:
        with evaluating(model):
            first = first_layers(trace(copy_network(model, share=True)))
    except ValueError as error:
        raise ValueError(f"inputs=True, and {error}: leave it out") from error
    found = tuple(name for name in first if name in chosen and conv_groups(chosen[name]) == 1)
    if not found:
        raise ValueError(
            f"inputs=True, and none of {listing(chosen, 3)} is seen to read the model's inputs by "
            "itself and without groups: choose the first layer too, or leave inputs=True out"
        )
    return found
