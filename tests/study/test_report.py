import base64
import csv
import hashlib
import json
from dataclasses import replace
from html.parser import HTMLParser

import pytest
from toys.studies import LEVELS, accuracy, write_study

from ewnprune.cli import main
from ewnprune.curve.curve import Curve
from ewnprune.curve.files import read_curve, write_curve
from ewnprune.drawing import COLORS
from ewnprune.model.size import Count
from ewnprune.study.analysis import analyse
from ewnprune.study.page import Page, report
from ewnprune.study.text import format_study

EVIL = "ewn</script><b id=evil>&amp;"


@pytest.fixture
def study(tmp_path):
    """A study of two methods and three seeds, the second named by someone unfriendly."""
    write_study(tmp_path / "study", {"none": [], EVIL: []})
    return tmp_path / "study"


def _rows(path):
    with open(path, newline="") as file:
        return list(csv.DictReader(file))


class _Text(HTMLParser):
    """What a reader sees of a page."""

    def __init__(self, page):
        super().__init__()
        self.text, self.inside = "", ""
        self.feed(page)

    def handle_starttag(self, tag, attributes):
        self.inside = tag

    def handle_data(self, data):
        self.text += "" if self.inside in ("script", "style") else data


def test_files_of_a_report(study, capsys):
    assert main(["report", str(study)]) == 0
    out = study / "report"
    assert str(out / "index.html") in capsys.readouterr().out
    for name in ("curves", "parameters", "macs", "difference_plot", "candidates", "classes"):
        assert (out / f"{name}.svg").read_text().startswith("<?xml")
        assert _rows(out / f"{name}.csv")
    at_90 = [row for row in _rows(out / "curves.csv") if row["sparsity"] == "0.9"]
    seeds = [accuracy("none", seed, 0.9) for seed in range(3)]
    assert at_90[0]["method"] == "none"
    assert float(at_90[0]["mean"]) == pytest.approx(sum(seeds) / 3)
    assert [float(at_90[0][f"seed {seed}"]) for seed in range(3)] == pytest.approx(seeds)
    assert COLORS["plain"].lower() in (out / "curves.svg").read_text().lower()
    again = {path.name: path.read_bytes() for path in out.iterdir()}
    assert main(["report", str(study)]) == 0
    assert {path.name: path.read_bytes() for path in out.iterdir()} == again


def test_names_of_the_user_are_text(study):
    """On the page, in each figure, and in Markdown, where HTML would be HTML."""
    write_curve(  # one whose grid has an end, so that a sentence names it
        read_curve(study / "points.csv").where(seed=0), study / "points.csv"
    )
    page = report(study).path
    for path in (page, *page.parent.glob("*.svg"), page.parent / "index.md"):
        assert "<b id" not in path.read_text().replace("```\nfit:\n  note: <b id=evil>", "")
    assert "nan" not in _Text(page.read_text()).text


def test_the_page_allows_what_is_written_in_it_and_nothing_else(study):
    page = report(study).path.read_text()
    policy = page.partition('http-equiv="Content-Security-Policy" content="')[2].partition('"')[0]
    rules = dict(rule.strip().split(" ", 1) for rule in policy.replace("&#39;", "'").split(";"))
    assert rules.pop("default-src") == "'none'"
    assert rules.pop("img-src") == "data:"
    for kind, tag in (("style-src", "style"), ("script-src", "script")):
        text = page.partition(f"<{tag}>")[2].partition(f"</{tag}>")[0]
        digest = base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()
        assert rules.pop(kind) == f"'sha256-{digest}'"
    assert not rules
    for loaded in (" src=", "url(", "@import", "style="):
        assert loaded not in page


def test_what_stands_on_top(study):
    text = _Text(report(study).path.read_text()).text
    for fact in ("my.Data", "my.Model", "8,000", "2026-01-01 to 2026-01-03", "Some Processor"):
        assert fact in text
    assert "torch 2.9.0" in text
    (winner,) = [line for line in _winners(study) if line.startswith("| 2 points")]
    assert "| none |" in winner
    # 2 points: 0.01 (exp(2 s ** 2) - 1) is 0.0065 at a half, and 0.026 at 0.8
    assert "| 50.0 \\[50.0, 50.0\\] | 98.00 |" in winner
    assert "p = 0.25, so it can reach 5 % at no level" in text


def _winners(study):
    text = (study / "report/index.md").read_text()
    return text.partition("## The winner")[2].partition("\n## ")[0].splitlines()


@pytest.mark.parametrize(("others", "told"), [(1, True), (2, False)])
def test_seeds_that_tell_the_winner_from_others(tmp_path, others, told):
    """Six seeds of a half against six of nothing: p = 2 / 2**6, which Holm doubles for two."""
    slower = [f"a method of which little can go {number}" for number in range(others)]
    write_study(tmp_path, {"none": [], **{name: [] for name in slower}}, 6, scores=("norm",))
    report(tmp_path)
    (line,) = [line for line in _winners(tmp_path) if line.startswith("| 2 points")]
    assert line.startswith("| 2 points | none | 50.0 ")
    assert line.endswith("told from all others |" if told else f"| {', '.join(slower)} |")


def test_settings_that_differ_and_costs(study):
    report(study)
    text = (study / "report/index.md").read_text()
    settings = text.partition("## Settings that differ")[2].partition("##")[0]
    assert "| none | prune.method | none |" in settings
    assert "my.Data" not in settings  # the same for all
    (cost, _) = _rows(study / "report/effort.csv")
    assert cost["runs"] == "3"
    assert cost["epochs"] == "9"
    assert float(cost["seconds"]) == pytest.approx(3 * 3.5)
    assert cost["scores"] == "2"


def test_classes_and_layers(study):
    report(study)
    rows = _rows(study / "report/class_accuracy.csv")
    found = {(r["method"], float(r["sparsity"]), r["class"]): float(r["mean"]) for r in rows}
    mean = sum(accuracy("none", seed, 0.9) for seed in range(3)) / 3
    assert found["none", 0.9, "5"] == pytest.approx(mean - 5 * 0.9 / 50)
    text = (study / "report/index.md").read_text()
    table = text.partition("## Accuracy of each class")[2].partition("\n## ")[0]
    lines = [line for line in table.splitlines() if line.startswith("| ")]
    assert [line.split("|")[1].strip() for line in lines[2:]] == [str(n) for n in range(9, -1, -1)]
    assert f"98.0 → {100 * (mean - 0.09):.1f}" in table
    assert "| fc1 | 800 | 400 | 80 | 40 |" in text.partition("## Neurons left")[2]


def test_what_was_chosen_is_marked(tmp_path):
    write_study(tmp_path, {"none": ["random"], "lasso[0.1]": [], "lasso[10]": []})
    report(tmp_path)
    rows = _rows(tmp_path / "report/candidates.csv")
    assert [(r["candidate"], r["score"]) for r in rows if r["chosen"] == "True"] == [
        ("", "norm"),
        ("", "random"),
        ("0.1", "norm"),
    ]
    assert len(rows) == 2 + 1 + 2 * 2
    svg = (tmp_path / "report/candidates.svg").read_text()
    assert svg.count('r="8"') == 3
    page = (tmp_path / "report/index.html").read_text()
    data = json.loads(page.partition('type="application/json">')[2].partition("</script>")[0])
    commands = {r["method"]: r["command"] for r in data["rows"] if r["sparsity"] == 0.9}
    # seed 0 is the best; random takes the networks of none
    assert commands["random"].endswith("/0-0/checkpoints/final.ckpt --sparsity 0.9 --score random")
    assert "/1-0/" in commands["lasso"]


def test_a_study_without_its_runs_says_what_is_missing(study):
    """As older versions left it, or a folder of which the tables alone were kept."""
    for path in study.glob("runs/*/run.json"):
        path.unlink()
    text = _Text(report(study).path.read_text()).text
    for sentence in (
        "Not known: the folders of the runs are not there.",
        "Not known: no run recorded its time.",
        "Not recorded: runs of older versions, or of which costs",
        "Not recorded: runs of older versions, without test data",
    ):
        assert sentence in text
    assert "not recorded" in text


def test_latency_where_it_was_measured(study):
    points = [
        replace(point, metrics={"latency_ms": 4 * (1 - point.sparsity)})
        for point in read_curve(study / "points.csv")
    ]
    page = report(study).path
    assert not (page.parent / "latency.svg").exists()
    write_curve(Curve(tuple(points)), study / "points.csv")
    report(study)
    rows = _rows(page.parent / "latency.csv")
    assert [float(row["cost"]) for row in rows[: len(LEVELS)]] == pytest.approx(
        [4 * (1 - level) for level in LEVELS]
    )
    assert "latency (ms)" in (page.parent / "latency.svg").read_text()


def test_neurons_are_compared_with_weights_at_equal_size(study):
    neurons = [
        replace(point, accuracy=0.98 - point.sparsity * 0.2)
        for point in read_curve(study / "points.csv").where(method="none", score="norm")
    ]
    weights = [
        replace(
            point,
            method="magnitude",
            score="magnitude",
            unit="weights",
            accuracy=0.98 - 0.1 * point.sparsity,
            parameters=Count(9000 - round(8000 * point.sparsity), 9000),
        )
        for point in neurons
    ]
    write_curve(Curve(tuple(neurons + weights)), study / "points.csv")
    assert main(["report", str(study)]) == 0
    rows = _rows(study / "report/sizes.csv")
    for row in rows:
        left = float(row["left"])
        if row["method"] == "none":  # a level of s leaves 1 - s, and lines are exact on lines
            assert float(row["mean"]) == pytest.approx(0.98 - (1 - left) * 0.2)
        elif row["size"] == "parameters":  # a level of s leaves 1 - 8 s / 9
            assert float(row["mean"]) == pytest.approx(0.98 - (1 - left) * 9 / 8 * 0.1)
    lefts = {(r["method"], r["size"]): [] for r in rows}
    for row in rows:
        lefts[row["method"], row["size"]].append(float(row["left"]))
    assert lefts["none", "parameters"] == [0.5, 0.2, 0.1, 0.05]  # nothing beyond 95 %
    assert lefts["magnitude", "parameters"] == [0.5, 0.2]
    text = format_study(analyse(read_curve(study / "points.csv"), "none"))
    assert "at equal MACs (on paper for weights)" in text
    page = (study / "report/index.html").read_text()
    assert '"unit": "weights"' in page  # of which nothing can be exported


def test_no_study_is_one_line(tmp_path, capsys):
    assert main(["report", str(tmp_path)]) == 1
    err = capsys.readouterr().err
    assert "holds no points.csv" in err
    assert err.count("\n") == 1


def test_in_a_notebook(tmp_path):
    path = tmp_path / "index.html"
    path.write_text('<p title="a">&amp;</p><script>1 < 2</script>')
    shown = Page(path)._repr_html_()
    frames = []

    class Frames(HTMLParser):
        def handle_starttag(self, tag, attributes):
            frames.append((tag, dict(attributes)))

    Frames().feed(shown)
    ((tag, attributes),) = frames
    assert tag == "iframe"
    assert attributes["srcdoc"] == path.read_text()
    assert attributes["sandbox"] == "allow-scripts"  # and no way out of the frame
