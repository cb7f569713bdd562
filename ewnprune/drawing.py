"""What all figures share: a colour for each method, a style, files that are the same each time."""

import os
import re
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ewnprune.files import replacing

if TYPE_CHECKING:
    from matplotlib.figure import Figure

# told apart with any colour vision: Okabe & Ito, https://jfly.uni-koeln.de/color/, but for their
# yellow, which is faint on white; the last is of Tol, https://personal.sron.nl/~pault/
COLORS = {
    "ewn": "#0072B2",
    "swn": "#D55E00",
    "plain": "#009E73",
    "group_lasso": "#CC79A7",
    "random_ratios": "#56B4E9",
    "random": "#E69F00",
    "magnitude": "#000000",
    "dense": "#882255",
}
GREY = "0.4"
DASHES: Any = ("-", (0, (5, 1.5)), (0, (1, 1.2)), (0, (6, 1.5, 1, 1.5)), (0, (3, 3)))
STYLE: Any = {
    "font.size": 13,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.grid": True,
    "grid.color": "0.9",
    "legend.frameon": False,
}
_ALIASES = {"none": "plain", "lasso": "group_lasso", "grouplasso": "group_lasso"}
_ALIASES |= {"from scratch": "dense"}
_METADATA: dict[str, Any] = {".svg": {"Date": None}, ".pdf": {"CreationDate": None}}


def _key(name: str) -> str:
    """The key in `COLORS` of a method, or of what begins with one; empty where there is none.

    >>> [_key(name) for name in ("EWN", "none @ epochs=5", "SWN, slice", "mine")]
    ['ewn', 'plain', 'swn', '']
    """
    whole = name.casefold()
    for key in (whole, re.split(r"\W", whole, maxsplit=1)[0]):
        if (found := _ALIASES.get(key, key)) in COLORS:
            return found
    return ""


def method_colors(names: Iterable[str]) -> dict[str, str]:
    """A colour for each method: its own in every figure, or one that no other has here.

    Where there are more methods without one than colours left, they share all of them.

    >>> method_colors(["EWN", "mine"])
    {'EWN': '#0072B2', 'mine': '#D55E00'}
    """
    known = {name: _key(name) for name in names}
    free = [key for key in COLORS if key not in known.values()]
    others = [name for name, key in known.items() if not key]
    free = free if len(free) >= len(others) else list(COLORS)
    known |= {name: free[index % len(free)] for index, name in enumerate(others)}
    return {name: COLORS[key] for name, key in known.items()}


def line_styles(methods: Sequence[str]) -> list[dict[str, Any]]:
    """A style for each line, by its method: lines of one colour differ in their dashes."""
    colors = method_colors(methods)
    drawn: list[str] = []
    styles = []
    for method in methods:
        color = colors[method]
        styles.append({"color": color, "linestyle": DASHES[drawn.count(color) % len(DASHES)]})
        drawn.append(color)
    return styles


def write_laid_out(figure: "Figure", paths: Iterable[str | os.PathLike[str]]) -> None:
    """Lay a figure out once, so that it is the same in every file, and write it to all of them.

    Raises:
        ValueError: an ending that Matplotlib does not know.
        OSError: a file cannot be written.
    """
    figure.draw_without_rendering()
    figure.set_layout_engine("none")
    for path in paths:
        save_figure(figure, path)


def save_figure(figure: "Figure", path: str | os.PathLike[str], dpi: float | None = None) -> None:
    """Write a figure, by the path's ending: the same figure gives the same file.

    The file is replaced at once or not at all.

    Raises:
        ValueError: an ending that Matplotlib does not know.
        OSError: the file cannot be written.
    """
    from matplotlib import rc_context

    path = Path(path)
    # ids follow from the salt, and must differ between the figures of one page
    style: Any = {"svg.hashsalt": path.stem, "svg.fonttype": "path"}
    with rc_context(style), replacing(path) as temporary:
        figure.savefig(
            temporary,
            format=path.suffix[1:],
            dpi=dpi or "figure",
            metadata=_METADATA.get(path.suffix),
        )
