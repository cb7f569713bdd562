"""How large a network is, and how large it would be without some neurons or weights."""

import warnings
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.utils import parametrize
from torch.utils.flop_counter import FlopCounterMode

from ewnprune.model.layers import layer_weight, num_neurons
from ewnprune.model.readers import Flow
from ewnprune.model.tracing import Forward, rooted


@dataclass(frozen=True)
class Count:
    """How many are left of how many."""

    left: int
    total: int

    @property
    def sparsity(self) -> float:
        """Fraction removed, in [0, 1]; 0 where there was nothing to remove.

        >>> Count(left=205, total=1024).sparsity
        0.7998046875
        """
        return (self.total - self.left) / self.total if self.total else 0.0


Sizes = dict[str, Count]
"""Neurons, weights (both of the chosen layers), parameters and MACs (both of the whole model)."""


def count_parameters(model: nn.Module) -> int:
    """Parameters of a model in plain form: a parametrized tensor counts as the tensor it gives.

    >>> count_parameters(nn.utils.parametrizations.weight_norm(nn.Linear(3, 2)))
    8
    """
    inner = {
        id(module)
        for owner in model.modules()
        if parametrize.is_parametrized(owner)
        for module in owner.parametrizations.modules()  # type: ignore[union-attr]
    }
    tensors: dict[int, int] = {}
    parametrized = 0
    for module in model.modules():
        if id(module) in inner:
            continue
        tensors |= {id(p): p.numel() for p in module._parameters.values() if p is not None}
        if parametrize.is_parametrized(module):
            names = list(module.parametrizations)  # type: ignore[arg-type]
            parametrized += sum(getattr(module, name).numel() for name in names)
    return sum(tensors.values()) + parametrized


def count_macs(model: nn.Module, forward: Forward, inputs: Any) -> tuple[int, dict[str, int]]:
    """Multiply-accumulates of one forward pass, in all and per module.

    Counted by torch's `FlopCounterMode`: matrix products, convolutions and attention; biases,
    activations and normalizations are not counted.
    """
    counter = FlopCounterMode(display=False)
    root = rooted(model, forward)
    with counter, warnings.catch_warnings():
        # it hooks all modules; their compiled form is not called here, see preserve.py
        warnings.filterwarnings("ignore", ".*when there are global hooks on modules")
        root(inputs)
    counts = {name: sum(ops.values()) // 2 for name, ops in counter.get_flop_counts().items()}
    prefix = f"{type(root).__name__}.model"
    return counter.get_total_flops() // 2, {
        name.removeprefix(prefix).removeprefix("."): count for name, count in counts.items()
    }


def dense_sizes(model: nn.Module, chosen: Mapping[str, nn.Module], macs: int) -> Sizes:
    """Sizes with nothing removed."""
    totals = {
        "neurons": sum(num_neurons(layer) for layer in chosen.values()),
        "weights": sum(layer_weight(layer).numel() for layer in chosen.values()),
        "parameters": count_parameters(model),
        "macs": macs,
    }
    return {name: Count(total, total) for name, total in totals.items()}


def without_neurons(
    dense: Sizes,
    macs: Mapping[str, int],
    keep: Mapping[str, Tensor],
    flows: Mapping[str, Flow],
    modules: Mapping[str, nn.Module],
) -> Sizes:
    """Sizes of the network without the neurons of the chosen layers that a mask drops.

    Those of the network that `remove_neurons` builds. Where the layers that read the neurons are
    not known, their weights are counted as left.

    Args:
        dense: sizes of the whole network.
        macs: MACs of each module, by name.
        keep: for each chosen layer, which of its neurons stay, ``(n,)``.
        flows: where the neurons of each chosen layer go.
        modules: all modules, by name.
    """
    read = {
        reader.name: keep[name].repeat_interleave(reader.block)
        for name in keep
        for reader in flows[name].consumers
    }
    neurons = weights = parameters = products = 0
    for name in dict.fromkeys([*keep, *read]):
        size = layer_weight(modules[name]).numel()
        left = _cells(modules[name], keep.get(name), read.get(name))
        parameters += size - left
        products += macs.get(name, 0) - macs.get(name, 0) * left // size
        if name in keep:
            gone = int((~keep[name]).sum())
            neurons += gone
            weights += size - left
            parameters += sum(
                gone * reader.block * _per_channel(modules[reader.name])
                for reader in flows[name].scaled
            )
            parameters += gone if modules[name].bias is not None else 0
    removed = {"neurons": neurons, "weights": weights, "parameters": parameters, "macs": products}
    return {key: Count(dense[key].total - removed[key], dense[key].total) for key in dense}


def without_weights(
    dense: Sizes,
    macs: Mapping[str, int],
    keep: Mapping[str, Tensor],
) -> Sizes:
    """Sizes with only the weights that a mask keeps; MACs are those of the weights left.

    Args:
        dense: sizes of the whole network.
        macs: MACs of each module, by name.
        keep: for each chosen layer, which weights stay, ``(n, fan_in)``.
    """
    neurons = weights = products = 0
    for name, mask in keep.items():
        left = int(mask.sum())
        neurons += int((~mask.any(dim=1)).sum())
        weights += mask.numel() - left
        products += macs.get(name, 0) - macs.get(name, 0) * left // mask.numel()
    removed = {"neurons": neurons, "weights": weights, "parameters": weights, "macs": products}
    return {key: Count(dense[key].total - removed[key], dense[key].total) for key in dense}


def _cells(layer: nn.Module, rows: Tensor | None, columns: Tensor | None) -> int:
    """Weights left where only some neurons and some inputs stay."""
    if isinstance(layer, nn.Linear):
        groups, kernel, outputs, inputs = 1, 1, layer.out_features, layer.in_features
    else:
        groups, outputs, inputs = layer.groups, layer.out_channels, layer.in_channels  # type: ignore[assignment]
        kernel = torch.Size(layer.kernel_size).numel()  # type: ignore[arg-type]
    ones = torch.ones
    rows = ones(outputs, dtype=torch.bool) if rows is None else rows
    columns = ones(inputs, dtype=torch.bool) if columns is None else columns
    return kernel * int(rows.view(groups, -1).sum(1) @ columns.view(groups, -1).sum(1))


def _per_channel(module: nn.Module) -> int:
    return sum(p is not None for p in module._parameters.values())
