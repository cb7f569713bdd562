"""`ewnprune report`: a study as one HTML page that needs nothing else; figures lie beside it."""

import base64
import hashlib
import json
from collections.abc import Iterable
from dataclasses import dataclass
from html import escape
from importlib.resources import files
from math import isnan
from pathlib import Path
from typing import Any

import yaml
from jinja2 import Environment, PackageLoader
from markupsafe import Markup

from ewnprune.files import local_path, write_rows, write_text
from ewnprune.study.analysis import gather
from ewnprune.study.chart import draw
from ewnprune.study.evidence import Evidence
from ewnprune.study.figures import FIGURES
from ewnprune.study.heading import facts
from ewnprune.study.markdown import as_markdown
from ewnprune.study.naming import levels_of, styles
from ewnprune.study.sections import TABLES, winner_table
from ewnprune.study.tables import level_rows, write_tables
from ewnprune.study.taking import export_commands, why_not

_XML = '<?xml version="1.0" encoding="utf-8" standalone="no"?>\n'


@dataclass(frozen=True)
class Page:
    """A report that was written; a notebook shows it.

    Attributes:
        path: the page.
    """

    path: Path

    def _repr_html_(self) -> str:
        """The page in a frame of its own, so that neither changes the other."""
        page = escape(self.path.read_text(encoding="utf-8"))
        return (
            f'<iframe title="ewnprune report" srcdoc="{page}" sandbox="allow-scripts" '
            'width="100%" height="800" frameborder="0"></iframe>'
        )


def report(runs: str | Path, out: str | Path | None = None) -> Page:
    """Write a study's results as one page, and each figure as SVG and CSV beside it.

    The page opens from disk without a network. It shows what the CSV files hold, and so does
    index.md, for a repository or an issue.

    Args:
        runs: the folder of a study, as `ewnprune compare` leaves it.
        out: where to write; by default report/ in that folder.

    Returns:
        The page, which a notebook shows.

    Raises:
        FileNotFoundError: the folder holds no points.csv.
    """
    study = local_path(runs)
    return write_report(gather(study), study / "report" if out is None else local_path(out))


def write_report(found: Evidence, folder: Path) -> Page:
    """The same of what is gathered already."""
    folder.mkdir(parents=True, exist_ok=True)
    write_tables(found.study, folder)

    figures = []
    for name, (title, text, make) in FIGURES.items():
        chart, rows = make(found)
        if rows:
            write_rows(folder / f"{name}.csv", rows)
        if chart is not None:
            alone = draw(chart, name, title, text, legend=True)
            write_text(folder / f"{name}.svg", f"{_XML}{alone}\n")
            svg = draw(chart, name, title, text)
            figures.append({"title": title, "text": text, "svg": svg, "name": name})
    tables = [make_table(found) for make_table in TABLES]
    for table in tables:
        if table.data:
            write_rows(folder / f"{table.name}.csv", table.data)

    shared: dict[str, Any] = {
        "title": f"Pruning: {found.folder.resolve().name}",
        "facts": facts(found),
        "winners": winner_table(found),
        "caveats": found.study.caveats,
        "figures": figures,
        "tables": tables,
        "items": found.study.items,
        "settings": yaml.safe_dump(dict(found.settings), sort_keys=False),
    }
    write_text(folder / "index.html", _html(found, shared))
    write_text(folder / "index.md", as_markdown(**shared))
    return Page(folder / "index.html")


def report_command(runs: Path, out: Path | None = None) -> None:
    """`report` at a terminal: where the page lies is printed."""
    print(f"ewnprune: {report(runs, out).path}")


report_command.__doc__ = report.__doc__  # the text of --help


def _html(found: Evidence, shared: dict[str, Any]) -> str:
    levels = levels_of(found.study)
    commands = export_commands(found)
    rows = [
        _finite(row)
        | {"command": commands.get(row["method"], {}).get(row["sparsity"], "")}
        | {"why": "" if row["method"] in commands else why_not(found, row["method"])}
        for row in level_rows(found.study)
    ]
    style, script = (_source(name) for name in ("page.css", "page.js"))
    environment = Environment(
        loader=PackageLoader("ewnprune.study", ""), autoescape=True, trim_blocks=True
    )
    return environment.get_template("page.html").render(
        **shared,
        style=style,
        script=script,
        policy="; ".join(_policy(style, script)),
        levels=levels,
        start=min(range(len(levels)), key=lambda i: abs(levels[i] - 0.9)),
        methods=styles(found.study),
        data=_json_in_html({"levels": levels, "rows": rows}),
    )


def _policy(style: str, script: str) -> Iterable[str]:
    """What the page may load: what is written in it, and nothing else."""
    yield "default-src 'none'"
    yield "img-src data:"
    for kind, text in (("style-src", style), ("script-src", script)):
        digest = base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()
        yield f"{kind} 'sha256-{digest}'"


def _source(name: str) -> Markup:
    """A file of ours, as it stands between its tags."""
    text = files("ewnprune.study").joinpath(name).read_text(encoding="utf-8")
    return Markup("\n" + text)


def _finite(row: dict[str, Any]) -> dict[str, Any]:
    """JSON has no NaN."""
    return {k: None if isinstance(v, float) and isnan(v) else v for k, v in row.items()}


def _json_in_html(value: Any) -> Markup:
    # a "</script>" in a method's name must not end the script
    text = json.dumps(value, allow_nan=False).replace("<", "\\u003c").replace(">", "\\u003e")
    return Markup(text.replace("&", "\\u0026"))
