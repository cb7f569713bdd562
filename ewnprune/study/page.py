"""`ewnprune report`: a study as one HTML page that needs nothing else; figures lie beside it."""

import json
from math import isnan
from pathlib import Path
from typing import Any

import yaml
from jinja2 import Environment, PackageLoader
from markupsafe import Markup

from ewnprune.curve.files import read_curve
from ewnprune.drawing import save_figure
from ewnprune.files import write_rows, write_text
from ewnprune.study.figures import FIGURES
from ewnprune.study.run import SETTINGS
from ewnprune.study.tables import (
    analyse,
    difference_rows,
    level_rows,
    summary_rows,
    write_tables,
)


def report(runs: Path, out: Path | None = None) -> None:
    """Write a study's results as one page, and each figure as SVG and CSV beside it.

    The page opens from disk without a network. It shows what the CSV files hold.

    Args:
        runs: the folder of a study, as `ewnprune compare` leaves it.
        out: where to write; by default report/ in that folder.

    Raises:
        FileNotFoundError: the folder holds no points.csv.
    """
    if not (runs / "points.csv").is_file():
        raise FileNotFoundError(
            f"{runs} holds no points.csv: expected the folder of a study with a finished run; "
            f"make one with ewnprune compare --folder {runs}"
        )
    points = read_curve(runs / "points.csv")
    settings = _settings(runs)
    study = analyse(points, settings.get("reference", "none"))
    folder = out or runs / "report"
    folder.mkdir(parents=True, exist_ok=True)
    write_tables(study, folder)

    figures = []
    for name, (title, text, draw) in FIGURES.items():
        figure, rows = draw(study, runs)
        if figure is None:
            continue
        write_rows(folder / f"{name}.csv", rows)
        save_figure(figure, folder / f"{name}.svg")
        svg = (folder / f"{name}.svg").read_text(encoding="utf-8")
        inline = svg[svg.index("<svg") :]
        figures.append({"title": title, "text": text, "svg": inline, "name": name})

    rows = level_rows(study)
    levels = sorted({row["sparsity"] for row in rows})
    page = Environment(
        loader=PackageLoader("ewnprune.study", ""), autoescape=True, trim_blocks=True
    ).get_template("page.html")
    html = page.render(
        title=f"Pruning: {runs.resolve().name}",
        split={"val": "validation", "test": "test"}[study.split],
        caveats=study.caveats,
        levels=levels,
        start=min(range(len(levels)), key=lambda i: abs(levels[i] - 0.9)),
        figures=figures,
        reference=study.reference,
        differences=difference_rows(study),
        summaries=summary_rows(study),
        items=study.items,
        settings=yaml.safe_dump(settings, sort_keys=False),
        versions=_versions(runs),
        data=_json_in_html({"levels": levels, "rows": [_finite(row) for row in rows]}),
    )
    write_text(folder / "index.html", html)
    print(f"ewnprune: {folder / 'index.html'}")


def _settings(runs: Path) -> dict[str, Any]:
    path = runs / "study.yaml"
    return yaml.safe_load(path.read_text(encoding="utf-8")) if path.is_file() else {}


def _versions(runs: Path) -> str:
    """Each set of versions once, with the runs that had it and the seconds that each took."""
    found: dict[str, list[str]] = {}
    for path in sorted(runs.glob("runs/*/versions.json")):
        values = json.loads(path.read_text(encoding="utf-8"))
        settings = json.loads((path.parent / SETTINGS).read_text(encoding="utf-8"))
        seconds = values.pop("seconds")
        text = "\n".join(f"{key}: {value}" for key, value in values.items())
        run = f"{settings['method']}, seed {settings['seed']}: {seconds} s"
        found.setdefault(text, []).append(run)
    return "\n\n".join(f"{text}\nruns:\n  " + "\n  ".join(of) for text, of in found.items())


def _finite(row: dict[str, Any]) -> dict[str, Any]:
    """JSON has no NaN."""
    return {k: None if isinstance(v, float) and isnan(v) else v for k, v in row.items()}


def _json_in_html(value: Any) -> Markup:
    # a "</script>" in a method's name must not end the script
    text = json.dumps(value, allow_nan=False).replace("<", "\\u003c").replace(">", "\\u003e")
    return Markup(text.replace("&", "\\u0026"))
