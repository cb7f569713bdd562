"""Names for series: what tells each from the others, and what all of them share."""

from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING, Any

from ewnprune.curve.points import SERIES

if TYPE_CHECKING:
    from ewnprune.curve.curve import Curve
    from ewnprune.curve.points import CurvePoint


def line_key(series: "Curve") -> tuple[Any, ...]:
    """The fields that tell a series from others, method first, without the seed."""
    point = series.points[0]
    return tuple(getattr(point, name) for name in SERIES if name != "seed")


def level_name(points: Iterable["CurvePoint"]) -> str:
    """What levels are fractions of, in words: neurons, weights or both, parameters, MACs.

    >>> from ewnprune import CurvePoint
    >>> level_name([CurvePoint(sparsity=0.5, level_of="macs")])
    'MACs'
    >>> level_name([CurvePoint(sparsity=0.5), CurvePoint(sparsity=0.5, unit="weights")])
    'neurons or weights'
    """
    words = {"parameters": "parameters", "macs": "MACs"}
    return " or ".join(dict.fromkeys(words.get(p.level_of, p.unit) for p in points))


def series_names(keys: Sequence[tuple[Any, ...]]) -> list[str]:
    """What differs between the keys, in words.

    >>> series_names([("EWN", "norm", 3), ("SWN", "norm", 3)])
    ['EWN', 'SWN']
    """
    differing = [i for i in range(len(keys[0])) if len({key[i] for key in keys}) > 1]
    return [", ".join(str(key[i]) for i in differing) for key in keys]


def shared_facts(curve: "Curve") -> str:
    """What all points have in common, in words.

    >>> from ewnprune import Curve, CurvePoint
    >>> shared_facts(Curve((CurvePoint(sparsity=0, method="EWN", score="norm", split="test"),)))
    'EWN, ranked by norm, test data'
    """
    words = {
        "method": "{}",
        "score": "ranked by {}",
        "scope": "across layers",
        "realize": "realized by {}",
        "layer": "{} alone pruned",
        "max_per_layer": "at most {} of each",
        "split": "{} data",
        "epoch": "epoch {}",
        "seed": "seed {}",
    }
    said = []
    for name, text in words.items():
        values = {getattr(point, name) for point in curve}
        value = values.pop() if len(values) == 1 else None
        if value not in (None, "", "layer", "mask"):  # the usual scope, the usual way
            said.append(text.format(value))
            if name == "scope" and value != "global":
                said[-1] += f" ({value})"
    return ", ".join(said)
