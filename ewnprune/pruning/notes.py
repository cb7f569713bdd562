"""Notes: what a reader of a curve or of a smaller network should know, each with its kind."""

from dataclasses import dataclass
from typing import Literal

from ewnprune.pruning.groups import Group

Kind = Literal[
    "removed",
    "stays",
    "masked",
    "left",
    "score",
    "inputs",
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
- ``inputs``: how features of the inputs were scored;
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


def note_of_group(group: Group) -> Note:
    """What is done to the units of a group that go."""
    readers = ", ".join(group.readers)
    if group.inputs:
        return Note("removed", f"{group.name}: features removed, read by {readers}")
    if group.unfollowed:
        place = f"after {group.after}" if group.after else "in its own output"
        place = f"where {readers} reads them" if readers else place
        return Note("masked", f"{who(group)}: neurons masked {place}, since {group.unfollowed}")
    units = "hidden units" if group.apart else "neurons"
    what = f"{units} removed with bias and outgoing weights"
    if len(group.makers) > 1 or group.norms:
        what = "neurons removed together, with all that belongs to them"
    return Note("removed", f"{who(group)}: {what}, read by {readers or 'no layer'}")


def who(group: Group) -> str:
    """The layers of a group, by name."""
    return ", ".join([*group.makers, *group.embeddings]) or group.name
