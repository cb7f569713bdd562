"""Figures as SVG whose letters are letters, whose colours a page can change, and that say values.

Without a script they are whole; a page's script hides series, shows values and moves the cursor.
"""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from itertools import pairwise
from typing import Any, Literal

from markupsafe import Markup

from ewnprune.study.axes import Axis

WIDTH, HEIGHT = 480, 340
_LEFT, _RIGHT, _TOP, _BOTTOM = 50, 466, 12, 292
_LINE = 16  # of a legend
_FONT = 'font-family="system-ui, sans-serif" font-size="12"'


@dataclass(frozen=True)
class Mark:
    """One value of a series.

    Attributes:
        x: its place.
        y: its place.
        tip: what it says of itself.
        low: lower end of an interval.
        high: upper end.
        level: the sparsity it was measured at.
        ringed: whether it is the one that was chosen.
    """

    x: float
    y: float
    tip: str = ""
    low: float | None = None
    high: float | None = None
    level: float | None = None
    ringed: bool = False


@dataclass(frozen=True)
class Series:
    """Values that belong together.

    Attributes:
        method: the method they are of: hidden with it; empty for what always shows.
        name: in a legend; empty for none.
        color: of all that is drawn.
        marks: the values, in order.
        line: whether they are joined.
        dash: of that line, as SVG has it.
        thin: whether it only stands behind others.
        spread: how intervals are drawn.
        dots: whether values have dots; else those that say something show when pointed at.
    """

    method: str
    name: str
    color: str
    marks: Sequence[Mark]
    line: bool = True
    dash: str = ""
    thin: bool = False
    spread: Literal["", "band", "bars"] = ""
    dots: bool = True


@dataclass(frozen=True)
class Chart:
    """A figure.

    Attributes:
        x: the axis below.
        y: the axis at the left.
        series: what is drawn, the later over the earlier.
        cursor: for each sparsity where along ``x`` the slider's line stands.
        slanted: whether the texts below the axis are.
    """

    x: Axis
    y: Axis
    series: Sequence[Series]
    cursor: Mapping[float, Sequence[float]] = field(default_factory=dict)
    slanted: bool = False


def draw(chart: Chart, name: str, title: str, text: str, legend: bool = False) -> Markup:
    """The figure as an SVG element.

    Args:
        chart: the figure.
        name: of the figure, for ids.
        title: what screen readers call it.
        text: what they read out.
        legend: whether the methods are named below, as a file by itself needs it.
    """
    named = [s for s in chart.series if s.name and legend]
    height = HEIGHT + (60 if chart.slanted else 0)
    cursor = {f"{level:g}": [_x(chart, x) for x in xs] for level, xs in chart.cursor.items()}
    parts = [
        Markup(
            '<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {} {}" role="img" '
            'aria-labelledby="{}-title {}-text" data-cursor="{}">'
        ).format(WIDTH, height + _LINE * len(named), name, name, json.dumps(cursor)),
        Markup('<title id="{}-title">{}</title>').format(name, title),
        Markup('<desc id="{}-text">{}</desc>').format(name, text),
        Markup('<rect class="paper" width="100%" height="100%" fill="#fff"/>'),
        _axes(chart),
        Markup('<g class="cursor"></g>'),
        *(_series(chart, series) for series in chart.series),
        *(_legend(s, height + _LINE * i) for i, s in enumerate(named)),
        Markup("</svg>"),
    ]
    return Markup("\n").join(parts)


def _x(chart: Chart, value: float) -> float:
    return round(_LEFT + (_RIGHT - _LEFT) * chart.x.place(value), 1)


def _y(chart: Chart, value: float) -> float:
    return round(_BOTTOM - (_BOTTOM - _TOP) * chart.y.place(value), 1)


def _tag(name: str, text: Any = None, **attributes: Any) -> Markup:
    """An element; attributes that are None are left out, and _ stands for -."""
    given = Markup("").join(
        Markup(' {}="{}"').format(key.rstrip("_").replace("_", "-"), value)
        for key, value in attributes.items()
        if value is not None
    )
    if text is None:
        return Markup("<{}{}/>").format(name, given)
    return Markup("<{}{}>{}</{}>").format(name, given, text, name)


def _axes(chart: Chart) -> Markup:
    lines, texts = [], []
    for value, text in chart.x.ticks:
        x = _x(chart, value)
        if chart.x.lines:
            lines.append(_tag("path", d=f"M{x} {_TOP}V{_BOTTOM}"))
        if chart.slanted:
            turned = f"rotate(-40 {x} {_BOTTOM + 14})"
            texts.append(
                _tag("text", text, x=x, y=_BOTTOM + 14, text_anchor="end", transform=turned)
            )
        else:
            texts.append(_tag("text", text, x=x, y=_BOTTOM + 17, text_anchor="middle"))
    for value, text in chart.y.ticks:
        y = _y(chart, value)
        lines.append(_tag("path", d=f"M{_LEFT} {y}H{_RIGHT}"))
        texts.append(_tag("text", text, x=_LEFT - 6, y=y + 4, text_anchor="end"))
    middle, bottom = (_LEFT + _RIGHT) // 2, HEIGHT - 10 + (60 if chart.slanted else 0)
    texts.append(_tag("text", chart.x.label, x=middle, y=bottom, text_anchor="middle"))
    center = (_TOP + _BOTTOM) // 2
    turned = f"rotate(-90 13 {center})"
    texts.append(
        _tag("text", chart.y.label, x=13, y=center, text_anchor="middle", transform=turned)
    )
    grid = Markup('<g stroke="currentColor" stroke-opacity=".18">{}</g>')
    words = Markup('<g fill="currentColor" {}>{}</g>')
    return grid.format(Markup("").join(lines)) + words.format(Markup(_FONT), Markup("").join(texts))


def _series(chart: Chart, series: Series) -> Markup:
    places = [(_x(chart, mark.x), _y(chart, mark.y)) for mark in series.marks]
    parts = []
    spread = [
        (x, _y(chart, mark.low), _y(chart, mark.high))
        for (x, _), mark in zip(places, series.marks, strict=True)
        if mark.low is not None and mark.high is not None
    ]
    if series.spread == "band" and len(spread) > 1:
        there = " ".join(f"{x},{low}" for x, low, _ in spread)
        back = " ".join(f"{x},{high}" for x, _, high in reversed(spread))
        parts.append(
            _tag("polygon", points=f"{there} {back}", fill="currentColor", fill_opacity=0.15)
        )
    if series.spread == "bars":
        for x, low, high in spread:
            d = f"M{x} {low}V{high}M{x - 3} {low}h6M{x - 3} {high}h6"
            parts.append(_tag("path", d=d, stroke="currentColor", stroke_width=1.5))
    if series.line and len(places) > 1:
        parts.append(
            _tag(
                "polyline",
                points=" ".join(f"{x},{y}" for x, y in places),
                fill="none",
                stroke="currentColor",
                stroke_width=0.6 if series.thin else 2,
                stroke_opacity=0.6 if series.thin else None,
                stroke_dasharray=series.dash or None,
            )
        )
    for (x, y), mark in zip(places, series.marks, strict=True):
        if not (series.dots or mark.tip):
            continue
        level = None if mark.level is None else f"{mark.level:g}"
        if mark.ringed:
            parts.append(
                _tag("circle", cx=x, cy=y, r=8, fill="none", stroke="currentColor", stroke_width=2)
            )
        parts.append(
            _tag(
                "circle",
                class_="mark" if mark.tip else None,
                cx=x,
                cy=y,
                r=3,
                fill="currentColor",
                fill_opacity=None if series.dots else 0,
                data_tip=mark.tip or None,
                data_level=level,
            )
        )
    return _tag("g", Markup("").join(parts), color=series.color, data_method=series.method or None)


def _legend(series: Series, y: float) -> Markup:
    line = _tag(
        "path",
        d=f"M{_LEFT} {y}h24",
        stroke="currentColor",
        stroke_width=3,
        stroke_dasharray=series.dash or None,
        color=series.color,
    )
    return line + Markup('<text x="{}" y="{}" {}>{}</text>').format(
        _LEFT + 32, y + 4, Markup(_FONT), series.name
    )


def front(places: Sequence[tuple[float, float]]) -> list[tuple[float, float]]:
    """The corners of the best that was reached: no other is as cheap and as accurate.

    Args:
        places: of each network what it costs, and its accuracy.

    >>> front([(4, 0.9), (2, 0.8), (3, 0.7), (1, 0.5), (5, 0.9)])
    [(1, 0.5), (2, 0.5), (2, 0.8), (4, 0.8), (4, 0.9)]
    """
    best: list[tuple[float, float]] = []
    for cost, accuracy in sorted(places, key=lambda place: (place[0], -place[1])):
        if not best or accuracy > best[-1][1]:
            best.append((cost, accuracy))
    corners = [(after[0], before[1]) for before, after in pairwise(best)]
    stairs = [place for pair in zip(best, corners, strict=False) for place in pair]
    return stairs + best[-1:]
