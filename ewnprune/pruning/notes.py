"""Notes: what a reader of a curve or of a smaller network should know, each with its kind."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Literal

from ewnprune.pruning.groups import Group

Kind = Literal[
    "removed",
    "stays",
    "masked",
    "left",
    "score",
    "statistics",
    "sizes",
    "latency",
    "run",
    "measures",
    "other",
]
"""What a note is about:

- ``removed``: neurons of a group go with all that belongs to them;
- ``stays``: a group stays whole that was to go;
- ``masked``: neurons are set to zero in their own output, since nobody knows who reads them;
- ``left``: a layer that was not to go, with the reason;
- ``score``: another score took the place of the one asked for;
- ``statistics``: running statistics of BatchNorms were estimated anew, or why they were not;
- ``sizes``: how sizes were counted;
- ``latency``: how times were measured;
- ``run``: how the networks were run;
- ``measures``: what was not measured, and why;
- ``other``: what came from elsewhere.
"""


@dataclass(frozen=True)
class Note:
    """One fact in words, with its kind.

    >>> print(Note("left", "fc2: left: excluded"))
    fc2: left: excluded
    """

    kind: Kind
    text: str

    def __str__(self) -> str:
        return f"latency: {self.text}" if self.kind == "latency" else self.text


def notes_of_removal(groups: Iterable[Group], left: Mapping[str, tuple[int, int]]) -> list[Note]:
    """What was removed of each group: ``left`` of how many, by its name; nothing of others."""
    notes = []
    for group in groups:
        few, size = left.get(group.name, (group.size, group.size))
        what = f"{few} of {size} neurons left"
        if group.whole:
            what += f", {few // group.width} of {group.blocks} heads"
        if few < size and not group.maskable:
            what += "; not as zeros would, since a norm reads across them"
        who = ", ".join([*group.makers, *group.embeddings])
        notes.append(Note("removed", f"{who}: {what}"))
    return notes
