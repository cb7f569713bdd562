"""Compares methods over seeds, and tells what that shows.

It may import everything but the other commands (`ewnprune.export`, `ewnprune.experiments`,
`ewnprune.cli`). A new method is an entry in `methods`, a figure of the report a function in
`figures`, a table of it a function in `sections`.

`report` writes the page of a study and gives it back, which a notebook shows.
"""

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from ewnprune.study.page import report as report


def __getattr__(name: str) -> Any:
    # not before it is asked for: a run is a process that needs no page
    if name != "report":
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from ewnprune.study.page import report

    return report
