"""How the parts of a report name and colour methods, scores and levels."""

from typing import TYPE_CHECKING, Any

import yaml

from ewnprune.drawing import line_styles
from ewnprune.study.labels import labels_of

if TYPE_CHECKING:
    from ewnprune.study.analysis import Study


def styles(study: "Study") -> dict[str, dict[str, Any]]:
    """For each method its colour, and the dashes that tell it from others of that colour."""
    labels = labels_of(study.curve)
    found = {}
    for label, style in zip(labels, line_styles(labels), strict=True):
        dashes = () if style["linestyle"] == "-" else style["linestyle"][1]
        # Matplotlib counts them in widths of the line, which is 2 here
        dash = " ".join(f"{2 * length:g}" for length in dashes)
        found[label] = {"color": style["color"], "dash": dash}
    return found


def what_goes(study: "Study") -> str:
    """What the levels are fractions of, where neurons or costs go."""
    of = study.curve.points[0].level_of
    return unit_that_goes(study) if of == "units" else of.replace("macs", "MACs")


def unit_that_goes(study: "Study") -> str:
    """What a network loses that gets smaller: neurons, or inputs where no method removes neurons.

    Fractions of the one are not compared with fractions of the other.
    """
    units = {point.unit for point in study.curve}
    return "inputs" if "inputs" in units and "neurons" not in units else "neurons"


def levels_of(study: "Study") -> list[float]:
    """The levels of any method, ascending."""
    return sorted({float(point.sparsity) for point in study.curve})


def short(score: str) -> str:
    """A score without the module it lies in.

    >>> short("ewnprune.scores.norm_shuffled")
    'norm_shuffled'
    """
    return score.rpartition(".")[2]


def shorten(text: str, length: int = 14) -> str:
    """As much of a text as has room below an axis.

    >>> shorten("group_lasso @ max_epochs=2")
    'group_lasso @…'
    """
    return text if len(text) <= length else text[: length - 1].rstrip() + "…"


def interval(mean: float, low: float, high: float, digits: int) -> str:
    """A percentage and its interval, which one seed does not have.

    >>> interval(0.5, 0.4, 0.6, 1), interval(0.5, float("nan"), float("nan"), 1)
    ('50.0 [40.0, 60.0]', '50.0')
    """
    text = f"{100 * mean:.{digits}f}"
    return text if low != low else f"{text} [{100 * low:.{digits}f}, {100 * high:.{digits}f}]"


def flatten(options: Any, name: str = "") -> dict[str, str]:
    """Nested options as one line each.

    >>> flatten({"prune": {"scores": ["norm"], "parametrization": None}})
    {'prune.scores': '[norm]', 'prune.parametrization': 'null'}
    """
    if isinstance(options, dict) and options:
        found: dict[str, str] = {}
        for key, value in options.items():
            found |= flatten(value, f"{name}.{key}" if name else str(key))
        return found
    text = yaml.safe_dump(options, default_flow_style=True, width=10_000)
    return {name: text.removesuffix("\n").removesuffix("\n...")}
