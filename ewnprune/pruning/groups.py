"""Groups: neurons that go together, whatever found them.

Scores, masks, zeros, cuts and checks act on these and on nothing else.

The neurons of a layer in a chain are a group with one maker. Where layers are added, concatenated,
grouped or attended to, several layers make the neurons of one group.
"""

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor, nn

from ewnprune.model.attention import Attention
from ewnprune.model.layers import num_inputs, num_neurons, type_name
from ewnprune.model.normalization import channels_of

OUTPUTS = "its channels are outputs of the model"
"""Why a group stays whose channels the model gives."""


@dataclass(frozen=True, eq=False)
class Places:
    """Where the channels of a group lie along one dimension of a module's tensors.

    Attributes:
        index: places in the module, ``(n,)``.
        channel: for each, the channel of the group that lies there, ``(n,)``.
    """

    index: Tensor
    channel: Tensor

    @classmethod
    def of(cls, index: Sequence[int], channel: Sequence[int]) -> "Places":
        """From plain numbers."""
        return cls(
            torch.tensor(index, dtype=torch.long, device="cpu"),
            torch.tensor(channel, dtype=torch.long, device="cpu"),
        )

    @classmethod
    def blocks(cls, channels: int, block: int = 1) -> "Places":
        """Channel after channel, with so many places side by side for each.

        >>> Places.blocks(2, 3).channel
        tensor([0, 0, 0, 1, 1, 1])
        """
        return cls(
            torch.arange(channels * block, device="cpu"),
            torch.arange(channels, device="cpu").repeat_interleave(block),
        )

    def keep(self, size: int, channels: Tensor) -> Tensor:
        """Which of ``size`` places stay where these channels do: booleans, ``(size,)``.

        >>> Places.of([3, 1], [0, 1]).keep(4, torch.tensor([False, True]))
        tensor([ True,  True,  True, False])
        """
        keep = torch.ones(size, dtype=torch.bool, device="cpu")
        keep[self.index] = channels[self.channel]
        return keep

    def put(self, size: int, values: Tensor) -> Tensor:
        """The values of the channels at their places, and zeros at the others, ``(size,)``.

        >>> Places.of([3, 1], [0, 1]).put(4, torch.tensor([5, 7]))
        tensor([0, 7, 0, 5])
        """
        found = values.new_zeros(size)
        found[self.index] = values[self.channel]
        return found

    def are_all(self, size: int) -> bool:
        """Whether they are all of ``size`` places, in the order of the channels, one for each."""
        every = torch.arange(size, device="cpu")
        return torch.equal(self.index, every) and torch.equal(self.channel, every)

    def at(self, indices: Iterable[int]) -> list[int]:
        """The channels that lie at some places."""
        return self.channel[torch.isin(self.index, torch.tensor([*indices], device="cpu"))].tolist()


@dataclass(eq=False)
class Group:
    """Channels that go together: the neurons of the ``makers``, inputs of the ``readers``.

    Attributes:
        name: the layer that gives the group its numbering, and its name; for the heads of
            attention the module that it lies in.
        size: how many channels there are.
        makers: the layers whose neurons they are, by name.
        readers: the layers that read them, by name.
        passed: BatchNorms and the like that treat each of them by itself, by name.
        norms: the LayerNorms and GroupNorms that read across them, by name.
        embeddings: embeddings with these dimensions; they go along, and have no say in the score.
        parameters: parameters that a model uses by themselves, by name, with the dimension that
            counts the channels.
        blocks: channels stay in so many blocks of equal size (grouped convolutions, GroupNorm,
            heads of attention).
        whole: a unit is a whole block; otherwise it is one channel of each.
        apart: the blocks have nothing in common but their width, so which channel of each makes a
            unit is free: those of the same place in the order of their scores do.
        stays: why none of them can go; empty if they can.
        unfollowed: why they cannot be cut out, though nothing says that they must stay; empty if
            they can. They are masked: where they are read, or if nobody knows who does, in their
            own output.
        after: the BatchNorm that directly follows the maker, where they are masked.
        opaque: something reads across channels that cannot be made to leave some of them out.
        attention: the attention whose heads they are, if they are that.
        rescale: whether queries make up for attention that divides by the width that is left.
        inputs: the shape of the features of one sample, where the channels are inputs of the
            network, which no layer makes; empty otherwise.
    """

    name: str
    size: int
    makers: dict[str, Places] = field(default_factory=dict)
    readers: dict[str, Places] = field(default_factory=dict)
    passed: dict[str, Places] = field(default_factory=dict)
    norms: dict[str, Places] = field(default_factory=dict)
    embeddings: dict[str, Places] = field(default_factory=dict)
    parameters: dict[str, tuple[int, Places]] = field(default_factory=dict)
    blocks: int = 1
    whole: bool = False
    apart: bool = False
    stays: str = ""
    unfollowed: str = ""
    after: str | None = None
    opaque: bool = False
    attention: Attention | None = None
    rescale: bool = False
    inputs: tuple[int, ...] = ()

    @property
    def free(self) -> bool:
        """Whether its channels can be cut out."""
        return not self.stays and not self.unfollowed

    @property
    def maskable(self) -> bool:
        """Whether zeros where they are read say the same as removing them."""
        return not self.norms and not self.opaque

    @property
    def width(self) -> int:
        """Channels of a block."""
        return self.size // self.blocks

    @property
    def units(self) -> int:
        """How many units there are to remove."""
        return self.blocks if self.whole else self.width

    @property
    def touched(self) -> set[str]:
        """Names of all modules that change when some of them go."""
        owners = {name.rpartition(".")[0] for name in self.parameters}
        return {*self.makers, *self.readers, *self.passed, *self.norms, *self.embeddings, *owners}

    def unit_of(self) -> Tensor:
        """The unit that each channel belongs to, ``(size,)``.

        >>> Group("conv", 6, blocks=2).unit_of(), Group("heads", 6, blocks=2, whole=True).unit_of()
        (tensor([0, 1, 2, 0, 1, 2]), tensor([0, 0, 0, 1, 1, 1]))
        """
        channels = torch.arange(self.size, device="cpu")
        return channels // self.width if self.whole else channels % self.width

    def channels(self, units: Tensor) -> Tensor:
        """Which channels stay, ``(size,)``, where these units do, ``(units,)``.

        Or these channels, ``(size,)``: a user may name others than those of whole units.
        """
        return units if len(units) == self.size else units[self.unit_of()]


def structure(network: nn.Module, group: Group) -> tuple[object, ...]:
    """What a group is made of, whatever its size: equal for groups of equal structure."""
    tables = (group.makers, group.readers, group.passed, group.norms, group.embeddings)
    kinds = [sorted(type_name(network.get_submodule(name)) for name in table) for table in tables]
    return (*map(tuple, kinds), len(group.parameters), group.blocks > 1, group.whole)


def mark_unfollowed(groups: Sequence[Group], why: Callable[[Sequence[Group]], str]) -> bool:
    """Find out of which groups something does not hold, and mark them with the reason.

    All are tried together; where that fails, one by one, and once more those that were sound.

    Args:
        groups: those that can be cut, as far as it is known.
        why: what does not hold where these are cut, one or more; empty if it holds.

    Returns:
        Whether it holds of all.
    """
    if not groups or not why(groups):
        return True
    for group in groups:
        group.unfollowed = why([group])
    sound = [group for group in groups if not group.unfollowed]
    reason = why(sound) if sound else ""
    for group in sound:
        group.unfollowed = reason
    return False


@dataclass(frozen=True)
class Cut:
    """What stays of each module, as booleans, where some units of some groups do not.

    Attributes:
        rows: neurons of layers, by name.
        columns: inputs of layers.
        channels: channels of normalizations and the like, and dimensions of embeddings.
        parameters: of parameters that a model uses by themselves, with the dimension.
        selecting: layers that are still given all inputs, and have to pick theirs.
    """

    rows: dict[str, Tensor] = field(default_factory=dict)
    columns: dict[str, Tensor] = field(default_factory=dict)
    channels: dict[str, Tensor] = field(default_factory=dict)
    parameters: dict[str, tuple[int, Tensor]] = field(default_factory=dict)
    selecting: set[str] = field(default_factory=set)


def cut_of(network: nn.Module, groups: Iterable[Group], units: Mapping[str, Tensor]) -> Cut:
    """What stays of a network's modules.

    Args:
        network: the network, whole.
        groups: those of which some units may go; not those that nobody can follow.
        units: for each group, by name, which units stay, ``(units,)``; all of those not named.
    """
    cut = Cut()
    for group in groups:
        if group.name not in units or units[group.name].all():
            continue
        channels = group.channels(units[group.name].cpu())

        def note(
            table: dict[str, Tensor], name: str, places: Places, size: int, kept: Tensor = channels
        ) -> None:
            keep = places.keep(size, kept)
            table[name] = table[name] & keep if name in table else keep

        for name, places in group.makers.items():
            note(cut.rows, name, places, num_neurons(network.get_submodule(name)))
        for name, places in group.readers.items():
            note(cut.columns, name, places, num_inputs(network.get_submodule(name)))
        if group.inputs:
            cut.selecting.update(group.readers)
        for name, places in {**group.passed, **group.norms, **group.embeddings}.items():
            note(cut.channels, name, places, channels_of(network.get_submodule(name)))
        for name, (dim, places) in group.parameters.items():
            size = network.get_parameter(name).shape[dim]
            cut.parameters[name] = (dim, places.keep(size, channels))
    return cut
