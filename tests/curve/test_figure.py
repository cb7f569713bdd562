import math
import sys
import xml.etree.ElementTree as ElementTree
from dataclasses import replace

import matplotlib.image
import numpy as np
import pytest

from ewnprune import Note
from ewnprune.curve.curve import Curve
from ewnprune.curve.figure import plot_curve
from ewnprune.curve.points import CurvePoint
from ewnprune.drawing import COLORS
from ewnprune.model.size import Count


def curve_of(method="EWN", score="norm", seed=0, top=0.98, levels=(0, 0.5, 0.8, 0.9, 0.95, 0.98)):
    return Curve(
        tuple(
            CurvePoint(
                sparsity=level, accuracy=top - 0.5 * level**8, total=10000, loss=0.1 + level,
                correct=round(10000 * (top - 0.5 * level**8)), method=method, score=score,
                seed=seed, split="test",
            )
            for level in levels
        )
    )  # fmt: skip


def lines_of(figure):
    """The drawn series, without the dashed line of the dense network."""
    return [line for line in figure.axes[0].lines if len(line.get_xdata()) != 2]


def test_png_and_svg_are_written_and_are_what_they_say(tmp_path):
    png, svg = tmp_path / "curve.png", tmp_path / "curve.svg"
    plot_curve(curve_of(), png, svg)
    pixels = matplotlib.image.imread(png)
    assert pixels.shape[:2] == (720, 960)
    assert pixels[..., :3].std() > 0.05  # something is drawn
    assert ElementTree.parse(svg).getroot().tag.endswith("svg")
    first = svg.read_bytes()
    plot_curve(curve_of(), svg)
    assert svg.read_bytes() == first
    assert sorted(path.name for path in tmp_path.iterdir()) == ["curve.png", "curve.svg"]


def test_lines_show_the_points_in_per_cent():
    curve = curve_of()
    (line,) = lines_of(plot_curve(curve))
    np.testing.assert_allclose(line.get_xdata(), [100 * p.sparsity for p in curve])
    np.testing.assert_allclose(line.get_ydata(), [100 * p.accuracy for p in curve])


def test_other_axes_show_what_they_say():
    points = [
        CurvePoint(
            sparsity=level, accuracy=0.9, score=unit, unit=unit, parameters=Count(left, 200),
            macs=Count(2 * left, 800), metrics={"latency_ms": left / 10},
        )
        for unit, level, left in (
            ("neurons", 0, 200), ("neurons", 0.5, 60), ("neurons", 0.8, 30),
            ("weights", 0, 200), ("weights", 0.5, 100), ("weights", 0.8, 40),
        )
    ]  # fmt: skip
    notes = (Note("latency", "median, batch of 1, on cpu"), Note("left", "fc1: left"))
    curve = Curve(tuple(points), notes)
    for x, expected, label in (
        ("parameters", [[0, 70, 85], [0, 50, 80]], "parameters removed (%)"),
        ("macs", [[50, 85, 92.5], [50, 75, 90]], "MACs removed (%, on paper for weights)"),
        ("latency", [[20, 6, 3], [20, 10, 4]], "latency (ms)\nmedian, batch of 1, on cpu"),
    ):
        figure = plot_curve(curve, x=x)
        for line, values in zip(lines_of(figure), expected, strict=True):
            np.testing.assert_allclose(line.get_xdata(), values)
        assert figure.axes[0].get_xlabel() == label
    assert plot_curve(curve.where(unit="neurons"), x="macs").axes[0].get_xlabel() == (
        "MACs removed (%)"
    )
    with pytest.raises(ValueError, match="holds no latency: measure it with"):
        plot_curve(curve_of(), x="latency")
    with pytest.raises(ValueError, match="the macs left were not counted"):
        plot_curve(curve_of(), x="macs")
    with pytest.raises(ValueError, match="x='flops': expected one of sparsity"):
        plot_curve(curve_of(), x="flops")


def test_bands_are_the_wilson_intervals():
    curve = curve_of()
    (band,) = plot_curve(curve).axes[0].collections
    corners = band.get_paths()[0].vertices
    for point in curve:
        low, high = point.interval()
        here = corners[np.isclose(corners[:, 0], 100 * point.sparsity)][:, 1]
        assert here.min() == pytest.approx(100 * low)
        assert here.max() == pytest.approx(100 * high)


def test_each_halving_of_the_network_takes_as_much_room():
    axes = plot_curve(curve_of()).axes[0]
    place = [axes.transData.transform((x, 90))[0] for x in (50, 75, 87.5, 93.75)]
    assert np.diff(place) == pytest.approx(np.diff(place)[0] * np.ones(3))
    ticks = [tick.get_text() for tick in axes.get_xticklabels()]
    assert {"0", "50", "80", "90", "95", "98"} <= set(ticks)
    heights = [axes.transData.transform((0, y))[1] for y in (60, 80, 90, 95)]
    assert np.diff(heights) == pytest.approx(np.diff(heights)[0] * np.ones(3))


def test_every_point_lies_inside():
    for curve in (curve_of(), curve_of(top=1.0), curve_of(top=0.55), curve_of(levels=(0, 0.1))):
        figure = plot_curve(curve)
        axes = figure.axes[0]
        (line,) = lines_of(figure) or axes.lines[:1]
        inside = axes.transAxes.inverted().transform(axes.transData.transform(line.get_xydata()))
        assert inside.min() >= -1e-6
        assert inside.max() <= 1 + 1e-6


def test_the_dense_network_is_marked_and_all_right_is_called_a_hundred():
    figure = plot_curve(curve_of(top=1.0))
    assert "dense 100.0 %" in [text.get_text() for text in figure.axes[0].texts]
    assert "100" in [label.get_text() for label in figure.axes[0].get_yticklabels()]
    without = Curve(curve_of().points[1:])
    assert not plot_curve(without).axes[0].texts


def test_the_legend_names_what_differs_and_the_title_what_is_shared():
    methods = curve_of("plain") + curve_of("SWN") + curve_of("EWN")
    axes = plot_curve(methods).axes[0]
    assert [text.get_text() for text in axes.get_legend().get_texts()] == ["plain", "SWN", "EWN"]
    assert axes.get_title(loc="left") == "ranked by norm, test data, seed 0"
    assert len({line.get_color() for line in lines_of(plot_curve(methods))}) == 3
    alone = plot_curve(curve_of()).axes[0]
    assert alone.get_legend() is None
    assert alone.get_title(loc="left") == "EWN, ranked by norm, test data, seed 0"
    assert plot_curve(curve_of(), title="MNIST").axes[0].get_title(loc="left") == "MNIST"


def test_methods_have_colours_and_scores_have_dashes():
    both = Curve()
    for method in ("plain", "EWN", "SWN"):
        for score in ("norm", "norm_product", "random"):
            both += curve_of(method, score)
    figure = plot_curve(both)
    lines = lines_of(figure)
    assert len({line.get_color() for line in lines}) == 3
    assert len({str(line.get_linestyle()) + str(line._dash_pattern) for line in lines}) == 3
    (legend,) = figure.legends
    assert [text.get_text() for text in legend.get_texts()] == [
        "plain", "EWN", "SWN", "norm", "norm_product", "random",
    ]  # fmt: skip


def test_a_method_has_its_colour_alone_and_in_company():
    alone = lines_of(plot_curve(curve_of("SWN", "norm") + curve_of("SWN", "random")))
    later = curve_of("SWN") + curve_of("SWN, finetuned at 0.5")
    for lines in (alone, lines_of(plot_curve(curve_of("plain") + later))[1:]):
        assert {line.get_color() for line in lines} == {COLORS["swn"]}
        assert len({str(line._dash_pattern) for line in lines}) == 2


def test_seeds_share_a_colour_and_a_name():
    seeds = curve_of("EWN") + curve_of("EWN", seed=1) + curve_of("SWN") + curve_of("SWN", seed=1)
    figure = plot_curve(seeds)
    assert len(lines_of(figure)) == 4
    assert len({line.get_color() for line in lines_of(figure)}) == 2
    assert [t.get_text() for t in figure.axes[0].get_legend().get_texts()] == ["EWN", "SWN"]


def test_other_measures_have_their_own_axis():
    axes = plot_curve(curve_of(), measure="loss").axes[0]
    assert axes.get_ylabel() == "loss"
    assert axes.get_yscale() == "linear"
    weights = Curve(tuple(CurvePoint(sparsity=0, accuracy=0.5, unit="weights") for _ in range(1)))
    assert plot_curve(weights).axes[0].get_xlabel() == "weights removed (%)"


def test_a_broken_network_is_drawn_as_far_as_it_can_be(tmp_path):
    points = curve_of().points
    broken = replace(points[-1], sparsity=0.99, accuracy=0.0, correct=0)
    (line,) = lines_of(plot_curve(Curve((*points, broken)), tmp_path / "c.png"))
    assert line.get_ydata()[-1] == 0.0
    lost = Curve(tuple(CurvePoint(sparsity=s, loss=math.nan) for s in (0.0, 0.5, 0.8)))
    (line,) = lines_of(plot_curve(lost, tmp_path / "d.png", measure="loss"))
    assert all(map(math.isnan, line.get_ydata()))
    assert (tmp_path / "d.png").stat().st_size


def test_what_cannot_be_drawn_is_refused_in_one_line(tmp_path):
    with pytest.raises(ValueError, match="the curve is empty"):
        plot_curve(Curve())
    with pytest.raises(ValueError, match="'F1' was not measured"):
        plot_curve(curve_of(), measure="F1")
    with pytest.raises(ValueError, match="Format 'doc' is not supported") as caught:
        plot_curve(curve_of(), tmp_path / "curve.doc")
    assert "\n" not in str(caught.value)
    assert not list(tmp_path.iterdir())


def test_no_state_of_pyplot_is_touched():
    loaded = "matplotlib.pyplot" in sys.modules
    before = dict(matplotlib.rcParams)
    plot_curve(curve_of())
    assert dict(matplotlib.rcParams) == before
    assert ("matplotlib.pyplot" in sys.modules) == loaded
