"""What was found of a network: the groups, and notes on what is done to each."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field

from torch import Tensor, nn

from ewnprune.model.anatomy import Anatomy
from ewnprune.model.layers import Selection, type_name
from ewnprune.pruning.groups import Group
from ewnprune.pruning.notes import Kind, Note, note_of_group, who

IN_TRAINING_ONLY = "only the training pass calls it"
NOT_ASKED = "not among the layers asked for"

_WITHOUT_NEURONS = (nn.Embedding, nn.EmbeddingBag, nn.RNNCellBase, nn.Bilinear)


@dataclass(frozen=True)
class Found:
    """The groups of a network.

    Attributes:
        network: the network, plain and whole; it shares its tensors with the model.
        groups: those of which units can go, or be masked.
        staying: those of which none can, each with its reason.
        selection: the layers asked for, and those left.
        anatomy: the network as seen on the example.
        untried: why training the smaller network was not tried; empty if it was.
        deviations: standard deviations of what layers read of the network's inputs, by the
            layer's name, where these are the group.
        told: notes on how the groups were found.
    """

    network: nn.Module
    groups: Sequence[Group]
    staying: Sequence[Group]
    selection: Selection
    anatomy: Anatomy
    untried: str = ""
    deviations: Mapping[str, Tensor] = field(default_factory=dict)
    told: Sequence[Note] = ()

    @property
    def unfollowed(self) -> dict[str, str]:
        """Layers of which nobody knows who reads their neurons, each with the reason."""
        return {group.name: group.unfollowed for group in self.groups if group.unfollowed}

    def asked(self, units: Mapping[str, Tensor]) -> list[Group]:
        """The groups that a choice of units says something of."""
        return [group for group in self.groups if group.name in units]

    def notes(self) -> list[Note]:
        """What is done to each group, and which layers are left."""
        return [
            *map(note_of_group, self.groups),
            *map(_note_of_staying, self.staying),
            *(
                Note("left", f"{name}: left: {reason}")
                for name, reason in self.selection.left.items()
            ),
            *(() if self.told else self._others()),
            *([Note("run", f"training was not tried: {self.untried}")] if self.untried else []),
            *self.told,
        ]

    def _others(self) -> Iterator[Note]:
        """Modules with weights, of kinds that have no neurons to choose."""
        seen = {name for group in (*self.groups, *self.staying) for name in group.touched}
        for name, module in self.network.named_modules():
            if isinstance(module, _WITHOUT_NEURONS) and name not in seen:
                yield Note("left", f"{name}: left: neurons of {type_name(module)} are not chosen")


def _note_of_staying(group: Group) -> Note:
    # as expected: nobody asked for it, or it is no part of the network that is measured
    kind: Kind = "left" if group.stays in (IN_TRAINING_ONLY, NOT_ASKED) else "stays"
    return Note(kind, f"{who(group)}: {kind}: {group.stays}")
