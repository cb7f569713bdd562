"""torch-pruning's graph of a network, with an end to its search.

Where its index mappings send channels round in a circle (keys that grouped queries share), or sizes
are inferred along every path there is (shifted windows, detectors), it goes on for hours. Each step
of its loops and recursions goes over the neighbours of a node: those are counted.
"""

from collections.abc import Callable, Iterator
from typing import Any

import torch_pruning

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


class _Counted(list[Any]):
    """A list that tells when it is gone over."""

    def __init__(self, items: list[Any], tell: Callable[[], None]) -> None:
        super().__init__(items)
        self.tell = tell

    def __iter__(self) -> Iterator[Any]:
        self.tell()
        return super().__iter__()
