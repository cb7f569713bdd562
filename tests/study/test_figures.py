"""What the page says and draws of studies that are unlike most."""

import json
from dataclasses import replace

import pytest
from toys.studies import LEVELS, write_study

from ewnprune.curve.curve import Curve
from ewnprune.curve.files import read_curve, write_curve
from ewnprune.files import write_rows
from ewnprune.study.analysis import gather
from ewnprune.study.chart import draw
from ewnprune.study.figures import draw_curves
from ewnprune.study.page import report
from ewnprune.study.recorded_figures import draw_norms, draw_training
from ewnprune.study.sections import winner_table
from ewnprune.study.taking import export_commands, why_not
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


def _tagged(folder, **tags):
    points = read_curve(folder / "points.csv").tagged(**tags)
    write_curve(points, folder / "points.csv")
    return gather(folder)


def test_a_study_of_inputs_has_a_winner_and_commands(tmp_path):
    write_study(tmp_path, {"none": (), "mine": ()})
    neurons = gather(tmp_path)
    assert "--inputs" not in str(export_commands(neurons))
    found = _tagged(tmp_path, unit="inputs", metrics={"latency_ms": 1.0})
    table = winner_table(found)
    assert "part of the inputs that goes" in table.text
    assert table.rows == winner_table(neurons).rows
    commands = export_commands(found)
    assert {*commands} == {"none", "mine"}
    assert commands["mine"][0.9].endswith(" --sparsity 0.9 --score norm --inputs true")
    (latency,) = [item for item in found.study.items if item.demand == "measured latency"]
    assert latency.met


def test_the_seed_that_is_best_on_validation_data_is_exported(tmp_path):
    write_study(tmp_path, {"none": ()})
    best = {"val": 2, "test": 1}
    points = tuple(
        replace(p, accuracy=p.accuracy - (0.0 if p.seed == best[p.split] else 0.1))
        for p in read_curve(tmp_path / "points.csv")
    )
    write_curve(Curve(points), tmp_path / "points.csv")
    commands = export_commands(gather(tmp_path))["none"]
    assert all("runs/0-2/checkpoints/final.ckpt" in command for command in commands.values())
    assert {*commands} == {*LEVELS}


def test_inputs_are_not_compared_with_neurons(tmp_path):
    write_study(tmp_path, {"none": (), "mine": ()})
    points = read_curve(tmp_path / "points.csv")
    points = points.where(method="none") + points.where(method="mine").tagged(unit="inputs")
    write_curve(points, tmp_path / "points.csv")
    table = winner_table(gather(tmp_path))
    assert "part of the neurons that goes" in table.text
    assert not any("mine" in cell for row in table.rows for cell in row)


@pytest.mark.parametrize(
    ("levels", "unit", "said"),
    [
        (LEVELS[1:], "neurons", "Nobody: networks were not measured whole"),
        (LEVELS, "weights", "Nobody: single weights are masked"),
    ],
)
def test_a_study_without_a_winner_says_why(levels, unit, said, tmp_path):
    write_study(tmp_path, {"none": ()}, seeds=1, levels=levels)
    table = winner_table(_tagged(tmp_path, unit=unit))
    assert not table.rows
    assert table.text.startswith(said)


def test_what_cannot_be_exported_is_told_by_its_reason(tmp_path):
    write_study(tmp_path, {"none": ["magnitude"], "dense": (), "lost": ()}, seeds=1)
    dense, lost = tmp_path / "runs/1-0", tmp_path / "runs/2-0"
    settings = json.loads((dense / "run.json").read_text())
    (dense / "run.json").write_text(json.dumps(settings | {"part": 0.5}))
    (lost / "checkpoints/final.ckpt").unlink()
    found = gather(tmp_path)
    assert {*export_commands(found)} == {"none"}
    assert why_not(found, "magnitude").startswith("single weights are masked")
    assert why_not(found, "dense").startswith("each of its networks was trained as small as it is")
    assert why_not(found, "lost") == "no checkpoint of it lies in the study's folder"
    page = report(tmp_path).path.read_text()
    for method in ("magnitude", "dense", "lost"):
        assert json.dumps(why_not(found, method)) in page
        assert f'<option value="{method}">' in page  # of the text browsers fold spaces


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
