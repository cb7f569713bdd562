"""The axes of a figure: where a value lies, and which are written beside it."""

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from math import ceil, floor, inf, log10

_LEAST_ERROR = 1e-4
_ACCURACIES = (0, 0.1, 0.3, 0.5, 0.7, 0.8, 0.9, 0.95, 0.98, 0.99, 0.995, 0.998, 0.999)


@dataclass(frozen=True)
class Axis:
    """What lies where along one side of a figure.

    Attributes:
        label: what is measured, and how it is stretched.
        low: the value at the left, or the bottom.
        high: the value at the other end; the smaller one where the axis runs backwards.
        ticks: values, and what is written at them.
        scale: what is drawn in equal steps.
        lines: whether ticks have lines across the figure.
    """

    label: str
    low: float
    high: float
    ticks: Sequence[tuple[float, str]]
    scale: Callable[[float], float] = float
    lines: bool = True

    def place(self, value: float) -> float:
        """Where a value lies, from 0 to 1; what lies outside is put at the end.

        >>> Axis("", 100, 1, (), log10).place(10)
        0.5
        """
        first, last = self.scale(self.low), self.scale(self.high)
        low, high = min(self.low, self.high), max(self.low, self.high)
        return (self.scale(min(max(value, low), high)) - first) / (last - first)


def linear(label: str, values: Iterable[float]) -> Axis:
    """Equal steps.

    >>> [text for _, text in linear("epoch", (1, 2, 3)).ticks]
    ['1', '2', '3']
    """
    found = [*values] or [0.0]
    low, high = min(found), max(found)
    if high - low < 1e-9:
        low, high = low - 0.5, high + 0.5
    size = 10 ** floor(log10((high - low) / 4))
    step = next(size * times for times in (1, 2, 5, 10) if (high - low) / (size * times) <= 6)
    if all(value == round(value) for value in found):
        step = max(1, ceil(step))
    steps = range(ceil(low / step - 1e-9), floor(high / step + 1e-9) + 1)
    ticks = [(step * n, f"{round(step * n, 9):g}") for n in steps]
    return Axis(label, low, high, ticks)


def logarithmic(label: str, values: Iterable[float], backwards: bool = False) -> Axis:
    """Equal factors; values that are not above zero, or not finite, have no place on it.

    >>> axis = logarithmic("left", (100, 50, 2), backwards=True)
    >>> axis.low, axis.high, [text for _, text in axis.ticks]
    (100, 2, ['100', '50', '20', '10', '5', '2'])
    >>> [text for _, text in logarithmic("ms", (0.164, 0.215)).ticks]
    ['0.17', '0.18', '0.19', '0.2', '0.21']
    """
    found = [value for value in values if 0 < value < inf] or [1.0]
    low, high = min(found), max(found)
    if high / low < 1.05:
        low, high = low / 1.5, high * 1.5
    decades = range(floor(log10(low)), ceil(log10(high)) + 1)
    factors = (1, 2, 5) if len(decades) < 5 else (1,)
    numbers = sorted((n * 10**d for d in decades for n in factors), reverse=backwards)
    ticks = [(n, f"{n:g}") for n in numbers if low * 0.999 <= n <= high * 1.001]
    if len(ticks) < 3:
        ticks = list(linear("", (low, high)).ticks)
    return Axis(label, *((high, low) if backwards else (low, high)), ticks, log10)


def accuracies(label: str, values: Iterable[float]) -> Axis:
    """Equal factors of the error: 90 to 99 % is as far as 99 to 99.9 %, and 0 to 90 %.

    Args:
        label: what is measured.
        values: fractions, in [0, 1].

    >>> [text for _, text in accuracies("", (0.4, 0.985)).ticks]
    ['50', '70', '80', '90', '95', '98']
    >>> [text for _, text in accuracies("", (0.912, 0.931)).ticks]
    ['90', '91', '92', '93', '94']
    """
    found = [*values] or [0.0, 0.99]
    low = max(0.0, min(found) - 0.02)
    high = min(1 - _LEAST_ERROR, 1 - (1 - max(found)) / 1.15)
    if low >= high:
        low, high = 0.0, 0.99
    ticks = [(a, f"{100 * a:g}") for a in _ACCURACIES if low <= a <= high]
    if len(ticks) < 3:
        ticks = [
            (percent / 100, text) for percent, text in linear("", (100 * low, 100 * high)).ticks
        ]
    return Axis(f"{label}, log scale of errors", low, high, _apart(ticks, low, high), _errors)


def categories(label: str, names: Sequence[str]) -> Axis:
    """One place for each name, by its number."""
    ticks = [*enumerate(names)]
    return Axis(label, -0.5, len(names) - 0.5, ticks, lines=False)


def _errors(accuracy: float) -> float:
    return -log10(max(_LEAST_ERROR, 1 - accuracy))


def _apart(ticks: list[tuple[float, str]], low: float, high: float) -> list[tuple[float, str]]:
    """Those whose texts do not run into each other, from the top."""
    least = (_errors(high) - _errors(low)) / 16
    kept: list[tuple[float, str]] = []
    for tick in reversed(ticks):
        if not kept or _errors(kept[0][0]) - _errors(tick[0]) >= least:
            kept.insert(0, tick)
    return kept
