"""What removed neurons gave on average goes to the biases of the layers that read them."""

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from ewnprune.model.copying import copy_network
from ewnprune.model.layers import listing, spatial_dims
from ewnprune.model.preserve import hooked
from ewnprune.model.recurrent import is_recurrent
from ewnprune.model.tensors import clone, replace_tensor
from ewnprune.model.tracing import Forward
from ewnprune.pruning.groups import Group, cut_of


def repaired(
    network: nn.Module,
    groups: Sequence[Group],
    units: Mapping[str, Tensor],
    inputs: Any,
    forward: Forward,
) -> nn.Module:
    """A copy with the mean of what some units contribute added to the biases that follow.

    Each layer that reads them adds something of theirs to its outputs; the mean of that, in the
    dense network, over the calibration batch and all positions, is added to its bias. For a Linear
    layer it is ``W[:, R] m[R]`` with ``m`` the mean inputs and ``R`` those that go; for a
    convolution that pads with zeros it is the mean of border and interior.

    Args:
        network: the dense network, plain, in eval mode; left as it is.
        groups: its groups.
        units: which units of them stay.
        inputs: the calibration batch.
        forward: from network and inputs to outputs.

    Raises:
        ValueError: a norm reads across the neurons: without them it gives other values, which no
            bias makes up for; or a recurrent layer has them as its hidden units, or reads them.
    """
    for group in groups:
        if group.name not in units or units[group.name].all():
            continue
        if not group.maskable:
            raise ValueError(
                f"the removal of neurons of {listing(group.makers, 3)} cannot be repaired, since a "
                f"norm reads across them: leave one of these layers with exclude={group.name!r}"
            )
        modules = [network.get_submodule(name) for name in [*group.makers, *group.readers]]
        if any(is_recurrent(module) for module in modules):
            raise ValueError(
                f"the removal of neurons of {listing(group.makers, 3)} cannot be repaired, since a "
                f"recurrent layer reads them: leave one of these with exclude={group.name!r}"
            )
    copy = copy_network(network, share=True)
    cut = cut_of(network, [group for group in groups if group.free], units)
    gone = {name: ~keep for name, keep in cut.columns.items()}
    with _contributions(copy, gone) as means:
        forward(copy, clone(inputs))
    for name, mean in means.items():
        layer: Any = copy.get_submodule(name)
        mean = mean.to(layer.weight.dtype)
        if layer.bias is None:
            layer.bias = nn.Parameter(mean, requires_grad=layer.weight.requires_grad)
        else:
            replace_tensor(layer, "bias", layer.bias.detach() + mean)
    return copy


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
        precise = torch.promote_types(added.dtype, torch.float32)  # float16 ends at 65504
        sums[name].append((added.sum(1, dtype=precise), added.shape[1]))

    handles = [
        model.get_submodule(name).register_forward_pre_hook(partial(note, name), with_kwargs=True)
        for name in gone
    ]
    with hooked(handles):
        yield means
        means |= {
            name: torch.stack([total for total, _ in parts]).sum(0) / sum(n for _, n in parts)
            for name, parts in sums.items()
            if parts  # by the training pass alone
        }
