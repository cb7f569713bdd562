"""What the documentation points at exists: tests, files, headings, commands."""

import ast
import re
import tomllib
from itertools import chain
from pathlib import Path

import pytest

import ewnprune

ROOT = Path(__file__).parents[2]
PAGES = sorted([*ROOT.glob("*.md"), *ROOT.glob("docs/**/*.md"), ROOT / "benchmarks/README.md"])


def _anchors(page: Path) -> set[str]:
    """Headings as a forge makes anchors of them: lower case, hyphens, no punctuation."""
    headings = re.findall(r"^#+ (.+)$", page.read_text(encoding="utf-8"), re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_links_lead_somewhere(page):
    text = re.sub(r"```.*?```", "", page.read_text(encoding="utf-8"), flags=re.DOTALL)
    targets = [t for t in re.findall(r"\]\(([^)\s]+)\)", text) if not t.startswith("http")]
    for target in targets:
        path, _, anchor = target.partition("#")
        linked = (page.parent / path).resolve() if path else page
        assert linked.exists(), target
        assert not anchor or anchor in _anchors(linked), target


def test_the_compatibility_matrix_is_made_of_tests():
    page = _read("docs/compatibility.md")
    matrix, _, _ = page.partition("## Oldest versions")
    rows = re.findall(r"^\| (?!with |---).+$", matrix, re.MULTILINE)
    test = re.compile(r"`([\w/]+\.py)::(test_\w+)`")
    assert len(rows) > 35
    assert all(test.search(row) for row in rows)
    for file, name in set(test.findall(page)):
        functions = ast.parse(_read(f"tests/{file}")).body
        assert name in {getattr(function, "name", "") for function in functions}, (file, name)


def test_every_exported_name_is_explained():
    page = _read("docs/api.md")
    told = set(re.findall(r"`(\w+)`", "".join(re.findall(r"^\| .+? \|", page, re.MULTILINE))))
    assert told == set(ewnprune._MODULES)


def test_the_two_commands_are_on_the_first_screen_and_ci_runs_them():
    readme, ci = _read("README.md"), _read(".ci/run")
    first_screen = readme.splitlines()[:30]
    lines = [line for line in first_screen if line.startswith("python -m venv .venv && ")]
    assert [line.rpartition("/")[2].split()[0] for line in lines] == ["ewnprune", "pytest"]
    assert lines[1] in readme
    assert '-m venv .venv && .venv/bin/pip install ".[test]"' in ci


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_benchmarks_that_are_named_exist(page):
    for name in re.findall(r"python -m benchmarks\.(\w+)", page.read_text(encoding="utf-8")):
        assert (ROOT / "benchmarks" / f"{name}.py").is_file(), name


def test_the_oldest_versions_tested_are_the_lower_bounds():
    project = tomllib.loads(_read("pyproject.toml"))["project"]
    extras = project["optional-dependencies"]
    del extras["docs"]  # the site is built with the newest
    wanted = [*project["dependencies"], *chain(*extras.values())]
    bounds = dict(re.findall(r"^([\w-]+)(?:\[\w+\])?>=([\d.]+)", "\n".join(wanted), re.MULTILINE))
    # drives a browser, and wants newer versions of the others: neither is installed there
    del bounds["selenium"], bounds["transformers"]
    tested = dict(re.findall(r"^([\w-]+)==([\d.]+)", _read(".ci/minimum.txt"), re.MULTILINE))
    assert len(bounds) > 15
    assert tested.keys() == bounds.keys()
    for name, bound in bounds.items():
        assert f"{tested[name]}.0.0".startswith(f"{bound}."), name


def test_the_source_archive_has_what_its_tests_read():
    tool = tomllib.loads(_read("pyproject.toml"))["tool"]
    included = {*tool["hatch"]["build"]["targets"]["sdist"]["include"], "pyproject.toml"}
    read = re.findall(r'_read\("([\w.-]+)', Path(__file__).read_text(encoding="utf-8"))
    assert ".ci" in read
    assert {*read} <= included


def _read(path: str) -> str:
    return (ROOT / path).read_text(encoding="utf-8")
