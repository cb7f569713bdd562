"""Docstrings as the site wants them: examples as code, and a class's own where another has it."""

import re
from typing import Any

from griffe import Class, Extension, Module, Object

# an example's lines and what they print, to the next empty line
EXAMPLE = re.compile(r"(?:^>>> .*\n?(?:^.+\n?)*)(?:\n(?=>>> )|(?=\n|\Z))", re.MULTILINE)


class Docstrings(Extension):
    """Changes them before their sections are told apart."""

    def on_object(self, *, obj: Object, **_: Any) -> None:
        """Put a fence of Markdown around each doctest, which griffe knows under a heading alone."""
        if obj.docstring and ">>> " in obj.docstring.value:
            fenced = EXAMPLE.sub(lambda m: f"```pycon\n{m[0].rstrip()}\n```\n", obj.docstring.value)
            obj.docstring.value = fenced

    def on_package(self, *, pkg: Module, **_: Any) -> None:
        """``__doc__ = Base.__doc__`` is the base's docstring."""
        for name in ("WeightNormPruning", "AsymptoticRelations"):
            found = pkg["callback.callbacks"].members[name]
            assert isinstance(found, Class)
            found.docstring = found.resolved_bases[0].docstring
