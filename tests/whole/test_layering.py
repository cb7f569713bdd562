"""The house: who imports whom, how many floors there are, and that names tell things apart."""

import ast
import re
import subprocess
import sys
from pathlib import Path

import grimp
import pytest

ROOT = Path(__file__).parents[2]
FILES = sorted((ROOT / "ewnprune").rglob("*.py"))


@pytest.fixture(scope="module")
def graph():
    return grimp.build_graph("ewnprune", exclude_type_checking_imports=True, cache_dir=None)


def test_the_contracts_of_the_layers_hold():
    # in a process of its own: it disables the loggers of the one that it runs in
    command = Path(sys.executable).with_name("lint-imports")
    done = subprocess.run([command, "--no-cache"], cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout


def test_a_room_has_six_floors_at_most_and_no_circle(graph):
    for room in (path.name for path in (ROOT / "ewnprune").iterdir() if path.is_dir()):
        files = {m for m in graph.modules if re.fullmatch(rf"ewnprune\.{room}\.\w+", m)}
        floors = _floors_within(graph, files)
        assert max(map(floors, files), default=0) <= 6, room


def _floors_within(graph, files):
    known: dict[str, int] = {}

    def floors(module, above=()):
        assert module not in above, f"a circle: {[*above, module]}"
        if module not in known:
            below = graph.find_modules_directly_imported_by(module) & files
            known[module] = 1 + max((floors(m, (*above, module)) for m in below), default=0)
        return known[module]

    return floors


def test_files_are_short():
    others = (ROOT / name for name in ("lightning_modules", "tests", "benchmarks"))
    files = [*FILES, *(file for folder in others for file in folder.rglob("*.py"))]
    long = {str(f.relative_to(ROOT)): n for f in files if (n := len(_lines(f))) > 260}
    assert not long


def test_no_module_has_the_name_of_a_function_beside_it():
    for folder in {file.parent for file in FILES}:
        modules = {path.stem for path in folder.iterdir() if path.suffix == ".py" or path.is_dir()}
        defined = {
            node.name
            for file in folder.glob("*.py")
            for node in ast.parse(file.read_text(encoding="utf-8")).body
            if isinstance(node, ast.FunctionDef)
        }
        assert not modules & defined, folder


def test_the_table_of_rooms_is_complete():
    text = (ROOT / "CONTRIBUTING.md").read_text(encoding="utf-8")
    rooms = set(re.findall(r"^\| `ewnprune/(\w+)/` \|", text, re.MULTILINE))
    assert rooms == {path.parent.name for path in FILES if path.name == "__init__.py"} - {
        "ewnprune",
        "reference",
    }


def _lines(file):
    return file.read_text(encoding="utf-8").splitlines()
