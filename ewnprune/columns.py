"""Tables as text: columns side by side, none wider than a terminal."""

import textwrap
from collections.abc import Sequence
from itertools import zip_longest

WIDTH = 79
"""The longest line: of a terminal of 80 columns, which breaks a longer one where it will."""

Column = Sequence[str]
"""A heading and cells, one a row."""


def align(columns: Sequence[Column], left: int = 0) -> str:
    """The columns beside each other, two spaces apart.

    Args:
        columns: equally long ones.
        left: how many of them begin at the left; the others end at the right.

    >>> print(align([["", "a", "bc"], ["%", "5", "10"]], left=1))
         %
    a    5
    bc  10
    """
    padded = []
    for index, column in enumerate(columns):
        width = max(map(len, column), default=0)
        padded.append([c.ljust(width) if index < left else c.rjust(width) for c in column])
    return "\n".join("  ".join(row).rstrip() for row in zip(*padded, strict=True))


def blocks(shared: Sequence[Column], columns: Sequence[Column], left: int = 0) -> list[str]:
    """The columns beside the shared ones; where too wide, in blocks that repeat the first.

    Args:
        shared: come first.
        columns: the others; without any there is no block.
        left: as in `align`.

    >>> for block in blocks([["", "a", "b"]], [["x" * 36, "1", "2"]] * 3, left=1):
    ...     print(block)
       xxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxx  xxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxx
    a                                     1                                     1
    b                                     2                                     2
       xxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxx
    a                                     1
    b                                     2
    """
    count = len(shared)
    folded = _fold([*shared, *columns])
    found = [folded[:count]]
    for column in folded[count:]:
        if _width([*found[-1], column]) > WIDTH and len(found[-1]) > 1:
            found.append(folded[:1])
        found[-1] = [*found[-1], column]
    return [align(block, left) for block in found if columns]


def fill(text: str, indent: str = "", later: str = "", width: int = WIDTH) -> list[str]:
    """Lines of words, the first after an indent, the later ones after another.

    >>> fill("removed by norm: 95 %", width=19)
    ['removed by norm:', '95 %']
    """
    glued = text.replace(" %", "\N{NO-BREAK SPACE}%")
    lines = textwrap.wrap(
        glued, width, initial_indent=indent, subsequent_indent=later, break_long_words=False
    )
    return [line.replace("\N{NO-BREAK SPACE}%", " %") for line in lines]


def _fold(columns: Sequence[Column]) -> list[Column]:
    """Cells of so many words that two could not stand side by side go on in further lines."""
    rows: list[Column] = []
    for row in zip(*columns, strict=True):
        lines = [fill(cell, later="  ", width=WIDTH // 2 - 1) for cell in row]
        rows += zip_longest(*lines, fillvalue="") if any(row) else [row]
    return list(zip(*rows, strict=True))


def _width(columns: Sequence[Column]) -> int:
    return sum(max(map(len, column)) for column in columns) + 2 * (len(columns) - 1)
