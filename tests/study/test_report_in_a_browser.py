"""The page in chromium: what one sees, presses and copies."""

import csv
import json
import shutil

import pytest
from toys.studies import LEVELS, write_study

from ewnprune.drawing import COLORS
from ewnprune.study.page import report

EVIL = "ewn</script><b id=evil>&amp;"


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


def _rows(path):
    with open(path, newline="") as file:
        return list(csv.DictReader(file))


def _table(browser, name="at-level"):
    script = """return [...document.querySelectorAll(`#${arguments[0]} tbody tr`)].map(
        row => [...row.cells].map(cell => cell.textContent))"""
    return browser.execute_script(script, name)


def _emulate(browser, width, scheme):
    size = {"width": width, "height": 800, "deviceScaleFactor": 1, "mobile": width < 600}
    browser.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", size)
    feature = {"name": "prefers-color-scheme", "value": scheme}
    browser.execute_cdp_cmd("Emulation.setEmulatedMedia", {"features": [feature]})


def test_in_a_browser(tmp_path, browser):
    """All in one: a browser takes a second to start."""
    study = tmp_path / "study"
    write_study(study, {"none": ["magnitude"], EVIL: []})
    browser.get(report(study).path.as_uri())
    _slider_moves_numbers_and_lines(browser, study)
    _values_choices_and_hidden_methods(browser, study)
    _copies(browser)
    _fits_and_is_told(browser, study)
    assert browser.execute_script("return performance.getEntriesByType('resource').length") == 0
    assert browser.get_log("browser") == []  # nothing that the page's policy would refuse, either


def _slider_moves_numbers_and_lines(browser, study):
    from selenium.webdriver.common.by import By
    from selenium.webdriver.common.keys import Keys

    rows = _rows(study / "report/curves.csv")
    slider = browser.find_element(By.ID, "level")
    slider.send_keys(Keys.HOME)
    seen, lines = set(), set()
    for level in LEVELS:
        asked = browser.find_element(By.ID, "asked").text
        assert float(asked.removesuffix("%")) == pytest.approx(100 * level)
        expected = [row for row in rows if float(row["sparsity"]) == level]
        shown = _table(browser)
        assert [line[0] for line in shown] == ["none", "magnitude", EVIL]
        for line, row in zip(shown, expected, strict=True):
            mean, sd = (100 * float(row[key]) for key in ("mean", "sd"))
            assert line[1] == f"{mean:.2f} ± {sd:.2f}"
            assert line[5] == "3"
            for cell, name in zip(line[2:5], ("neurons", "parameters", "macs"), strict=True):
                left, total = (int(row[f"{name}_{part}"]) for part in ("left", "total"))
                assert cell == f"{100 * left / total:.1f} % {left:,}"
        seen.add(str(shown))
        lines.add(_lines(browser))
        slider.send_keys(Keys.ARROW_RIGHT)
    assert len(seen) == len(lines) == len(LEVELS)
    # at 95 % the line of the curves is at their end, on the right of the axes
    assert dict(json.loads(_lines(browser)))["Accuracy against what is left"] == ["M466.0 12V292"]
    assert not browser.find_elements(By.ID, "evil")
    for link in browser.find_elements(By.CSS_SELECTOR, "main a"):
        assert (study / "report" / link.text).is_file()


def _lines(browser):
    script = """return JSON.stringify([...document.querySelectorAll("figure svg")].map(chart => [
        chart.querySelector("title").textContent,
        [...chart.querySelectorAll(".cursor path")].map(line => line.getAttribute("d"))]))"""
    return browser.execute_script(script).replace("M466 ", "M466.0 ")


def _values_choices_and_hidden_methods(browser, study):
    from selenium.webdriver import ActionChains
    from selenium.webdriver.common.by import By
    from selenium.webdriver.common.keys import Keys
    from selenium.webdriver.support.select import Select

    (row,) = [
        row
        for row in _rows(study / "report/curves.csv")
        if (row["method"], row["sparsity"]) == ("none", "0.8")
    ]
    mark = browser.find_element(By.CSS_SELECTOR, 'g[data-method="none"] .mark[data-level="0.8"]')
    browser.execute_script("arguments[0].scrollIntoView({block: 'center'})", mark)
    ActionChains(browser).move_to_element(mark).perform()
    tip = browser.find_element(By.ID, "tip").text
    assert tip.startswith(f"none: {100 * float(row['mean']):.2f} ± ")
    assert "at 80 % removed" in tip
    mark.click()
    assert browser.find_element(By.ID, "asked").text == "80 %"
    command = browser.find_element(By.ID, "command")
    run = study / "runs/0-0/checkpoints/final.ckpt"
    assert command.text == f"ewnprune export {run} --sparsity 0.8 --score norm"
    Select(browser.find_element(By.ID, "taken")).select_by_visible_text("magnitude")
    assert "Nothing to export: single weights" in command.text

    button = browser.find_element(By.CSS_SELECTOR, '[data-show="none"]')
    button.send_keys(Keys.SPACE)  # by the keyboard as well
    assert button.get_attribute("aria-pressed") == "false"
    assert [line[0] for line in _table(browser)] == ["magnitude", EVIL]
    assert not mark.is_displayed()
    button.click()
    assert mark.is_displayed()


def _copies(browser):
    from selenium.webdriver.common.by import By

    browser.execute_script(
        """Object.defineProperty(navigator, "clipboard",
            { value: { writeText: async text => { window.copied = text; } } })"""
    )
    expected = {
        "CSV": 'loss,winner,"removed, %","accuracy before, %",not told from it\n0.5 points,',
        "Markdown": "| loss | winner | removed, % | accuracy before, % | not told from it |\n| -",
        "LaTeX": "\\begin{tabular}{lrrrr}\n\\toprule\nloss & winner & removed, \\% & accuracy",
    }
    for kind, start in expected.items():
        label = f'Copy the table "The winner at your loss" as {kind}'
        button = browser.find_element(By.CSS_SELECTOR, f"[aria-label='{label}']")
        browser.execute_script("arguments[0].click()", button)
        text = browser.execute_script("return window.copied")
        assert text.startswith(start)
        assert text.count("\n") >= 4
        assert browser.find_element(By.ID, "said").text == f"Copied: the table as {kind}."


def _fits_and_is_told(browser, study):
    from selenium.webdriver.common.by import By

    colors = set()
    for width in (1200, 390):
        for scheme in ("light", "dark"):
            _emulate(browser, width, scheme)
            size = "return [document.documentElement.scrollWidth, innerWidth]"
            content, window = browser.execute_script(size)
            assert content <= window == width
            cut = """return [...document.querySelectorAll("main :is(td, th)")].filter(
                cell => cell.checkVisibility()
                && cell.getBoundingClientRect().right > innerWidth + 1).length"""
            assert browser.execute_script(cut) == 0
            high = "return getComputedStyle(document.getElementById('methods')).maxHeight"
            assert browser.execute_script(high) == "88px"  # however many there are
            colors.add(browser.execute_script("return getComputedStyle(document.body).color"))
    assert len(colors) == 2
    charts = browser.find_elements(By.CSS_SELECTOR, "figure svg")
    assert len(charts) == 8
    for chart in charts:
        assert chart.aria_role in ("image", "img")
        assert chart.accessible_name
    # every colour of the house is one that shows on dark paper
    style = browser.find_element(By.TAG_NAME, "style").get_attribute("textContent")
    for color in COLORS.values():
        assert f'[color="{color}"]' in style.rpartition("prefers-color-scheme: dark")[2]
    browser.execute_cdp_cmd("Emulation.setEmulatedMedia", {"media": "print"})
    assert browser.execute_script(high) == "none"
    assert not browser.find_element(By.ID, "level").is_displayed()
