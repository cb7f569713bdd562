"""Groups of channels that can only go together, and the units that they are cut by."""

from collections.abc import Iterable
from dataclasses import dataclass, field

from torch import nn

from ewnprune.model.attention import Attention


@dataclass(frozen=True)
class Places:
    """Where the channels of a group lie in one layer: its index for the channel of the group."""

    layer: nn.Module
    index: tuple[int, ...]
    channel: tuple[int, ...]

    def of(self, channels: Iterable[int]) -> list[int]:
        """Where some of the channels lie."""
        wanted = set(channels)
        pairs = zip(self.index, self.channel, strict=True)
        return [i for i, channel in pairs if channel in wanted]

    def at(self, indices: Iterable[int]) -> list[int]:
        """The channels that lie at some places."""
        wanted = set(indices)
        pairs = zip(self.index, self.channel, strict=True)
        return [channel for i, channel in pairs if i in wanted]


@dataclass
class Group:
    """Channels that go together: the neurons of the ``makers``, columns of the ``readers``.

    Attributes:
        name: the layer that gives the group its numbering, and its name; for the heads of
            attention the module that it lies in.
        size: how many channels there are.
        makers: the layers whose neurons they are, by name.
        readers: the layers that read them, by name.
        embeddings: embeddings with these dimensions; they go along, and have no say in the score.
        blocks: channels stay in so many blocks of equal size (grouped convolutions, GroupNorm,
            heads of attention).
        whole: a unit is a whole block; otherwise it is one channel of each.
        norms: the LayerNorms and GroupNorms that read across them, by name.
        stays: why none of them can go; empty if they can.
        maskable: whether setting what the readers multiply them with to zero says the same as
            removing them. It does not where a LayerNorm or GroupNorm reads across channels.
        opaque: something reads across channels that cannot be made to leave some of them out.
        attention: the attention whose heads they are, if they are that.
    """

    name: str
    size: int
    makers: dict[str, Places] = field(default_factory=dict)
    readers: dict[str, Places] = field(default_factory=dict)
    embeddings: list[str] = field(default_factory=list)
    norms: dict[str, Places] = field(default_factory=dict)
    blocks: int = 1
    whole: bool = False
    stays: str = ""
    maskable: bool = True
    opaque: bool = False
    attention: Attention | None = None

    @property
    def width(self) -> int:
        """Channels of a block."""
        return self.size // self.blocks

    @property
    def units(self) -> int:
        """How many units there are to remove."""
        return self.blocks if self.whole else self.width

    def unit_of(self, channel: int) -> int:
        """The unit that a channel belongs to.

        >>> [Group("conv", 6, blocks=2).unit_of(channel) for channel in range(6)]
        [0, 1, 2, 0, 1, 2]
        """
        return channel // self.width if self.whole else channel % self.width

    def channels_of(self, units: Iterable[int]) -> list[int]:
        """The channels of some units.

        >>> Group("conv", 6, blocks=2).channels_of([1])
        [1, 4]
        >>> Group("attention", 6, blocks=2, whole=True).channels_of([1])
        [3, 4, 5]
        """
        wanted = set(units)
        return [channel for channel in range(self.size) if self.unit_of(channel) in wanted]
