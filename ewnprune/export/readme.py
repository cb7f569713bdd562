"""The card as a person reads it: README.md, in the form of the Hugging Face Hub's model cards."""

import html
import re
from typing import Any

import yaml

from ewnprune.export.budget import budget_told

_LIBRARIES = {"onnx": "onnx"}  # the others are read by torch
_LOADING = {
    "state_dict": """\
import torch

weights = torch.load("{file}", weights_only=True)  # built with the widths in card.json
network.load_state_dict(weights)
outputs = {call}""",
    "safetensors": """\
from safetensors.torch import load_file

network.load_state_dict(load_file("{file}"))  # built with the widths in card.json
outputs = {call}""",
    "torch_export": """\
import torch

network = torch.export.load("{file}").module()
outputs = {call}  # any number of samples""",
    "onnx": """\
from onnxruntime import InferenceSession

session = InferenceSession("{file}")
outputs = session.run(None, inputs)  # a dict of NumPy arrays, by the names below""",
}
_GROUPS = {"neurons": "neurons that go together", "inputs": "features of a sample"}
_LISTED = 200
_DIMS = {"Linear": -1, "Conv1d": -2, "Conv2d": -3, "Conv3d": -4}
_SELECTING = """\
class Select{base}(nn.{base}):  # in the place of {names}: it picks what it reads
    def __init__(self, features, *args, **kwargs):
        super().__init__(features, *args, **kwargs)
        self.register_buffer("input_index", torch.zeros(features, dtype=torch.long))

    def forward(self, inputs):
        return super().forward(inputs.index_select({dim}, self.input_index))
"""


def write_up(card: dict[str, Any], kind: str) -> str:
    """The text of README.md.

    Args:
        card: what card.json holds.
        kind: the name of the format.
    """
    front: dict[str, Any] = {
        "library_name": _LIBRARIES.get(kind, "pytorch"),
        "tags": ["pruning", "structured-pruning", "ewnprune", kind],
    }
    if any(row["after"] is not None for row in card["accuracy"].values()):
        front["metrics"] = ["accuracy"]
    pruning, source = card["pruning"], card["source"]
    method = f"trained with {_text(source['method'])}, " if source["method"] else ""
    seed = "" if source["seed"] is None else f", seed {source['seed']}"
    unit = pruning.get("unit", "neurons")
    removed = f"{100 * pruning['sparsity']:g} % of its {unit} removed"
    parts = [
        f"---\n{yaml.safe_dump(front, sort_keys=False)}---",
        f"# {_text(source['network'])}, {removed}",
        f"A network {method}pruned by {_text(pruning['score'])} and cut to what is left by "
        f"ewnprune {_text(card['versions']['ewnprune'])}. "
        "Nothing of that is needed to run it. All figures here are in card.json.",
        f"From {_text(source['checkpoint'])}, step {source['step']}{seed}; "
        f"how score and level were chosen: {_text(pruning['chosen'])}."
        + (f" {_text(budget_told(pruning['budget']))}." if "budget" in pruning else ""),
        "## Accuracy",
        _table(("data", "samples", "before", "after"), _accuracy_rows(card)),
        "## Sizes",
        _table(("", "before", "after"), _size_rows(card)),
        _table((_GROUPS[unit], "left", "of"), _group_rows(card)),
        *(_features(card["features"]) if "features" in card else ()),
        "## How to load",
        f"```python\n{_loading(card, kind)}\n```",
        "What goes in:",
        _table(("input", "shape", "type"), _tensor_rows(card["inputs"], "inputs", kind == "onnx")),
        "What comes out:",
        _table(
            ("output", "shape", "type"), _tensor_rows(card["outputs"], "outputs", kind == "onnx")
        ),
    ]
    return "\n\n".join(parts) + "\n"


def _loading(card: dict[str, Any], kind: str) -> str:
    text = _LOADING[kind].format(file=card["file"], call=card["call"])
    if "features" not in card or kind not in ("state_dict", "safetensors"):
        return text
    layers = card["features"]["layers"]
    classes = [
        _SELECTING.format(
            base=base, dim=_DIMS[base], names=", ".join(n for n in layers if layers[n] == base)
        )
        for base in dict.fromkeys(layers.values())
    ]
    return "\n\n".join(["import torch\nfrom torch import nn", *classes, text])


def _features(features: dict[str, Any]) -> list[str]:
    """Which inputs are read."""
    shape = " x ".join(map(str, features["shape"]))
    what = f"It reads {features['left']:,} of {features['total']:,} features ({shape}) of a sample"
    parts = [
        "## Inputs that it reads",
        f"{what}, and takes whole samples: it picks them itself. Those it does not read are 0 to "
        f"its first layers ({', '.join(map(_text, features['layers']))}).",
    ]
    if len(features["shape"]) > 1:
        parts.append("![Pixels that are read](features.png)")
    if "names" in features:
        parts.append("\n".join(f"- {_text(name)}" for name in features["names"]))
    elif features["left"] <= _LISTED:
        parts.append(f"Their places, counted from 0: {', '.join(map(str, features['indices']))}.")
    else:
        parts.append("Their places are in card.json, `features.indices`.")
    return parts


def _accuracy_rows(card: dict[str, Any]) -> list[list[str]]:
    rows = []
    for split, row in card["accuracy"].items():
        values = (row["before"], row["after"])
        cells = ["-" if value is None else f"{100 * value:.2f} %" for value in values]
        rows.append([split, f"{row['samples']:,}", *cells])
    return rows


def _size_rows(card: dict[str, Any]) -> list[list[str]]:
    rows = []
    for title, name in (("parameters", "parameters"), ("MACs", "macs"), ("bytes", "bytes")):
        rows.append([title, f"{card[name]['before']:,}", f"{card[name]['after']:,}"])
    for row in card["latency"]:
        title = f"ms, batch {row['batch_size']}, {row['device']}"
        rows.append([title, f"{row['before']:.3f}", f"{row['after']:.3f}"])
    return rows


def _group_rows(card: dict[str, Any]) -> list[list[str]]:
    groups = card["pruning"]["groups"].items()
    return [[name, f"{count['left']:,}", f"{count['total']:,}"] for name, count in groups]


def _tensor_rows(tree: Any, name: str, flat: bool) -> list[list[str]]:
    """A row for each tensor of nested ones, as `ewnprune.export.calling.described` gives them."""
    if isinstance(tree, dict) and isinstance(tree.get("dtype"), str):
        return [[name, ", ".join(map(str, tree["shape"])), tree["dtype"]]]
    if isinstance(tree, list):
        parts = {f"{name}_{i}" if flat else f"{name}[{i}]": part for i, part in enumerate(tree)}
    elif isinstance(tree, dict):
        parts = {key if flat else f"{name}[{key!r}]": part for key, part in tree.items()}
    else:
        return [[name, "", str(tree)]]
    return [row for key, part in parts.items() for row in _tensor_rows(part, key, flat)]


def _table(head: tuple[str, ...], rows: list[list[str]]) -> str:
    lines = [list(head), ["---"] * len(head), *([_text(cell) for cell in row] for row in rows)]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def _text(value: object) -> str:
    r"""Somebody else's text, so that Markdown shows it letter by letter, on one line.

    >>> print(_text("a|b_c\n# <d>"))
    a\|b\_c \# &lt;d&gt;
    """
    line = " ".join(str(value).split())
    return re.sub(r"([\\`*_{}\[\]()#+!|~])", r"\\\1", html.escape(line, quote=False))
