"""Curves as CSV and JSON files, in and out without loss."""

import csv
import io
import json
import os
from collections.abc import Mapping
from dataclasses import asdict, fields
from pathlib import Path
from typing import Any, get_args, get_type_hints

from ewnprune.curve.curve import Curve
from ewnprune.curve.points import CurvePoint
from ewnprune.files import write_rows, write_text
from ewnprune.model.size import Count
from ewnprune.pruning.notes import Note

# a column for each plain field of a point, several for each count: listed there alone
_HINTS = {name: get_args(hint) or (hint,) for name, hint in get_type_hints(CurvePoint).items()}
_COUNTS = tuple(name for name, kinds in _HINTS.items() if kinds[0] is Count)
_KINDS = {name: kinds[0] for name, kinds in _HINTS.items() if kinds[0] in (str, int, float)}
_KINDS.pop("metrics")  # names and numbers, each a column of its own
_LATER = ("realize", "level_of", "layer", "max_per_layer")  # columns that older files lack
_METRIC = "metric."
_FORMAT = 1


def write_curve(curve: Curve, path: str | os.PathLike[str]) -> Path:
    """Write a curve, as CSV or JSON by the path's ending.

    A CSV file has one line per point; its ``*_sparsity`` columns follow from those of the counts.
    It does not hold the curve's notes; JSON does. A file that exists is replaced at once or not at
    all.

    Raises:
        ValueError: the path ends in neither ``.csv`` nor ``.json``.
        OSError: the file cannot be written.
    """
    path = Path(path)
    if _kind(path) == ".csv":
        write_rows(path, map(_row, curve), _columns(curve))
    else:
        write_text(path, curve_to_json(curve))
    return path


def read_curve(path: str | os.PathLike[str]) -> Curve:
    """Read a curve that `write_curve` wrote.

    Raises:
        FileNotFoundError: no such file.
        ValueError: the file holds no curve; the message names the file, the place and the value.
    """
    path = Path(path)
    kind = _kind(path)
    try:
        with open(path, encoding="utf-8", newline="") as file:
            text = file.read()
        return _from_csv(text) if kind == ".csv" else curve_from_json(text)
    except (csv.Error, ValueError) as error:  # UnicodeDecodeError, JSONDecodeError
        reason = str(error).partition("\n")[0]
        raise ValueError(
            f"{path} holds no curve ({reason}): expected a file written by ewnprune"
        ) from error


def _kind(path: Path) -> str:
    if path.suffix.lower() not in (".csv", ".json"):
        raise ValueError(f"{path}: expected a file name that ends in .csv or .json")
    return path.suffix.lower()


def _columns(curve: Curve) -> list[str]:
    # a curve of neurons has no inputs to count
    names = [n for n in _COUNTS if n != "inputs" or any(point.inputs for point in curve)]
    counts = [f"{name}_{part}" for name in names for part in ("left", "total", "sparsity")]
    metrics = dict.fromkeys(_METRIC + name for point in curve for name in point.metrics)
    return [*_KINDS, *counts, *metrics]


def _row(point: CurvePoint) -> dict[str, object]:
    row: dict[str, object] = {name: _cell(name, getattr(point, name)) for name in _KINDS}
    for name in _COUNTS:
        count = getattr(point, name)
        if count is not None:
            row |= {f"{name}_{part}": getattr(count, part) for part in ("left", "total")}
            row[f"{name}_sparsity"] = repr(count.sparsity)
    return row | {_METRIC + name: repr(float(value)) for name, value in point.metrics.items()}


def _cell(name: str, value: object) -> str:
    if value is None:
        return ""
    value = _KINDS[name](value)  # NumPy's numbers have another repr
    return value if isinstance(value, str) else repr(value)  # shortest that reads back the same


def _from_csv(text: str) -> Curve:
    reader = csv.DictReader(io.StringIO(text, newline=""), strict=True)
    known = reader.fieldnames or ()
    needed = [name for name in _KINDS if name not in _LATER]
    needed += [f"{name}_total" for name in _COUNTS if f"{name}_left" in known]
    missing = [name for name in needed if name not in known]
    if missing:
        raise ValueError(f"no column {missing[0]!r}")
    points = []
    try:
        for row in reader:
            if None in row or None in row.values():
                raise ValueError(f"line {reader.line_num}: other columns than in the first line")
            try:
                points.append(_point_of_row(row))
            except ValueError as error:
                raise ValueError(f"line {reader.line_num}: {error}") from error
    except csv.Error as error:
        raise ValueError(f"line {reader.line_num}: {error}") from error
    return Curve(tuple(points))


def _point_of_row(row: Mapping[str, str]) -> CurvePoint:
    values: dict[str, Any] = {}
    for name, kind in _KINDS.items():
        if name in row and (row[name] or kind is str):
            values[name] = _parse(name, row[name], kind)
    for name in _COUNTS:
        if row.get(f"{name}_left"):
            left, total = (
                _parse(f"{name}_{p}", row[f"{name}_{p}"], int) for p in ("left", "total")
            )
            values[name] = Count(left, total)
    if "sparsity" not in values:
        raise ValueError("no sparsity")
    values["metrics"] = {
        name.removeprefix(_METRIC): _parse(name, value, float)
        for name, value in row.items()
        if name.startswith(_METRIC) and value
    }
    return CurvePoint(**values)


def _parse(name: str, text: str, kind: type) -> Any:
    try:
        return kind(text)
    except ValueError:
        raise ValueError(f"{name} is {text!r}, no {kind.__name__}") from None


def curve_to_json(curve: Curve) -> str:
    """The text of a JSON file."""
    points = []
    for point in curve:
        values = {item.name: getattr(point, item.name) for item in fields(point)}
        for name in _COUNTS:
            if values[name] is not None:
                values[name] = {"left": values[name].left, "total": values[name].total}
        if point.inputs is None:
            del values["inputs"]
        values |= {k: _plain(_KINDS[k](values[k])) for k in _KINDS if values[k] is not None}
        values["metrics"] = {key: _plain(float(value)) for key, value in point.metrics.items()}
        points.append(values)
    data = {"format": _FORMAT, "notes": [asdict(note) for note in curve.notes], "points": points}
    return json.dumps(data, indent=1, ensure_ascii=False, allow_nan=False) + "\n"


def _plain(value: Any) -> Any:
    """JSON has no NaN and no infinity: as text."""
    if isinstance(value, float) and not (float("-inf") < value < float("inf")):
        return repr(value)
    return value


def curve_from_json(text: str) -> Curve:
    """The curve of such a text.

    Raises:
        ValueError: it holds no curve.
    """
    data = json.loads(text)
    if not isinstance(data, dict) or data.get("format") != _FORMAT:
        raise ValueError(f"its 'format' is not {_FORMAT}")
    points, notes = data.get("points"), data.get("notes", [])
    if not isinstance(points, list) or not isinstance(notes, list):
        raise ValueError("its 'points' or 'notes' are no list")
    made = []
    for index, values in enumerate(points):
        try:
            made.append(_point_of_json(values))
        except ValueError as error:
            raise ValueError(f"point {index}: {error}") from error
    return Curve(tuple(made), tuple(map(_note, notes)))


def _point_of_json(values: Any) -> CurvePoint:
    if not isinstance(values, dict):
        raise ValueError(f"{values!r} is no point")
    unknown = set(values) - {item.name for item in fields(CurvePoint)}
    if unknown:
        raise ValueError(f"unknown field {min(unknown)!r}")
    if "sparsity" not in values:
        raise ValueError("no sparsity")
    known = {
        name: _typed(name, value, _KINDS[name])
        for name, value in values.items()
        if name in _KINDS and value is not None
    }
    for name in _COUNTS:
        if values.get(name) is not None:
            count = values[name]
            if not isinstance(count, dict) or set(count) != {"left", "total"}:
                raise ValueError(f"{name} is {count!r}, expected left and total")
            known[name] = Count(*(_typed(f"{name}.{k}", count[k], int) for k in ("left", "total")))
    metrics = values.get("metrics", {})
    if not isinstance(metrics, dict):
        raise ValueError(f"metrics is {metrics!r}, expected names and numbers")
    known["metrics"] = {str(k): _typed(f"metric {k}", v, float) for k, v in metrics.items()}
    return CurvePoint(**known)


def _typed(name: str, value: Any, kind: type) -> Any:
    if kind is float and isinstance(value, int | float | str) and not isinstance(value, bool):
        return _parse(name, str(value), float) if isinstance(value, str) else float(value)
    if not isinstance(value, kind) or isinstance(value, bool):
        raise ValueError(f"{name} is {value!r}, no {kind.__name__}")
    return value


def _note(item: Any) -> Note:
    """A note as it was written; older files have the text alone."""
    if isinstance(item, dict) and set(item) == {"kind", "text"}:
        return Note(item["kind"], str(item["text"]))
    return Note("other", str(item))
