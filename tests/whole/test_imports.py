"""What is imported when: the command line must not wait for what it does not use."""

import ast
import re
import subprocess
import sys
import tomllib
from itertools import chain
from pathlib import Path

import pytest

import ewnprune


def _python(code):
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    return done.stdout.strip()


def test_help_imports_neither_torch_nor_lightning():
    code = "import sys; from ewnprune.cli import main; main(['--help']); main(['--version'])"
    code += "; print([m for m in ('torch', 'numpy', 'pytorch_lightning') if m in sys.modules])"
    assert _python(code).endswith("[]")


@pytest.mark.slow
def test_names_are_the_things_themselves_whatever_was_imported_first():
    code = "import ewnprune.training.attach, ewnprune.training.parametrizations as p, ewnprune as e"
    code += "; print(callable(e.reparametrize), e.EWN is p.EWN, e.reparametrize.__name__)"
    assert _python(code) == "True True reparametrize"


def test_type_checkers_see_what_is_there():
    tree = ast.parse(Path(ewnprune.__file__).read_text())
    (block,) = (node for node in tree.body if isinstance(node, ast.If))
    seen = {(name.name, node.module) for node in block.body for name in node.names}
    assert seen == {(name, f"ewnprune.{module}") for name, module in ewnprune._MODULES.items()}
    for name, module in seen:
        assert getattr(ewnprune, name) is getattr(sys.modules[module], name)
    assert {name for name, _ in seen} <= set(dir(ewnprune))


def test_what_is_imported_is_named_and_typed():
    """And does not come by way of what others happen to need."""
    root = Path(__file__).parents[2]
    project = tomllib.loads((root / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    needed = [*project["dependencies"], *chain(*project["optional-dependencies"].values())]
    named = {re.match(r"[\w-]+", each)[0].replace("-", "_") for each in needed}
    named |= {"yaml", "PIL"}  # of pyyaml and pillow
    found = set()
    for package in ("ewnprune", "lightning_modules"):
        assert (root / package / "py.typed").is_file()
        named.add(package)
        for path in (root / package).rglob("*.py"):
            for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
                if isinstance(node, ast.Import):
                    found |= {name.name.partition(".")[0] for name in node.names}
                elif isinstance(node, ast.ImportFrom):
                    found.add(str(node.module).partition(".")[0])
    assert "tqdm" in found
    assert found - sys.stdlib_module_names <= named


def test_other_names_are_refused():
    with pytest.raises(AttributeError, match="'ewnprune' has no attribute 'nothing'"):
        _ = ewnprune.nothing
