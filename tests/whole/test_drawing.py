from itertools import combinations

import numpy as np
import pytest
from matplotlib.colors import to_rgb
from matplotlib.figure import Figure

from ewnprune.drawing import COLORS, line_styles, method_colors, save_figure

# Machado, Oliveira & Fernandes (2009), https://doi.org/10.1109/TVCG.2009.113, severity 1
SEEN = {
    "as it is": np.eye(3),
    "deuteranopia": [[0.3673, 0.8606, -0.228], [0.2801, 0.6725, 0.0474], [-0.0118, 0.0429, 0.969]],
    "protanopia": [[0.1523, 1.0526, -0.2049], [0.1145, 0.7863, 0.0992], [-0.0039, -0.0481, 1.052]],
    "tritanopia": [[1.2555, -0.0767, -0.1788], [-0.0784, 0.9309, 0.1476], [0.0047, 0.6914, 0.3039]],
}  # fmt: skip
TO_XYZ = [[0.4125, 0.3576, 0.1805], [0.2127, 0.7152, 0.0722], [0.0193, 0.1192, 0.9503]]


def _cielab(color, seen):
    rgb = np.array(to_rgb(color))
    linear = np.where(rgb <= 0.04045, rgb / 12.92, ((rgb + 0.055) / 1.055) ** 2.4)
    xyz = np.array(TO_XYZ) @ np.clip(np.array(seen) @ linear, 0, 1) / (0.9505, 1, 1.089)
    f = np.where(xyz > (6 / 29) ** 3, np.cbrt(xyz), xyz / (3 * (6 / 29) ** 2) + 4 / 29)
    return np.array([116 * f[1] - 16, 500 * (f[0] - f[1]), 200 * (f[1] - f[2])])


@pytest.mark.parametrize("eyes", SEEN)
def test_colours_are_told_apart(eyes):
    """By 15 of CIELAB or more, where 2.3 is just seen; and by 30 from the white of the paper."""
    places = {name: _cielab(color, SEEN[eyes]) for name, color in COLORS.items()}
    for one, other in combinations(places, 2):
        assert np.linalg.norm(places[one] - places[other]) > 15, (one, other)
    for name, place in places.items():
        assert np.linalg.norm(place - _cielab("white", np.eye(3))) > 30, name


def test_a_method_has_one_colour_whatever_it_is_called():
    for names in (("plain", "none"), ("SWN", "swn", "SWN, slice"), ("lasso[1]", "group_lasso")):
        for number, name in enumerate(names):
            others = ["mine", "random_ratios"][:number]  # in whatever company
            assert method_colors([*others, name])[name] == method_colors(names[:1])[names[0]]
    assert method_colors(["random"]) != method_colors(["random_ratios"])


def test_methods_without_a_colour_get_those_that_are_free():
    names = ["mine", "EWN", *(f"other {i}" for i in range(6))]
    assert len(set(method_colors(names).values())) == len(COLORS)
    assert len({str(style) for style in line_styles(["EWN", "ewn @ a", "mine", "ewn @ b"])}) == 4
    assert len(method_colors(map(str, range(99)))) == 99


@pytest.mark.parametrize("ending", ["png", "svg", "pdf"])
def test_the_same_figure_gives_the_same_file(tmp_path, ending, monkeypatch):
    found = []
    for second in (1, 10**9):
        monkeypatch.setenv("SOURCE_DATE_EPOCH", str(second))  # the clock of Matplotlib
        figure = Figure()
        figure.add_subplot().plot([1, 2, 3], label="a")
        save_figure(figure, tmp_path / f"figure.{ending}")
        found.append((tmp_path / f"figure.{ending}").read_bytes())
    assert found[0] == found[1]
    assert len(list(tmp_path.iterdir())) == 1
