"""torch-pruning's graph of a network, with an end to its search, and layers that it knows not.

Where its index mappings send channels round in a circle (it takes the products of attention for
element-wise, and keys that are rotated, or that heads share, come back as others each time), or
sizes are inferred along every path there is (shifted windows, detectors), it goes on for hours.
`coupling` cuts attention out; what is left is bounded here. Each step of its loops and recursions
goes over the neighbours of a node: those are counted.
"""

from collections.abc import Callable, Iterator
from typing import Any

import torch_pruning
from torch import nn

from ewnprune.model.in_out import InOutLinear
from ewnprune.model.layers import num_inputs, num_neurons
from ewnprune.model.normalization import channels_of, normalization_of

LIMIT = 20_000
"""Steps of the making of a graph, and of the search for one group.

DenseNet-201 takes the most of torchvision's networks of which the search ends: 4331.
"""


class TooLongError(Exception):
    """A search took more steps than any that ends by itself."""


class Graph(torch_pruning.DependencyGraph):  # type: ignore[misc]
    """The dependency graph of one network.

    Attributes:
        steps: how many there were since the last search began.
    """

    def __init__(self) -> None:
        super().__init__()
        self.steps = 0

    def get_pruning_group(self, module: Any, pruning_fn: Any, idxs: Any) -> Any:
        """What goes with some channels of a module.

        Raises:
            TooLongError: the search does not end.
        """
        self.steps = 0
        return super().get_pruning_group(module, pruning_fn, idxs)

    def _build_dependency(self, module2node: Any) -> None:
        super()._build_dependency(module2node)
        for node in module2node.values():
            for key in ("inputs", "outputs", "dependencies"):
                setattr(node, key, _Counted(getattr(node, key), self._step))

    def _step(self) -> None:
        self.steps += 1
        if self.steps > LIMIT:
            raise TooLongError(f"its search had not ended after {LIMIT} steps")


def unknown_kinds(network: nn.Module) -> dict[type, Any]:
    """Classes of layers and norms in a network that torch-pruning does not know, with their sizes.

    It takes what it does not know for one operation after the other, and its weight for a parameter
    of the model: of a norm it would not be seen that it reads across channels.
    """
    known = torch_pruning.ops
    kinds: dict[type, Any] = {}
    for module in network.modules():
        if known.module2type(module) != known.OPTYPE.ELEMENTWISE:
            continue
        if isinstance(module, InOutLinear):
            kinds[type(module)] = _Layer()
        elif normalization_of(module) is not None:
            kinds[type(module)] = _Norm()
    return kinds


class _Layer(torch_pruning.BasePruningFunc):  # type: ignore[misc]
    """How many channels a layer reads and gives; it is never asked to cut one."""

    def prune_out_channels(self, layer: nn.Module, idxs: Any) -> nn.Module:
        raise NotImplementedError

    def prune_in_channels(self, layer: nn.Module, idxs: Any) -> nn.Module:
        raise NotImplementedError

    def get_out_channels(self, layer: nn.Module) -> int:
        return num_neurons(layer)

    def get_in_channels(self, layer: nn.Module) -> int:
        return num_inputs(layer)


class _Norm(_Layer):
    """A norm: what goes of its inputs goes of its outputs."""

    prune_in_channels = _Layer.prune_out_channels

    def get_out_channels(self, layer: nn.Module) -> int:
        return channels_of(layer)

    get_in_channels = get_out_channels


class _Counted(list[Any]):
    """A list that tells when it is gone over."""

    def __init__(self, items: list[Any], tell: Callable[[], None]) -> None:
        super().__init__(items)
        self.tell = tell

    def __iter__(self) -> Iterator[Any]:
        self.tell()
        return super().__iter__()
