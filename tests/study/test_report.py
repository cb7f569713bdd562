import csv
import json
import shutil
from dataclasses import replace

import pytest

from ewnprune.cli import main
from ewnprune.curve.curve import Curve
from ewnprune.curve.files import read_curve, write_curve
from ewnprune.curve.points import CurvePoint
from ewnprune.drawing import COLORS
from ewnprune.model.size import Count
from ewnprune.study.tables import analyse
from ewnprune.study.text import format_study

EVIL = "ewn</script><b id=evil>&amp;"
LEVELS = (0.0, 0.5, 0.8, 0.9, 0.95)


@pytest.fixture
def study(tmp_path):
    """A study of two methods and three seeds, the second named by someone unfriendly."""
    folder = tmp_path / "study"
    points = []
    for number, method in enumerate(("none", EVIL)):
        for seed in range(3):
            for split in ("val", "test"):
                for level in LEVELS:
                    left = 1000 - round(1000 * level)
                    points.append(
                        CurvePoint(
                            method=method,
                            seed=seed,
                            score="norm",
                            split=split,
                            sparsity=level,
                            accuracy=0.98 - level * (0.2 + 0.1 * number) - 0.001 * seed * level,
                            neurons=Count(left, 1000),
                            parameters=Count(8 * left, 8000),
                            macs=Count(7 * left, 7000),
                        )
                    )
            run = folder / f"runs/{number}-{seed}"
            run.mkdir(parents=True)
            settings = {"method": method, "seed": seed, "part": None}
            (run / "run.json").write_text(json.dumps(settings))
            (run / "versions.json").write_text(json.dumps({"torch": "<b>2</b>", "seconds": "3"}))
            (run / "norms.csv").write_text("layer,neuron,norm\nfc1,0,2.5\nfc1,1,0.0\nfc1,2,1.5\n")
            (run / "training.csv").write_text("epoch,train/loss\n0,1.5\n1,0.5\n")
    write_curve(Curve(tuple(points)), folder / "points.csv")
    (folder / "study.yaml").write_text("fit: {note: '<b id=evil>'}\nreference: none\n")
    return folder


def _rows(path):
    with open(path, newline="") as file:
        return list(csv.DictReader(file))


def test_files_of_a_report(study, capsys):
    assert main(["report", str(study)]) == 0
    out = study / "report"
    assert str(out / "index.html") in capsys.readouterr().out
    for name in ("curves", "difference_plot", "norms", "training"):
        assert (out / f"{name}.svg").read_text().startswith("<?xml")
        assert _rows(out / f"{name}.csv")
    at_90 = [row for row in _rows(out / "curves.csv") if row["sparsity"] == "0.9"]
    seeds = [0.98 - 0.9 * 0.2 - 0.0009 * seed for seed in range(3)]
    assert at_90[0]["method"] == "none"
    assert float(at_90[0]["mean"]) == pytest.approx(sum(seeds) / 3)
    assert float(at_90[0]["sd"]) == pytest.approx(0.0009)
    assert [float(at_90[0][f"seed {seed}"]) for seed in range(3)] == pytest.approx(seeds)
    assert COLORS["plain"].lower() in (out / "curves.svg").read_text()
    page = (out / "index.html").read_text()
    assert "<b id=evil>" not in page
    again = {path.name: path.read_bytes() for path in out.iterdir()}
    assert main(["report", str(study)]) == 0
    assert {path.name: path.read_bytes() for path in out.iterdir()} == again


def test_neurons_are_compared_with_weights_at_equal_size(study):
    neurons = read_curve(study / "points.csv").where(method="none")
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
    write_curve(Curve(neurons.points + tuple(weights)), study / "points.csv")
    assert main(["report", str(study)]) == 0
    rows = _rows(study / "report/equal_sizes.csv")
    assert _rows(study / "report/sizes.csv") == rows
    for row in rows:
        left = float(row["left"])
        if row["method"] == "none":  # a level of s leaves 1 - s, and lines are exact on lines
            assert float(row["mean"]) == pytest.approx(0.98 - (1 - left) * 0.201)
        elif row["size"] == "parameters":  # a level of s leaves 1 - 8 s / 9
            assert float(row["mean"]) == pytest.approx(0.98 - (1 - left) * 9 / 8 * 0.1)
    lefts = {(r["method"], r["size"]): [] for r in rows}
    for row in rows:
        lefts[row["method"], row["size"]].append(float(row["left"]))
    assert lefts["none", "parameters"] == [0.5, 0.2, 0.1, 0.05]  # nothing beyond 95 %
    assert lefts["magnitude", "parameters"] == [0.5, 0.2]
    text = format_study(analyse(read_curve(study / "points.csv"), "none"))
    assert "at equal MACs (on paper for weights)" in text
    assert (study / "report/equal_sizes.svg").is_file()


def test_a_study_of_one_seed_has_no_intervals(study):
    points = read_curve(study / "points.csv")
    write_curve(points.where(seed=0), study / "points.csv")
    assert main(["report", str(study)]) == 0
    assert "nan" not in (study / "report/index.html").read_text().partition("<h2>Differences")[2]


def test_no_study_is_one_line(tmp_path, capsys):
    assert main(["report", str(tmp_path)]) == 1
    err = capsys.readouterr().err
    assert "holds no points.csv" in err
    assert err.count("\n") == 1


@pytest.fixture
def browser(tmp_path):
    webdriver = pytest.importorskip("selenium.webdriver", reason="no selenium is installed")
    chromium, driver = shutil.which("chromium"), shutil.which("chromedriver")
    if chromium is None or driver is None:
        pytest.skip("no chromium with chromedriver is installed (Debian: chromium-driver)")
    options = webdriver.ChromeOptions()
    options.binary_location = chromium
    for flag in (
        *("headless", "no-sandbox", "disable-gpu", "disable-quic", "no-first-run"),
        *("disable-background-networking", "disable-component-update", "disable-sync"),
        *("window-size=1200,900", f"user-data-dir={tmp_path / 'profile'}"),
    ):
        options.add_argument(f"--{flag}")
    options.set_capability("goog:loggingPrefs", {"browser": "ALL"})
    made = webdriver.Chrome(options, webdriver.ChromeService(executable_path=driver))
    yield made
    made.quit()


def _table(browser, name="at-level"):
    script = """return [...document.querySelectorAll(`#${arguments[0]} tbody tr`)].map(
        row => [...row.cells].map(cell => cell.textContent))"""
    return browser.execute_script(script, name)


def _interval(row, names, digits):
    mean, low, high = (f"{100 * float(row[name]):.{digits}f}" for name in names)
    return f"{mean} [{low}, {high}]"


def test_in_a_browser(study, browser):
    """It renders, the slider moves the numbers, and they are those of the CSV file."""
    from selenium.webdriver.common.by import By
    from selenium.webdriver.common.keys import Keys

    main(["report", str(study)])
    rows = _rows(study / "report/curves.csv")
    browser.get((study / "report/index.html").as_uri())
    slider = browser.find_element(By.ID, "level")
    slider.send_keys(Keys.HOME)
    seen = set()
    for level in LEVELS:
        asked = browser.find_element(By.ID, "asked").text
        assert float(asked.removesuffix("%")) == pytest.approx(100 * level)
        expected = [row for row in rows if float(row["sparsity"]) == level]
        shown = _table(browser)
        assert [line[0] for line in shown] == ["none", EVIL]
        for line, row in zip(shown, expected, strict=True):
            mean, sd = (100 * float(row[key]) for key in ("mean", "sd"))
            assert line[1] == f"{mean:.2f} ± {sd:.2f}"
            assert line[5] == "3"
            for cell, name in zip(line[2:5], ("neurons", "parameters", "macs"), strict=True):
                left, total = (int(row[f"{name}_{part}"]) for part in ("left", "total"))
                assert cell == f"{100 * left / total:.1f} % {left:,}"
        seen.add(str(shown))
        slider.send_keys(Keys.ARROW_RIGHT)
    assert len(seen) == len(LEVELS)
    assert len(browser.find_elements(By.CSS_SELECTOR, "figure svg")) == 4
    assert not browser.find_elements(By.ID, "evil")
    for link in browser.find_elements(By.CSS_SELECTOR, "figcaption a"):
        assert (study / "report" / link.text).is_file()

    of_differences = _rows(study / "report/differences.csv")
    for line, row in zip(_table(browser, "differences"), of_differences, strict=True):
        assert line[0] == row["method"]
        assert float(line[1]) == pytest.approx(100 * float(row["sparsity"]))
        assert line[2] == _interval(row, ("mean", "low", "high"), 2)
        assert [float(cell) for cell in line[3:]] == [
            float(f"{float(row[name]):.3g}") for name in ("p", "p_holm", "seeds")
        ]
    of_summaries = _rows(study / "report/summaries.csv")
    for line, row in zip(_table(browser, "summaries"), of_summaries, strict=True):
        assert line[0] == row["taken"] + row["score"]
        assert line[1] == _interval(row, ("area", "area_low", "area_high"), 2)
        for cell, points in zip(line[2:], ("0.5", "1", "2"), strict=True):
            names = (f"within_{points}", f"within_{points}_low", f"within_{points}_high")
            assert cell == _interval(row, names, 1)

    for width in (1200, 360):
        browser.execute_cdp_cmd(
            "Emulation.setDeviceMetricsOverride",
            {"width": width, "height": 800, "deviceScaleFactor": 1, "mobile": width < 600},
        )
        size = "return [document.documentElement.scrollWidth, innerWidth]"
        content, window = browser.execute_script(size)
        assert content <= window == width
    colors = set()
    for scheme in ("light", "dark"):
        feature = {"name": "prefers-color-scheme", "value": scheme}
        browser.execute_cdp_cmd("Emulation.setEmulatedMedia", {"features": [feature]})
        colors.add(browser.execute_script("return getComputedStyle(document.body).color"))
    assert len(colors) == 2
    browser.execute_cdp_cmd("Emulation.setEmulatedMedia", {"media": "print"})
    assert not slider.is_displayed()
    assert browser.execute_script("return performance.getEntriesByType('resource').length") == 0
    assert browser.get_log("browser") == []
