"""Layers that cannot train under weight normalization: refused by name, with nothing changed."""

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from ewnprune.errors import reason_of
from ewnprune.model.layers import layer_weight, type_name
from ewnprune.model.parametrized import parametrization_on
from ewnprune.model.sharding import is_dtensor
from ewnprune.training.parametrizations import NeuronParametrization


def plain_weight(name: str, layer: nn.Module, remedy: str | None = None) -> nn.Parameter:
    """The weight of a layer, which is a parameter.

    Args:
        name: the layer's name.
        layer: the layer.
        remedy: what else can be done; by default to leave the layer.

    Raises:
        ValueError: it is computed from others.

    >>> plain_weight("0", nn.Linear(3, 2)).shape
    torch.Size([2, 3])
    """
    remedy = remedy or f"leave it with exclude={name!r}"
    present = parametrization_on(layer)
    if present is not None:
        raise ValueError(
            f"layer {name!r} is parametrized already ({type(present).__name__}): expected a plain "
            f"weight; remove that parametrization (ewnprune.fold for ours), or {remedy}"
        )
    if not isinstance(layer.weight, nn.Parameter):
        raise ValueError(
            f"layer {name!r} ({type_name(layer)}) has a weight that is no parameter (the older "
            f"torch.nn.utils.weight_norm, or prune?): remove that first, or {remedy}"
        )
    return layer.weight


def refuse_unfit(
    name: str, layer: nn.Module, holders: Mapping[int, Sequence[tuple[str, str]]], remedy: str
) -> None:
    """Refuse a layer that no parametrization can be put on.

    Args:
        name: the layer's name.
        layer: the layer.
        holders: see `holders_of_parameters`.
        remedy: what else can be done.

    Raises:
        ValueError: says why, and what to do.
    """
    weight = plain_weight(name, layer, remedy)
    if is_dtensor(weight):
        raise ValueError(
            f"layer {name!r} is sharded already (DTensor): call ewnprune.reparametrize before "
            f"sharding, in configure_model, or {remedy}"
        )
    sharing = [place for place in holders[id(weight)] if place != (name, "weight")]
    if sharing:
        other = ".".join(sharing[0]).lstrip(".")
        raise ValueError(
            f"layer {name!r} shares its weight with {other!r}: reparametrizing would break "
            f"the tie; {remedy}"
        )
    if weight.is_meta:
        raise ValueError(
            f"layer {name!r} is on the meta device and has no numbers yet: give the model some "
            f"(model.to_empty(device=...), then load or initialise it), or {remedy}"
        )
    if not weight.isfinite().all():
        raise ValueError(
            f"layer {name!r} has a weight that is infinite or NaN, and no length: "
            f"initialise it, or {remedy}"
        )
    if not torch.count_nonzero(weight):
        raise ValueError(
            f"layer {name!r} has an all-zero weight, which has no direction and would never "
            f"train; initialise it, or {remedy}"
        )


def try_form(
    name: str, parametrization: NeuronParametrization, layer: nn.Module, remedy: str
) -> None:
    """Turn a weight into its form and back, so that an error comes before anything is attached.

    Args:
        name: the layer's name.
        parametrization: bound to the layer.
        layer: the layer.
        remedy: what else can be done.

    Raises:
        ValueError: it cannot be.
    """
    weight = layer_weight(layer).detach()
    kind = type(parametrization).__name__
    if not weight.is_floating_point():
        raise ValueError(
            f"layer {name!r} has a weight of {weight.dtype}: {kind} expects real numbers; {remedy}"
        )
    try:
        with torch.no_grad():
            given = parametrization(*parametrization.right_inverse(weight))
    except Exception as error:  # any code of the user's parametrization
        raise ValueError(
            f"layer {name!r} cannot be put under {kind} ({reason_of(error, 100)}): {remedy}"
        ) from error
    if _described(given) != _described(weight):
        raise ValueError(
            f"layer {name!r} cannot be put under {kind}: it gives {_described(given)} for "
            f"{_described(weight)}; {remedy}"
        )


def _described(value: Any) -> str:
    if not isinstance(value, Tensor):
        return type(value).__name__
    return f"{value.dtype} of shape {tuple(value.shape)}"
