"""One network that a sweep evaluates: what is left of it, and how it is made."""

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from torch import Tensor, nn

from ewnprune.model.copying import copy_network
from ewnprune.model.size import Count
from ewnprune.model.tensors import clone
from ewnprune.model.tracing import Forward
from ewnprune.pruning.found import Found
from ewnprune.pruning.groups import Group
from ewnprune.pruning.masking import mask_weights
from ewnprune.pruning.recalibration import (
    Statistics,
    average_over_processes,
    estimated,
    put_statistics,
)
from ewnprune.pruning.smaller import build_masked, build_smaller


@dataclass(eq=False)
class Variant:
    """One network to evaluate; the whole one where nothing goes.

    Attributes:
        found: the groups, and the whole network.
        units: for each group that loses some, which of its units stay.
        ranks: for each layer that loses single weights, their places in the order.
        gone: how many of that order's first go, by layer.
        base: the network to cut, where biases were repaired; the whole network otherwise.
        compact: whether it can be run cut, or only masked.
        statistics: those of its BatchNorms, where they were estimated anew.
        sizes: what is left of it.
        outputs: what it gives on one sample.
    """

    found: Found
    units: Mapping[str, Tensor] = field(default_factory=dict)
    ranks: Mapping[str, Tensor] = field(default_factory=dict)
    gone: Mapping[str, int] = field(default_factory=dict)
    base: nn.Module | None = None
    compact: bool = True
    statistics: Statistics = field(default_factory=dict)
    sizes: Mapping[str, Count] = field(default_factory=dict)
    outputs: Any = None

    @property
    def groups(self) -> list[Group]:
        """The groups that lose something."""
        return [group for group in self.found.groups if group.name in self.units]

    @property
    def touched(self) -> set[str]:
        """Names of the modules that are not those of the whole network."""
        names = {name for name in self.ranks if self.gone[name]} | {*self.statistics}
        for group in self.groups:
            names |= group.touched if group.readers else {group.after or group.name}
        return names

    def network(self, whole: Collection[str] = ()) -> nn.Module:
        """The network, made anew: the copies of all levels would be larger than the model.

        Args:
            whole: layers whose neurons are all left.
        """
        base = self.found.network if self.base is None else self.base
        if self.ranks:
            network = copy_network(base, share=True)
            mask_weights(network, {n: ranks >= self.gone[n] for n, ranks in self.ranks.items()})
        elif not self.compact:
            network = build_masked(base, self.groups, self.units)
        else:
            network = build_smaller(base, self.groups, self.units, whole=whole)
        put_statistics(network, self.statistics)
        return network

    def recalibrate(self, forward: Forward, training: Sequence[Any], sample: Any) -> None:
        """Estimate the statistics of its BatchNorms on training batches; not of the whole network.

        Args:
            forward: gives the outputs from network and inputs.
            training: inputs of the batches.
            sample: what `outputs` are of.
        """
        if not self.touched:
            return
        self.statistics = estimated(self.network(), forward, training)
        average_over_processes(self.statistics)
        if self.outputs is not None:
            self.outputs = forward(self.network(), clone(sample))
