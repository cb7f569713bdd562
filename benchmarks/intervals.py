"""Cells of a table in Markdown: means over seeds, and differences in pairs of one seed."""

from collections.abc import Mapping

import numpy as np

from ewnprune.study.estimates import estimate


def mean_of(values: Mapping[int | None, float], digits: int = 2, signed: bool = False) -> str:
    """The mean with its 95 % t interval; of one seed its value alone.

    >>> mean_of({0: 1.0, 1: 2.0, 2: 3.0})
    '2.00 [-0.48, 4.48]'
    >>> mean_of({0: 1.0})
    '1.00'
    """
    found = estimate(values)
    shown = f"{{:{'+' if signed else ''}.{digits}f}}"
    mean, low, high = map(shown.format, (found.mean, found.low, found.high))
    return f"{mean} [{low}, {high}]" if len(values) > 1 else mean


def difference(
    these: Mapping[int | None, float], those: Mapping[int | None, float], digits: int = 2
) -> str:
    """The mean of the differences in pairs of one seed with its 95 % t interval.

    Seeds that either lacks are left out; nothing if there is no pair.

    >>> difference({0: 3.0, 1: 5.0, 2: 9.0}, {0: 2.0, 1: 3.0})
    '+1.50 [-4.85, +7.85]'
    """
    pairs = {seed: value - those[seed] for seed, value in these.items() if seed in those}
    return mean_of(pairs, digits, signed=True) if pairs else ""


def means(found: np.ndarray) -> list[str]:
    """The mean of each column with its standard deviation over the rows, a seed each.

    >>> means(np.array([[98.0, 90.0], [98.2, 91.0]]))
    ['98.1 ± 0.1', '90.5 ± 0.7']
    """
    spread = found.std(0, ddof=1) if len(found) > 1 else np.full(found.shape[1], np.nan)
    return [f"{mean:.1f} ± {s:.1f}" for mean, s in zip(found.mean(0), spread, strict=True)]


def differences(these: np.ndarray, those: np.ndarray, digits: int = 2) -> list[str]:
    """`difference` of each column of two arrays with a row for each of the same seeds.

    >>> differences(np.array([[3.0], [5.0]]), np.array([[2.0], [3.0]]))
    ['+1.50 [-4.85, +7.85]']
    """
    pairs = zip(these.T, those.T, strict=True)
    return [difference(dict(enumerate(a)), dict(enumerate(b)), digits) for a, b in pairs]
