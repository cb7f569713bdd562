"""Measures accuracy against sparsity, keeps it and shows it.

It may import `ewnprune.pruning` and what lies below. `Curve` is the one result that everything
downstream takes: a new column is a field of `CurvePoint`.
"""

from ewnprune.curve.curve import Curve as Curve
from ewnprune.curve.points import CurvePoint as CurvePoint
from ewnprune.model.size import Count as Count
