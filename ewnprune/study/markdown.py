"""A report as Markdown, for a repository, an issue or a chat: what the page shows, as text."""

import re
from collections.abc import Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from ewnprune.study.checklist import Item
    from ewnprune.study.sections import Table


def as_markdown(
    title: str,
    facts: Iterable[tuple[str, str]],
    winners: "Table",
    caveats: Iterable[str],
    figures: Iterable[Mapping[str, Any]],
    tables: "Iterable[Table]",
    items: "Iterable[Item]",
    settings: str,
) -> str:
    """The twin of the page; figures are those that lie beside it.

    Args:
        title: of the report.
        facts: what was compared.
        winners: who wins at each loss.
        caveats: what that cannot say.
        figures: titles, texts and names.
        tables: all tables.
        items: the checklist.
        settings: of the study, as YAML.
    """
    lines = [f"# {plain(title)}", ""]
    lines += [f"- **{name}**: {plain(text)}" for name, text in facts]
    lines += _section(winners)
    lines += ["", "## What this cannot say", "", *(f"- {plain(text)}" for text in caveats)]
    lines += ["", "## Figures"]
    for figure in figures:
        name, text = figure["name"], plain(figure["text"])
        lines += ["", f"### {figure['title']}", "", f"![{figure['title']}]({name}.svg)", "", text]
    for table in tables:
        lines += _section(table)
    lines += ["", "## What a comparison should report", ""]
    for item in items:
        lines.append(f"- {'has' if item.met else '**lacks**'} {item.demand}: {plain(item.note)}")
        lines += [*_fenced(item.mend, "  ")] if item.mend else []
    lines += ["", "## Settings of the study", "", *_fenced(settings)]
    return "\n".join(lines) + "\n"


def plain(text: str) -> str:
    r"""Text that Markdown shows as it is.

    >>> print(plain("<b>a_b|c</b>"))
    &lt;b&gt;a\_b\|c&lt;/b&gt;
    """
    text = text.replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;")
    return re.sub(r"([\\`*_\[\]|~#!])", r"\\\1", " ".join(text.split()))


def _section(table: "Table") -> list[str]:
    lines = ["", f"## {plain(table.title)}", "", plain(table.text)]
    if table.rows:
        lines += ["", _row(table.columns), _row(["---"] * len(table.columns), raw=True)]
        lines += [_row(row) for row in table.rows]
    return lines


def _row(cells: Sequence[str], raw: bool = False) -> str:
    return "| " + " | ".join(cell if raw else plain(cell) for cell in cells) + " |"


def _fenced(text: str, indent: str = "") -> list[str]:
    """A block of code that its content cannot end."""
    longest = max((len(found) for found in re.findall("`+", text)), default=0)
    fence = "`" * max(3, longest + 1)
    return [indent + line for line in (fence, *text.rstrip("\n").split("\n"), fence)]
