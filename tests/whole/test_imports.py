"""What is imported when: the command line must not wait for what it does not use."""

import ast
import subprocess
import sys
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


def test_other_names_are_refused():
    with pytest.raises(AttributeError, match="'ewnprune' has no attribute 'nothing'"):
        _ = ewnprune.nothing
