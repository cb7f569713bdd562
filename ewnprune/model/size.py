"""How large a network is, and how large it would be without some neurons or weights."""

import warnings
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from io import BytesIO
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode

from ewnprune.model.copying import copy_network
from ewnprune.model.fast_attention import without_fast_attention
from ewnprune.model.layers import layer_weight, num_neurons
from ewnprune.model.parametrized import parametrizations_of
from ewnprune.model.recurrent import is_recurrent, weight_names
from ewnprune.model.tracing import Forward, Rooted


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


def count_parameters(model: nn.Module) -> int:
    """Parameters of a model in plain form: a parametrized tensor counts as the tensor it gives.

    >>> count_parameters(nn.utils.parametrizations.weight_norm(nn.Linear(3, 2)))
    8
    """
    inner = {
        id(module)
        for owner in model.modules()
        for parts in parametrizations_of(owner).values()
        for module in parts.modules()
    }
    tensors: dict[int, int] = {}
    parametrized = 0
    for module in model.modules():
        if id(module) in inner:
            continue
        tensors |= {id(p): p.numel() for p in module._parameters.values() if p is not None}
        parametrized += sum(getattr(module, name).numel() for name in parametrizations_of(module))
    return sum(tensors.values()) + parametrized


def count_macs(model: nn.Module, forward: Forward, inputs: Any) -> tuple[int, dict[str, int]]:
    """Multiply-accumulates of one forward pass, in all and per module.

    Counted by torch's `FlopCounterMode`: matrix products, convolutions and attention; biases,
    activations and normalizations are not counted.
    """
    counter = FlopCounterMode(display=False, custom_mapping=_RECURRENT_KERNELS)
    root = Rooted(model, forward)
    with counter, without_fast_attention(), warnings.catch_warnings():
        # it hooks all modules; their compiled form is not called here, see preserve.py
        warnings.filterwarnings("ignore", ".*when there are global hooks on modules")
        root(inputs)
    counts = {name: sum(ops.values()) // 2 for name, ops in counter.get_flop_counts().items()}
    prefix = f"{type(root).__name__}.model"
    return counter.get_total_flops() // 2, {
        name.removeprefix(prefix).removeprefix("."): count for name, count in counts.items()
    }


def state_dict_bytes(network: nn.Module) -> int:
    """Size of the file that ``torch.save(network.state_dict(), path)`` writes.

    Of a network whose tensors are its own: behind a part of another (all parameters in one vector,
    as `torch.nn.utils.vector_to_parameters` leaves them) the whole would be written.

    >>> net = nn.Linear(8, 4)
    >>> one, view = state_dict_bytes(net), torch.zeros(9999)[:32].view(4, 8)
    >>> net.weight = nn.Parameter(view)
    >>> state_dict_bytes(net) == one
    True
    """
    file = BytesIO()
    torch.save(copy_network(network).state_dict(), file)
    return file.tell()


def _of_one_layer(
    inputs: torch.Size, to_gates: torch.Size, between: torch.Size, *_: Any, **__: Any
) -> int:
    """Operations of a kernel for one layer and direction, at each step and sample."""
    return 2 * inputs[:-1].numel() * (to_gates.numel() + between.numel())


def _of_all_layers(inputs: torch.Size, weights: Sequence[torch.Size], *_: Any, **__: Any) -> int:
    matrices = [weight for weight in weights if len(weight) > 1]
    return 2 * inputs[:-1].numel() * sum(matrix.numel() for matrix in matrices)


_RECURRENT_KERNELS = {
    torch.ops.aten.mkldnn_rnn_layer: _of_one_layer,
    torch.ops.aten._cudnn_rnn: _of_all_layers,
}
"""Kernels of recurrent layers, which torch does not count either."""


def sizes_of(network: nn.Module, chosen: Iterable[str], macs: int) -> dict[str, int]:
    """Neurons and weights of some layers, by name; parameters and MACs of the whole network."""
    layers = [network.get_submodule(name) for name in chosen]
    return {
        "neurons": sum(num_neurons(layer) for layer in layers),
        "weights": sum(map(_num_weights, layers)),
        "parameters": count_parameters(network),
        "macs": macs,
    }


def _num_weights(layer: nn.Module) -> int:
    if not is_recurrent(layer):
        return layer_weight(layer).numel()
    return sum(layer.get_parameter(name).numel() for name in weight_names(layer))


def without_weights(
    dense: Mapping[str, int], macs: Mapping[str, int], keep: Mapping[str, Tensor]
) -> dict[str, int]:
    """Sizes with only the weights that a mask keeps; MACs are those of the weights left.

    Args:
        dense: sizes of the whole network.
        macs: MACs of each module, by name.
        keep: for each chosen layer, which weights stay, ``(n, fan_in)``.
    """
    left = dict(dense)
    for name, mask in keep.items():
        stay = int(mask.sum())
        left["neurons"] -= int((~mask.any(dim=1)).sum())
        left["weights"] -= mask.numel() - stay
        left["parameters"] -= mask.numel() - stay
        left["macs"] -= macs.get(name, 0) - macs.get(name, 0) * stay // mask.numel()
    return left
