"""What the page says and draws of studies that are unlike most."""

import pytest
from toys.studies import write_study

from ewnprune.curve.files import read_curve, write_curve
from ewnprune.files import write_rows
from ewnprune.study.analysis import gather
from ewnprune.study.chart import draw
from ewnprune.study.figures import draw_curves
from ewnprune.study.recorded_figures import draw_norms, draw_training
from ewnprune.study.sections import winner_table
from ewnprune.study.taking import export_commands
from ewnprune.study.text import format_study


@pytest.mark.parametrize(
    ("level_of", "option", "what", "axis"),
    [
        ("units", "--sparsity 0.9", "part of the neurons that", "left of the neurons, or weights"),
        ("macs", "--macs 0.1", "part of the MACs that", "left of the MACs (%)"),
        ("parameters", "--parameters 0.1", "part of the parameters", "left of the parameters (%)"),
    ],
)
def test_levels_are_fractions_of_what_the_study_says(level_of, option, what, axis, tmp_path):
    write_study(tmp_path, {"none": ()}, seeds=1)
    points = read_curve(tmp_path / "points.csv").tagged(level_of=level_of)
    write_curve(points, tmp_path / "points.csv")
    found = gather(tmp_path)
    assert f" {option} --score" in export_commands(found)["none"][0.9]
    assert what in winner_table(found).text
    chart, _ = draw_curves(found)
    assert axis in chart.x.label


def test_numbers_that_are_none_have_no_place_in_a_figure(tmp_path):
    write_study(tmp_path, {"none": ()}, seeds=1)
    losses = [{"epoch": i, "train/loss": x} for i, x in enumerate(("2.3", "inf", "nan", "1.0"))]
    write_rows(tmp_path / "runs/0-0/training.csv", losses)
    norms = [{"layer": "a", "neuron": i, "norm": x} for i, x in enumerate(("inf", "2", "1", "0"))]
    write_rows(tmp_path / "runs/0-0/norms.csv", norms)
    found = gather(tmp_path)
    for make, count in ((draw_training, 2), (draw_norms, 2)):
        chart, _ = make(found)
        assert [len(one.marks) for one in chart.series] == [count]
        assert "nan" not in draw(chart, "x", "", "") and "inf" not in draw(chart, "x", "", "")


def test_a_candidate_and_a_score_of_a_module_are_both_told(tmp_path):
    write_study(tmp_path, {"none": (), "mine[0.1]": ()}, scores=("my.scores.length",))
    assert "0.1, length" in format_study(gather(tmp_path).study)
