"""Accuracy at equal sizes: series with other units, read where equally much is left of the network.

Half of the neurons and half of the weights are not the same size of network. What can be compared
is the accuracy at equal fractions of the parameters, or of the multiply-accumulates, that are left.
"""

from typing import Literal, get_args

from ewnprune.curve.points import CurvePoint

Size = Literal["neurons", "weights", "parameters", "macs", "inputs"]
LEFT = (0.5, 0.2, 0.1, 0.05, 0.02)
"""Fractions left that are shown where none are given."""


def fraction_left(point: CurvePoint, size: Size) -> float:
    """How much is left of the network's parameters, or of another size, in [0, 1].

    Raises:
        ValueError: no such size, or it was not counted.
    """
    if size not in get_args(Size):
        raise ValueError(f"size={size!r}: expected one of {', '.join(get_args(Size))}")
    count = getattr(point, size)
    if count is None:
        raise ValueError(f"the {size} left were not counted at sparsity {point.sparsity:g}")
    return 1 - float(count.sparsity)


def value_at(points: tuple[CurvePoint, ...], left: float, size: Size, measure: str) -> float | None:
    """A measure where a fraction of the network is left, on straight lines between levels.

    Args:
        points: one series.
        left: the fraction, in [0, 1].
        size: of what.
        measure: accuracy, or another measure.

    Returns:
        None outside of what was measured: nothing is extrapolated.
    """
    found = sorted((fraction_left(point, size), point.measure(measure)) for point in points)
    for fraction, value in found:
        if abs(fraction - left) < 1e-9:  # a level that was measured, to rounding
            return value
    below = [pair for pair in found if pair[0] < left]
    above = [pair for pair in found if pair[0] > left]
    if not below or not above:
        return None
    (x0, y0), (x1, y1) = below[-1], above[0]
    return y0 + (y1 - y0) * (left - x0) / (x1 - x0)
