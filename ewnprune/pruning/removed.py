"""What a removal gives: the smaller network, and what is left of what."""

from collections.abc import Mapping
from dataclasses import dataclass

from torch import nn

from ewnprune.pruning.found import Found
from ewnprune.pruning.inputs import Features
from ewnprune.pruning.notes import Note, who


@dataclass(frozen=True)
class Removal:
    """A network without some of its neurons.

    Attributes:
        model: the smaller network.
        left: neurons left of those that there were, for each group of neurons that go together, by
            the name of one of its layers; of heads, their channels.
        notes: for each group the layers in it and what was done; for each that stays, why.
        difference: largest difference, on the example, between the outputs of the masked and of
            the smaller network. Norms in the masked one go by the channels that stay. Groups that
            something else reads across are left out.
        inputs: the features that the network reads, where inputs were to go; None otherwise.
    """

    model: nn.Module
    left: dict[str, tuple[int, int]]
    notes: tuple[Note, ...]
    difference: float
    inputs: Features | None = None


def removal_notes(found: Found, left: Mapping[str, tuple[int, int]]) -> list[Note]:
    """For each group what is left of it; for each that stays, and each layer left, why."""
    notes = []
    for group in found.groups:
        few, size = left.get(group.name, (group.size, group.size))
        units = "features" if group.inputs else "hidden units" if group.apart else "neurons"
        what = f"{few} of {size} {units} left"
        if group.whole and group.attention is not None:
            what += f", {few // group.attention.width} of {group.attention.heads} heads"
        if few < size and not group.maskable:
            what += "; not as zeros would, since a norm reads across them"
        notes.append(Note("removed", f"{who(group)}: {what}"))
    kinds = ("stays", "left", "inputs", "score")
    return notes + [note for note in found.notes() if note.kind in kinds]


def unexpected(removal: Removal) -> str:
    """In one line, what a user who reads no notes should hear of; empty if it went as expected."""
    told = [str(note) for note in removal.notes if note.kind in ("stays", "score")]
    more = f"; and {len(told) - 3} more" if len(told) > 3 else ""
    return "; ".join(told[:3]) + more
