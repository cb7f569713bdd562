"""Tables as text: columns side by side, none wider than a terminal."""

import re
import textwrap
from collections.abc import Sequence

WIDTH = 79
"""The longest line: of a terminal of 80 columns, which breaks a longer one where it will."""

_HEADING = 15  # characters that a heading has at least before it goes on in a second line

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
    folded = [_fold(column, index < count) for index, column in enumerate([*shared, *columns])]
    rows = [_beside(row, above=not index) for index, row in enumerate(zip(*folded, strict=True))]
    whole: list[Column] = [[line for row in rows for line in row[i]] for i in range(len(folded))]
    found = [whole[:count]]
    for column in whole[count:]:
        if _width([*found[-1], column]) > WIDTH and len(found[-1]) > 1:
            found.append(whole[:1])
        found[-1] = [*found[-1], column]
    # a heading that took more lines may be in another block
    return [align(block, left).lstrip("\n") for block in found if columns]


def fill(text: str, indent: str = "", later: str = "", width: int = WIDTH) -> list[str]:
    """Lines of words, the first after an indent, the later ones after another.

    >>> fill("removed by norm: 95 %", width=19)
    ['removed by norm:', '95 %']
    """
    glued = re.sub(r" %(?!\S)", "\N{NO-BREAK SPACE}%", text)
    lines = textwrap.wrap(
        glued, width, initial_indent=indent, subsequent_indent=later, break_long_words=False
    )
    return [line.replace("\N{NO-BREAK SPACE}%", " %") for line in lines]


def _fold(column: Column, shared: bool) -> list[list[str]]:
    """The lines of each cell: two cells can stand side by side, and a heading is not much wider."""
    heading, *cells = column
    widest = WIDTH // 2 - 1
    width = widest if shared else max(_HEADING, min(widest, max(map(len, cells), default=0)))
    return [fill(heading, width=width), *(fill(cell, later="  ", width=widest) for cell in cells)]


def _beside(cells: Sequence[list[str]], above: bool) -> list[list[str]]:
    """Cells of one row as high as the highest, with empty lines above or below."""
    height = max(1, *map(len, cells))
    empty = [[""] * (height - len(lines)) for lines in cells]
    return [e + lines if above else lines + e for e, lines in zip(empty, cells, strict=True)]


def _width(columns: Sequence[Column]) -> int:
    return sum(max(map(len, column)) for column in columns) + 2 * (len(columns) - 1)
