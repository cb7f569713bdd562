"""A study's files and its runs' folders stay as they are in tests/data, unless a change says so.

Such a change calls ``write(KEPT)``, and shows what it made of them.
"""

import re
from math import exp
from pathlib import Path

from ewnprune.curve.curve import Curve
from ewnprune.curve.files import write_curve
from ewnprune.curve.points import CurvePoint
from ewnprune.model.size import Count
from ewnprune.study.analysis import analyse
from ewnprune.study.methods import find_methods
from ewnprune.study.plan import expand
from ewnprune.study.tables import write_tables
from ewnprune.study.text import format_study

KEPT = Path(__file__).parents[1] / "data" / "study"
# each with how fast accuracy falls
METHODS = {"none": 2.0, "ewn": 1.5, "lasso[0.1]": 0.5, "lasso[1]": 0.9, "magnitude": 0.3}
SETTINGS = ("max_epochs=2, hidden=(16)", "max_epochs=2, hidden=(32, 8)")


def points_of_a_study():
    points = []
    for at, settings in enumerate(SETTINGS):
        for method, rate in METHODS.items():
            for seed in range(3):
                for split, score in (("val", "norm"), ("val", "norm_product"), ("test", "norm")):
                    for level in (0.0, 0.5, 0.8, 0.9, 0.95):
                        wrong = 0.02 * (1 + at) * exp(rate * level) * (1 + seed * level / 7)
                        wrong *= 0.9 if score == "norm" else 1.0
                        left = 1000 - round(1000 * level)
                        points.append(
                            CurvePoint(
                                method=f"{method} @ {settings}",
                                seed=seed,
                                score=score,
                                split=split,
                                unit="weights" if method == "magnitude" else "neurons",
                                sparsity=level,
                                accuracy=round(1 - wrong, 4),
                                loss=wrong * 3,
                                neurons=Count(left, 1000),
                                parameters=Count(8 * left + 9, 8009),
                                macs=Count(7 * left, 7000),
                            )
                        )
    return Curve(tuple(points))


def folders_of_a_study():
    methods = find_methods("none,group_lasso,random,dense", {})
    vary = {"trainer.max_epochs": [2], "model.init_args.hidden": [[16], [32, 8]]}
    base = {"model": {"class_path": "my.Model"}}
    runs = expand(Path(), methods, (3,), base, vary, {})
    return "".join(f"{run.method}  {run.folder}\n" for run in runs)


def write(folder):
    study = analyse(points_of_a_study(), "none")
    write_tables(study, folder)
    write_curve(study.curve, folder / "points.csv")
    (folder / "study.txt").write_text(format_study(study), encoding="utf-8")
    (folder / "folders.txt").write_text(folders_of_a_study(), encoding="utf-8")


def test_a_study_leaves_the_files_it_left_before(tmp_path):
    write(tmp_path)
    names = sorted(path.name for path in KEPT.iterdir())
    assert sorted(path.name for path in tmp_path.iterdir()) == names
    for name in names:
        assert _rounded(tmp_path / name) == _rounded(KEPT / name), name


def test_no_line_is_longer_than_a_terminal():
    lines = (KEPT / "study.txt").read_text(encoding="utf-8").splitlines()
    assert max(map(len, lines)) < 80
    for line in lines:  # no number, interval or percentage is broken over two
        assert line.count("[") == line.count("]")
        assert not line.strip().startswith(("%", "±"))
        assert not line.endswith(("±", "["))


def _rounded(path):
    """Another version of NumPy or SciPy may give another last digit."""
    text = path.read_bytes().decode()
    return re.sub(r"\d\.\d{10,}(e-\d+)?", lambda found: f"{float(found[0]):.9f}", text)
