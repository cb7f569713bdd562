"""What mkdocs does not do by itself for this site: pages that are made, and links that leave docs/.

The pages are Markdown that a forge shows as it is. Here the reference is made of the docstrings,
the command line and the configs; notebooks become pages; formulas become MathML, which browsers
show without a script; what a page links to outside of this folder is published beside it.
"""

import base64
import contextlib
import io
import json
import os
import posixpath
import re
from html import unescape
from pathlib import Path
from typing import Any

from latex2mathml.converter import convert
from mkdocs.structure.files import File, Files

from ewnprune.cli import command_parsers

ROOT = Path(__file__).parents[1]
# pages that lie elsewhere, by where they are on the site
ELSEWHERE = {"benchmarks.md": "benchmarks/README.md", "changelog.md": "CHANGELOG.md"}
ELSEWHERE |= {"contributing.md": "CONTRIBUTING.md"}
FORMULA = re.compile(r'(<(span|div) class="arithmatex">)\\([(\[])(.*?)\\[)\]](?=</\2>)', re.DOTALL)
LINK = re.compile(r"(?<=\]\()(?!https?:|#|mailto:)([^)\s#]+)(#[^)\s]*)?(?=\))")


def on_files(files: Files, config: Any) -> Files:
    """Add the pages that are made, and the files that pages link to."""
    made = {page: (ROOT / path).read_text(encoding="utf-8") for page, path in ELSEWHERE.items()}
    os.environ["COLUMNS"] = "88"  # where help texts break their lines
    parsers = command_parsers()
    made |= {"cli.md": command_line(parsers), "configs.md": configs(parsers)}
    for notebook in sorted((ROOT / "docs/notebooks").glob("*.ipynb")):
        text, pictures = of_notebook(notebook)
        made[f"notebooks/{notebook.stem}.md"] = text
        for name, content in pictures.items():
            files.append(File.generated(config, f"notebooks/{name}", content=content))
    for page, text in made.items():
        files.append(File.generated(config, page, content=text))
    for page in list(files.documentation_pages()):
        for target in map(_target(page.src_uri), LINK.findall(page.content_string)):
            uri = _on_site(target)
            if files.get_file_from_path(uri) is None and (ROOT / target).exists():
                files.append(File.generated(config, uri, content=_content(ROOT / target)))
    return files


def on_page_markdown(markdown: str, page: Any, **_: Any) -> str:
    """Let links lead to the site's pages, and the table of names to the docstrings."""
    here = page.file.src_uri
    target = _target(here)

    def relative(match: re.Match[str]) -> str:
        uri = _on_site(target((match[1], "")))
        # the README is the forge's front page, and no page here: its headings are not index.md's
        anchor = "" if target((match[1], "")) == "README.md" else match[2] or ""
        return posixpath.relpath(uri, posixpath.dirname(here) or ".") + anchor

    markdown = LINK.sub(relative, markdown)
    return with_docstrings(markdown) if here == "api.md" else markdown


def on_page_content(html: str, **_: Any) -> str:
    """Formulas as MathML."""
    return FORMULA.sub(_math, html)


def with_docstrings(markdown: str) -> str:
    """After each table of names, what the docstring of each says."""
    parts = re.split(r"((?:^\|.*\n)+)", markdown, flags=re.MULTILINE)
    for i, part in enumerate(parts):
        names = re.findall(r"`(\w+)`", "".join(re.findall(r"^\| .+? \|", part, re.MULTILINE)))
        parts[i] = part + "".join(f"\n::: ewnprune.{name}\n" for name in names)
    return "".join(parts)


def command_line(parsers: dict[str, Any]) -> str:
    """What ``ewnprune --help`` and the ``--help`` of each command print."""
    from ewnprune.cli import HELP
    from ewnprune.configs import shipped_configs

    page = ["# Command line", "What `ewnprune --help` prints:"]
    page.append(_fenced(HELP.format(configs="\n".join(f"    {n}" for n in shipped_configs()))))
    known = _options(parsers["fit"])
    for name, parser in parsers.items():
        page.append(f"## ewnprune {name}")
        if name in ("validate", "test", "predict", "sweep"):
            own = [f"`{option}`" for option in _options(parser) if option not in known]
            page.append(
                f"{parser.description} It takes options of [fit](#ewnprune-fit)"
                + (f", and {', '.join(own)}." if own else ".")
            )
        else:
            page.append(_fenced(parser.format_help()))
    return "\n\n".join(page) + "\n"


def configs(parsers: dict[str, Any]) -> str:
    """Every key with its default, what it means, and the files that are shipped."""
    page = [
        "# Configs",
        "A config is YAML for `ewnprune fit --config FILE`, or for `ewnprune compare`.",
    ]
    page += ["## Every key of fit", "With its default:"]
    page.append(f"```yaml\n{_printed(parsers['fit'])}```")
    page += ["What they mean, with [sub-keys of classes](api.md):", _keys(parsers["fit"])]
    page += [
        "## Every key of compare",
        "[What a study does](compare.md):",
        _keys(parsers["compare"]),
    ]
    page.append("## The shipped ones")
    for path in sorted((ROOT / "configs").glob("*.yaml")):
        page.append(f"### {path.name}\n\n```yaml\n{path.read_text(encoding='utf-8')}```")
    return "\n\n".join(page) + "\n"


def _printed(parser: Any) -> str:
    text = io.StringIO()
    with contextlib.redirect_stdout(text), contextlib.suppress(SystemExit):
        parser.parse_args(["--print_config"])
    return text.getvalue()


def _keys(parser: Any) -> str:
    rows = ["| key | what it says |", "| --- | --- |"]
    for action in parser._actions:
        meaning = re.split(r"\n\s*\n|\n?Default: ", action.help or "")[0]
        meaning = (
            re.sub(r":\w+:`~?([^`]+)`", r"`\1`", meaning).replace("``", "`").replace("|", "\\|")
        )
        if action.option_strings and not re.search(r"(^|\.)help$|^(print_)?config$", action.dest):
            rows.append(f"| `{action.dest}` | {' '.join(meaning.split())} |")
    return "\n".join(rows)


def of_notebook(path: Path) -> tuple[str, dict[str, bytes]]:
    """A notebook as Markdown, with the outputs that it was saved with, and its pictures."""
    page: list[str] = []
    pictures: dict[str, bytes] = {}
    for cell in json.loads(path.read_text(encoding="utf-8"))["cells"]:
        source = "".join(cell["source"])
        page.append(source if cell["cell_type"] == "markdown" else f"```python\n{source}\n```")
        printed = "".join("".join(output.get("text", "")) for output in cell.get("outputs", ()))
        page += [_fenced(printed)] if printed else []
        for output in cell.get("outputs", ()):
            shown = output.get("data", {})
            if "image/png" in shown:
                name = f"{path.stem}_{len(pictures)}.png"
                pictures[name] = base64.b64decode("".join(shown["image/png"]))
                page.append(f"![{cell['metadata']['alt']}]({name})")
            elif shown:
                page.append(_fenced("".join(shown["text/plain"])))
    page.append(f'<a href="../{path.name}" download>This notebook</a>, to run yourself.')
    return "\n\n".join(page) + "\n", pictures


def _options(parser: Any) -> list[str]:
    return [action.option_strings[-1] for action in parser._actions if action.option_strings]


def _fenced(text: str) -> str:
    return f"```text\n{text.rstrip()}\n```"


def _target(uri: str) -> Any:
    """From a link on a page to the path, from the root of the project, that it means."""
    source = ELSEWHERE.get(uri, f"docs/{uri}")
    return lambda link: posixpath.normpath(posixpath.join(posixpath.dirname(source), link[0]))


def _on_site(path: str) -> str:
    """Where a file of the project is on the site."""
    pages = {source: uri for uri, source in ELSEWHERE.items()} | {"README.md": "index.md"}
    if path in pages:
        return pages[path]
    if path.startswith("docs/notebooks/"):
        path = path.replace(".ipynb", ".md")
    inside = (
        posixpath.relpath(path, "docs")
        if path.startswith("docs/")
        else f"source/{path.lstrip('.')}"
    )
    return f"{inside}/index.md" if (ROOT / path).is_dir() else inside


def _content(path: Path) -> str | bytes:
    """Of a file what is in it, of a folder a page that lists its files."""
    if not path.is_dir():
        return path.read_bytes()
    names = sorted(file.name for file in path.iterdir())
    heading = path.relative_to(ROOT).as_posix()
    return "\n".join([f"# {heading}", "", *(f"- [{name}]({name})" for name in names)]) + "\n"


def _math(match: re.Match[str]) -> str:
    display = "block" if match[3] == "[" else "inline"
    formula = convert(unescape(match[4]), display=display)
    # bars of a norm are letters here: as stretching brackets they would sink with an index
    return match[1] + re.sub(
        "<mo[^>]*>(&#x02016;)</mo>", r'<mi mathvariant="normal">\1</mi>', formula
    )
