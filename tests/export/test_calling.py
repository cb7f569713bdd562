"""Files of networks that take and give more than one tensor, read where nothing is installed."""

import subprocess
import sys
from collections import OrderedDict, namedtuple
from dataclasses import dataclass

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from ewnprune.export.calling import Calling, plain
from ewnprune.export.formats import find_format

Pair = namedtuple("Pair", "scores hidden")


@dataclass
class Output:
    scores: Tensor
    hidden: Tensor | None = None
    cache: Tensor | None = None


class Two(nn.Module):
    """Two inputs, by name; what it gives is for `make` to say."""

    def __init__(self, make):
        super().__init__()
        self.left, self.right, self.head = nn.Linear(4, 8), nn.Linear(3, 8), nn.Linear(8, 2)
        self.make = make

    def forward(self, left, right):
        hidden = torch.relu(self.left(left) + self.right(right))
        return self.make(self.head(hidden), hidden)


class OfDict(Two):
    def forward(self, inputs):
        return super().forward(inputs["left"], inputs["right"])


class OfTuple(Two):
    def forward(self, pair):
        return super().forward(*pair)


def spread(model, inputs):
    return model(**inputs)


def in_order(model, inputs):
    return model(*inputs)


def scores_only(model, inputs):
    return model(**inputs).scores


def first(scores, hidden):
    return scores


DICT = {"left": torch.randn(5, 4), "right": torch.randn(5, 3)}
TUPLE = tuple(DICT.values())
# the class, what it makes, inputs, forward, the call a user types
CASES = {
    "a dict": (OfDict, first, DICT, None, "network(x)"),
    "a tuple": (OfTuple, first, TUPLE, None, "network(x)"),
    "a tuple spread": (Two, first, TUPLE, in_order, "network(*x)"),
    "keyword arguments": (Two, first, DICT, spread, "network(**x)"),
    "a dataclass": (Two, Output, DICT, spread, "network(**x)"),
    "a dataclass of a dict": (OfDict, Output, DICT, None, "network(x)"),
    "one of its fields": (Two, Output, DICT, scores_only, "network(**x)"),
    "a namedtuple": (Two, Pair, DICT, spread, "network(**x)"),
    "a mapping": (Two, lambda s, h: OrderedDict(scores=s, hidden=h), DICT, spread, "network(**x)"),
    "a list": (Two, lambda s, h: [s, h], TUPLE, in_order, "network(*x)"),
}
TORCH = """
import sys, torch
from pathlib import Path
folder = Path(sys.argv[1])
for case, call in {calls}.items():
    path = folder / (case + ".pt2")
    network = torch.export.load(path).module()
    x = torch.load(path.with_suffix(".x"), weights_only=True)
    torch.save(eval(call), path.with_suffix(".y"))
"""
ONNX = """
import sys, numpy, onnxruntime
from pathlib import Path
for path in Path(sys.argv[1]).glob("*.onnx"):
    session = onnxruntime.InferenceSession(path)
    x = dict(numpy.load(path.with_suffix(".npz")))
    names = [output.name for output in session.get_outputs()]
    numpy.savez(str(path) + ".npz", **dict(zip(names, session.run(names, x))))
assert "torch" not in sys.modules
"""
NOTHING_ELSE = """
found = {name.partition(".")[0] for name in sys.modules}
assert not found & {"ewnprune", "lightning_modules", "pytorch_lightning", "lightning"}, found
"""


def _calling(case):
    torch.manual_seed(0)
    kind, make, inputs, forward, call = CASES[case]
    network = kind(make).eval()
    return Calling(network, inputs, **({"forward": forward} if forward else {})), call


def _elsewhere(code, path):
    """Run code in a Python that knows nothing of this project's folder or environment."""
    words = [sys.executable, "-I", "-W", "ignore", "-c", code + NOTHING_ELSE, str(path)]
    done = subprocess.run(words, capture_output=True, text=True, cwd=path)
    assert done.returncode == 0, done.stderr


def _other_batch(inputs, samples):
    torch.manual_seed(1)
    if isinstance(inputs, dict):
        return {name: torch.randn(samples, *x.shape[1:]) for name, x in inputs.items()}
    return tuple(torch.randn(samples, *x.shape[1:]) for x in inputs)


def _equal(outputs, expected):
    """In the same containers, of no class of ours."""
    assert type(outputs) is type(expected)
    if isinstance(expected, dict):
        assert outputs.keys() == expected.keys()
        outputs, expected = list(outputs.values()), list(expected.values())
    if isinstance(expected, list | tuple):
        assert len(outputs) == len(expected)
        for one, other in zip(outputs, expected, strict=True):
            _equal(one, other)
    else:
        torch.testing.assert_close(outputs, expected)


def _by_hand(case, calling, x):
    """What the file is to give, without what is tested here."""
    left, right = x.values() if isinstance(x, dict) else x
    network = calling.network
    with torch.no_grad():
        hidden = torch.relu(network.left(left) + network.right(right))
        scores = network.head(hidden)
    both = {"scores": scores, "hidden": hidden}
    return {
        "a dataclass": both,
        "a dataclass of a dict": both,
        "a mapping": both,
        "a namedtuple": (scores, hidden),
        "a list": [scores, hidden],
    }.get(case, scores)


def test_torch_export_is_read_with_torch_alone(tmp_path):
    calls, expected = {}, {}
    for case in CASES:
        calling, call = _calling(case)
        assert f"network({calling.as_typed()})".replace("inputs", "x") == call
        calls[case] = call
        find_format("torch_export").write(calling, tmp_path / f"{case}.pt2")
        x = _other_batch(calling.inputs, 7)
        torch.save(x, tmp_path / f"{case}.x")
        expected[case] = _by_hand(case, calling, x)
    _elsewhere(TORCH.format(calls=calls), tmp_path)
    for case, outputs in expected.items():
        _equal(torch.load(tmp_path / f"{case}.y", weights_only=True), outputs)


def test_onnx_is_read_with_onnxruntime_alone(tmp_path):
    expected = {}
    for case in ("a dict", "a tuple", "keyword arguments", "a dataclass", "a list"):
        calling, _ = _calling(case)
        find_format("onnx").write(calling, tmp_path / f"{case}.onnx")
        x = _other_batch(calling.inputs, 7)
        parts = x if isinstance(x, dict) else {f"inputs_{i}": part for i, part in enumerate(x)}
        np.savez(tmp_path / f"{case}.npz", **{name: part.numpy() for name, part in parts.items()})
        outputs = _by_hand(case, calling, x)
        if isinstance(outputs, list):
            outputs = {f"outputs_{place}": part for place, part in enumerate(outputs)}
        expected[case] = outputs if isinstance(outputs, dict) else {"outputs": outputs}
    _elsewhere(ONNX, tmp_path)
    for case, outputs in expected.items():
        found = np.load(tmp_path / f"{case}.onnx.npz")
        _equal({name: torch.from_numpy(value) for name, value in found.items()}, outputs)


def test_weights_are_read_with_their_package_alone(tmp_path):
    calling, _ = _calling("a dataclass")
    for name in ("state_dict", "safetensors"):
        kind = find_format(name)
        kind.write(calling, tmp_path / kind.file)
    code = """
import sys, torch
from safetensors.torch import load_file
one = torch.load(sys.argv[1] + "/model.pt", weights_only=True)
two = load_file(sys.argv[1] + "/model.safetensors")
torch.save([one, two], sys.argv[1] + "/both.pt")
"""
    _elsewhere(code, tmp_path)
    for found in torch.load(tmp_path / "both.pt", weights_only=True):
        _equal(dict(sorted(found.items())), dict(sorted(calling.network.state_dict().items())))


@pytest.mark.parametrize(
    ("name", "case"),
    [
        ("torch_export", "a tuple spread"),
        ("torch_export", "a dataclass"),
        ("onnx", "a dataclass"),
        ("state_dict", "a dataclass"),
        ("safetensors", "a dict"),
    ],
)
def test_a_file_read_back_takes_a_batchs_inputs(name, case, tmp_path):
    calling, _ = _calling(case)
    kind = find_format(name)
    kind.write(calling, tmp_path / kind.file)
    loaded, x = kind.read(tmp_path / kind.file, calling), _other_batch(calling.inputs, 3)
    with torch.no_grad():
        _equal(loaded(x), _by_hand(case, calling, x))


def test_onnx_has_no_names_for_what_is_nested(tmp_path):
    class Nested(nn.Linear):
        def forward(self, inputs):
            return super().forward(inputs["a"]["b"])

    calling = Calling(Nested(4, 2).eval(), {"a": {"b": torch.randn(3, 4)}})
    with pytest.raises(ValueError, match="'a' of the inputs is a dict: expected tensors"):
        find_format("onnx").write(calling, tmp_path / "model.onnx")
    assert not list(tmp_path.iterdir())
    find_format("torch_export").write(calling, tmp_path / "model.pt2")
    loaded = torch.export.load(tmp_path / "model.pt2").module()
    x = torch.randn(6, 4)
    torch.testing.assert_close(loaded({"a": {"b": x}}), calling.network({"a": {"b": x}}))


def test_inputs_without_a_common_batch_are_told(tmp_path):
    calling, _ = _calling("a dict")
    odd = Calling(calling.network, {**DICT, "right": torch.randn(1, 3)})
    with pytest.raises(
        ValueError, match=r"\(5, 4\), \(1, 3\): expected all to begin with the same"
    ):
        find_format("torch_export").write(odd, tmp_path / "model.pt2")


def test_containers_become_plain_ones():
    made = plain([OrderedDict(a=None, b=(1,)), Output(2), Pair(3, Output(4, 5))])
    assert made == [{"b": (1,)}, {"scores": 2}, (3, {"scores": 4, "hidden": 5})]
    assert [type(made[0]), type(made[2])] == [dict, tuple]
