"""Curves of given numbers."""

import numpy as np

from ewnprune.curve.curve import Curve
from ewnprune.curve.points import CurvePoint


def series(values, **fields):
    levels = np.linspace(0, 0.9, len(values)) if len(values) > 1 else [0]
    return Curve(
        tuple(
            CurvePoint(sparsity=float(level), accuracy=value, **fields)
            for level, value in zip(levels, values, strict=True)
        )
    )
