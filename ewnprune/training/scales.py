"""The scale of a BatchNorm in the place of the length of the weights before it."""

from collections.abc import Mapping
from typing import Any

from torch import nn

from ewnprune.model.batch_norms import following_batch_norms
from ewnprune.model.copying import copy_network
from ewnprune.model.layers import listing
from ewnprune.model.preserve import evaluating


def find_scales(model: nn.Module, chosen: Mapping[str, nn.Module]) -> dict[str, str]:
    """The BatchNorm with a scale that directly follows a chosen layer, by the layer's name.

    Args:
        model: the model, left as it is.
        chosen: the layers.

    Raises:
        ValueError: none follows any of them.

    >>> net = nn.Sequential(nn.Linear(3, 4), nn.BatchNorm1d(4), nn.ReLU(), nn.Linear(4, 2))
    >>> find_scales(net, {"0": net[0]})
    {'0': '1'}
    """
    with evaluating(model):
        following = following_batch_norms(copy_network(model, share=True))
    found = {name: norm for name, norm in following.items() if name in chosen}
    found = {name: norm for name, norm in found.items() if _has_scale(model.get_submodule(norm))}
    if not found:
        raise ValueError(
            f"batchnorm=True, and no BatchNorm with a scale is seen to follow {listing(chosen, 3)} "
            "directly: leave it out, and the weights themselves are under EWN"
        )
    return found


def _has_scale(norm: Any) -> bool:
    return getattr(norm, "weight", None) is not None
