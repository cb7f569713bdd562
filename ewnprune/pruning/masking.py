"""Zeros instead of cuts: what removal is compared with, and where nothing can be cut.

All of it is done to copies, whose tensors may be shared with the model: none is written to.
"""

from collections.abc import Iterable, Mapping
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.utils.rnn import PackedSequence

from ewnprune.model.cells import to_weight
from ewnprune.model.copying import copy_network, put_plain
from ewnprune.model.layers import layer_weight, spatial_dims
from ewnprune.model.normalization import normalization_of, shrink_channels
from ewnprune.model.parametrized import parametrization_on
from ewnprune.model.recurrent import is_recurrent, silence_hidden
from ewnprune.model.tensors import replace_tensor
from ewnprune.pruning.groups import Group, cut_of


def silence(network: nn.Module, groups: Iterable[Group], units: Mapping[str, Tensor]) -> None:
    """Have nobody read the units that do not stay: in place, at full width.

    The layers that read them see zeros, and norms that read across them go by those that stay. Of
    heads the queries and keys are zero too: they are read by each other. Hidden units of recurrent
    layers lose all that is theirs in the layer: from a state of zero they give zero at each step.
    """
    groups = list(groups)
    cut = cut_of(network, groups, units)
    for name, keep in cut.columns.items():
        layer = network.get_submodule(name)
        layer.register_forward_pre_hook(_zero_inputs(_beside(layer, keep)), with_kwargs=True)
    norms = {name for group in groups for name in group.norms}
    for name, keep in cut.channels.items():
        if name in norms:
            _mask_channels(network.get_submodule(name), keep)
    attending = {name for g in groups if g.attention is not None for name in g.makers}
    for name, keep in cut.rows.items():
        layer = network.get_submodule(name)
        if is_recurrent(layer):
            silence_hidden(layer, keep)
        if name in attending:
            layer.register_forward_hook(_zero_outputs(_beside(layer, keep)))


def _mask_channels(norm: Any, keep: Tensor) -> None:
    """Make a norm that reads across channels give zero for some, and leave them out of its sums."""
    record = normalization_of(norm)
    assert record is not None and record.dim is not None
    dim, small = record.dim, copy_network(norm, share=True)
    shrink_channels(small, keep)

    def masked(
        _: nn.Module, args: tuple[Tensor, ...], kwargs: dict[str, Tensor], output: Tensor
    ) -> Tensor:
        index = keep.nonzero().flatten().to(output.device)
        read = args[0] if args else kwargs["input"]
        values = small(read.index_select(dim, index))
        return torch.zeros_like(output).index_copy(dim, index, values)

    norm.register_forward_hook(masked, with_kwargs=True)


def mask_outputs(network: nn.Module, groups: Iterable[Group], units: Mapping[str, Tensor]) -> None:
    """Zero neurons in their own output, or after the BatchNorm that follows, in place.

    That is for groups of which nobody knows who reads them.
    """
    for group in groups:
        if not group.readers and group.name in units and not units[group.name].all():
            (maker,) = group.makers
            keep = _beside(network.get_submodule(maker), units[group.name])
            network.get_submodule(group.after or maker).register_forward_hook(_zero_outputs(keep))


def _beside(layer: nn.Module, keep: Tensor) -> Tensor:
    """A mask of channels ``(n,)`` in the shape that it has beside a layer's inputs or outputs."""
    return keep.view(-1, *[1] * spatial_dims(layer))


def _zero_inputs(keep: Tensor) -> Any:
    def hook(_: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        values = args[0] if args else kwargs["input"]
        if isinstance(values, PackedSequence):
            data = torch.where(keep.to(values.data.device), values.data, 0)
            zeroed: Any = values._replace(data=data)
        else:
            zeroed = torch.where(keep.to(values.device), values, 0)
        return ((zeroed, *args[1:]), kwargs) if args else (args, {**kwargs, "input": zeroed})

    return hook


def _zero_outputs(keep: Tensor) -> Any:
    def hook(_: nn.Module, __: Any, output: Tensor) -> Tensor:
        return torch.where(keep.to(output.device), output, 0)

    return hook


def mask_weights(network: nn.Module, keep: Mapping[str, Tensor]) -> None:
    """Zero single weights of layers, ``(n, fan_in)`` each, in place."""
    for name, stays in keep.items():
        if not stays.all():
            _keep_weights(network.get_submodule(name), stays)


def _keep_weights(layer: nn.Module, rows: Tensor) -> None:
    weight = layer_weight(layer).detach()
    keep = to_weight(layer, rows).to(weight.device)
    value = torch.where(keep, weight, 0)
    if parametrization_on(layer) is not None:  # by what has a state, as spectral norm has
        put_plain(layer, "weight", value)
    elif "weight" in layer._parameters:
        replace_tensor(layer, "weight", value)
    else:  # the older weight_norm and prune compute it before each call
        layer.register_forward_pre_hook(lambda module, _: _put(module, keep))


def _put(module: nn.Module, keep: Tensor) -> None:
    module.__dict__["weight"] = torch.where(keep, layer_weight(module), 0)
