"""The model card, read as a model hub reads it."""

import re

import pytest
import yaml

from ewnprune.export.readme import write_up

NASTY = 'a|b\n---\n# [x](y) <script> `c` *d*: "e"'
CARD = {
    "file": "model.pt2",
    "call": "network(**inputs)",
    "source": {
        "checkpoint": "runs/last.ckpt", "step": 12, "seed": 0, "method": "EWN", "network": "MLP",
    },
    "pruning": {
        "sparsity": 0.9, "score": "norm", "chosen": "as asked for",
        "groups": {"fc1": {"left": 102, "total": 1024}},
    },
    "accuracy": {"val": {"before": 0.982, "after": 0.844, "samples": 5000}},
    "parameters": {"before": 814080, "after": 81090},
    "macs": {"before": 813056, "after": 80988},
    "bytes": {"before": 3274662, "after": 342694},
    "latency": [{"batch_size": 1, "device": "cpu", "before": 0.1, "after": 0.02}],
    "inputs": {"x": {"shape": ["batch", 784], "dtype": "torch.float32"}},
    "outputs": [{"shape": ["batch", 10], "dtype": "torch.float32"}],
    "versions": {"ewnprune": "0.1"},
}  # fmt: skip


def _split(text):
    """Front matter and body, as the Hub's own library finds them (huggingface_hub, repocard.py)."""
    found = re.search(r"^(\s*---[\r\n]+)([\S\s]*?)([\r\n]+---(\r\n|\n|$))", text)
    return yaml.safe_load(found[2]), text[found.end() :]


@pytest.mark.parametrize(
    ("kind", "library"),
    [("torch_export", "pytorch"), ("state_dict", "pytorch"), ("onnx", "onnx")],
)
def test_front_matter_and_sections(kind, library):
    front, body = _split(write_up(CARD, kind))
    assert "by ewnprune 0.1. Nothing" in body and "](" not in body
    assert front == {
        "library_name": library,
        "tags": ["pruning", "structured-pruning", "ewnprune", kind],
        "metrics": ["accuracy"],
    }
    titles = re.findall(r"^#+ (.*)", body, re.MULTILINE)
    assert titles == ["MLP, 90 % of its neurons removed", "Accuracy", "Sizes", "How to load"]
    assert "| val | 5,000 | 98.20 % | 84.40 % |" in body
    assert "| parameters | 814,080 | 81,090 |" in body and "| fc1 | 102 | 1,024 |" in body


def test_the_code_that_loads_is_code():
    for kind in ("torch_export", "state_dict", "safetensors", "onnx"):
        (code,) = re.findall(r"```python\n(.*?)```", write_up(CARD, kind), re.DOTALL)
        compile(code, kind, "exec")
        assert "model.pt2" in code
    assert "network(**inputs)" in write_up(CARD, "torch_export")


def test_names_of_tensors_are_those_that_are_typed():
    assert r"| inputs\['x'\] | batch, 784 | torch.float32 |" in write_up(CARD, "torch_export")
    text = write_up(CARD, "onnx")
    assert "| x | batch, 784 | torch.float32 |" in text
    assert r"| outputs\_0 | batch, 10 | torch.float32 |" in text


def test_what_was_not_measured_is_no_metric():
    card = {**CARD, "accuracy": {"val": {"before": None, "after": None, "samples": 7}}}
    front, body = _split(write_up(card, "onnx"))
    assert "metrics" not in front and "| val | 7 | - | - |" in body


def test_text_of_others_stays_text():
    source = {**CARD["source"], "checkpoint": NASTY, "network": NASTY, "method": NASTY}
    pruning = {**CARD["pruning"], "score": NASTY, "groups": {NASTY: {"left": 1, "total": 2}}}
    plain_front, plain = _split(write_up(CARD, "onnx"))
    front, body = _split(write_up({**CARD, "source": source, "pruning": pruning}, "onnx"))
    assert front == plain_front
    assert "<script>" not in body
    # as many lines, headings and cells as of a card with harmless names
    assert body.count("\n") == plain.count("\n")
    for mark in (r"^#", r"^---", r"(?<!\\)\|", r"(?<!\\)`", r"(?<!\\)\["):
        assert len(re.findall(mark, body, re.M)) == len(re.findall(mark, plain, re.M)), mark
