"""Notes: what a reader of a curve or of a smaller network should know, each with its kind."""

from dataclasses import dataclass
from typing import Literal

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
