"""What stands on top of a report: what was compared, on what, when, and what it cannot say."""

from collections.abc import Iterable
from typing import TYPE_CHECKING, Any

from ewnprune.study.labels import Label, labels_of
from ewnprune.study.naming import flatten

if TYPE_CHECKING:
    from ewnprune.study.evidence import Evidence
    from ewnprune.study.recorded import Recorded

_UNKNOWN = "not recorded"
_SOFTWARE = ("ewnprune", "torch", "pytorch-lightning", "torchvision", "scipy", "numpy", "python")


def facts(found: "Evidence") -> list[tuple[str, str]]:
    """What was compared, each fact with its name; of what no run recorded it says so."""
    curve = found.study.curve
    labels = [Label.parse(label) for label in labels_of(curve)]
    finished = [run for run in found.runs if run.versions]
    told_by = _options(found.runs)
    split = {"val": "validation", "test": "test"}[found.study.split]
    totals = sorted({p.parameters.total for p in curve if p.parameters is not None})
    seeds = sorted({point.seed for point in curve if point.seed is not None})
    dates = sorted(
        {run.versions["finished"][:10] for run in finished if "finished" in run.versions}
    )
    told = {
        "methods": _listed(label.method for label in labels),
        "settings": "; ".join(_unique(label.settings for label in labels)),
        "data": "; ".join(_unique(_class(options.get("data")) for options in told_by)),
        "model": "; ".join(_unique(_class(options.get("model")) for options in told_by)),
        "parameters": ", ".join(f"{total:,}" for total in totals),
        "epochs": _listed(str(epochs) for run in finished if (epochs := run.epochs)),
        "seeds": f"{len(seeds)}: {', '.join(map(str, seeds))}",
        "runs": f"{len(finished)} of {len(found.runs)} finished" if found.runs else "",
        "measured": _measured(found, split),
        "date": " to ".join(dict.fromkeys((dates[0], dates[-1]))) if dates else "",
        "versions": "; ".join(_unique(_software(run) for run in finished)),
        "machine": "; ".join(_unique(_machine(run) for run in finished)),
    }
    if not told["settings"]:
        del told["settings"]
    return [(name, text or _UNKNOWN) for name, text in told.items()]


def _options(runs: "Iterable[Recorded]") -> list[dict[str, Any]]:
    """Of the first run of each method what the study says, and by default all: seeds differ."""
    first: dict[str, Recorded] = {}
    for run in runs:
        first.setdefault(str(Label.parse(run.method).chosen()), run)
    return [{**run.whole_config(), **run.fit} for run in first.values()]


def _class(options: Any, most: int = 300) -> str:
    """A class and what it was made with.

    >>> _class({"class_path": "my.Data", "init_args": {"seed": 3, "size": 28, "folder": None}})
    'my.Data (size: 28)'
    >>> _class("my.Model")
    'my.Model'
    """
    if not options or isinstance(options, str):
        return options or ""
    flat = flatten(options)
    name = flat.pop("class_path", str(options))
    kept = [
        f"{key.replace('init_args.', '').removesuffix('.class_path')}: {value}"
        for key, value in flat.items()
        if value != "null" and not key.endswith("seed")
    ]
    text = ", ".join(kept)
    text = text if len(text) <= most else text[: most - 1] + "…"
    return f"{name} ({text})" if text else name


def _measured(found: "Evidence", split: str) -> str:
    point = found.study.curve.points[0]
    scope = {"layer": "the same part of each layer", "global": "the lowest scores of all layers"}
    text = f"accuracy on {split} data; {scope.get(point.scope, point.scope)} removed"
    tuned = any((run.fit.get("prune") or {}).get("finetune") for run in found.runs)
    return text + (", finetuned" if tuned else ", without finetuning")


def _software(run: "Recorded") -> str:
    return ", ".join(f"{n} {run.versions[n]}" for n in _SOFTWARE if n in run.versions)


def _machine(run: "Recorded") -> str:
    told = run.versions
    parts = [told.get("processor", ""), told.get("platform", "")]
    if told.get("device", "cpu") != "cpu":
        parts.insert(0, told["device"])
    if "cores" in told:
        parts.append(f"{told['cores']} cores")
    if "threads" in told:
        parts.append(f"threads a run: {told['threads']}")
    return ", ".join(part for part in parts if part)


def _unique(texts: Iterable[str]) -> list[str]:
    return list(dict.fromkeys(text for text in texts if text))


def _listed(texts: Iterable[str]) -> str:
    return ", ".join(_unique(texts))
