"""Batches in any nesting: moved, copied and cut, whatever they are nested in."""

from collections import UserDict, namedtuple
from dataclasses import dataclass
from typing import Any

import pytest
import torch
from torch import nn
from torch._subclasses import FakeTensorMode

from ewnprune import remove_neurons, sparsity_curve
from ewnprune.model.tensors import (
    clone,
    first_samples,
    precision_of,
    repeated,
    tensors_in,
    to_device,
)

Named = namedtuple("Named", ["x", "scale"])


class Encoding(UserDict):
    """As transformers' ``BatchEncoding``: a dictionary of its own, and more."""

    def __init__(self, data, encodings=None):
        super().__init__(data)
        self.encodings = encodings

    def __getattr__(self, name):
        return self.data[name]


class Output(dict):
    """A dictionary with attributes."""

    __getattr__ = dict.__getitem__


@dataclass(frozen=True)
class Frozen:
    x: torch.Tensor
    scale: torch.Tensor
    label: str = "name"
    inner: Any = None


KINDS = {
    "named tuple": Named,
    "encoding": lambda x, scale: Encoding({"x": x, "scale": scale}, encodings="kept"),
    "dictionary's subclass": lambda x, scale: Output(x=x, scale=scale),
    "dataclass": lambda x, scale: Frozen(x, scale, "kept"),
}


@pytest.mark.parametrize("kind", KINDS)
def test_a_batch_is_moved_copied_and_cut(kind):
    x, scale = torch.arange(6.0).view(3, 2), torch.tensor(2.0)
    batch = KINDS[kind](x, scale)
    moved = to_device(batch, "meta")
    assert type(moved) is type(batch) and moved.x.is_meta and moved.scale.is_meta
    assert batch.x is x  # left as it was
    copied = clone(batch)
    copied.x.zero_()
    assert x[2, 1] == 5 and copied.scale is not scale
    cut = first_samples(batch, 2)
    assert cut.x.shape == (2, 2) and cut.scale == 2  # which belongs to all samples
    assert repeated(first_samples(batch, 1), 2).x.tolist() == [[0, 1], [0, 1]]
    kept = {"encoding": "encodings", "dataclass": "label"}.get(kind)
    assert kept is None or getattr(copied, kept) == "kept"


def test_nests_within_nests():
    tree = [
        Frozen(torch.ones(1), torch.ones(2), inner={"deep": Encoding({"y": torch.ones(3)})}),
        "a",
    ]
    assert [len(tensor) for tensor in tensors_in(tree)] == [1, 2, 3]
    assert clone(tree)[0].inner["deep"].y is not tree[0].inner["deep"].y


def _packed(sizes=(4, 2)):
    return nn.utils.rnn.pack_sequence([torch.ones(size, 8) for size in sizes])


def test_packed_sequences_keep_their_sizes_on_the_cpu():
    packed = _packed()
    moved = to_device({"x": packed, "y": torch.zeros(2)}, "meta")["x"]
    assert type(moved) is type(packed) and moved.data.is_meta
    assert moved.batch_sizes is packed.batch_sizes and moved.sorted_indices is None
    copied = clone([packed])[0]
    copied.data.zero_()
    assert packed.data.all() and len(tensors_in(packed)) == 2
    alone = _packed([3])
    assert first_samples(alone).data is alone.data  # whose samples cannot be told from its steps


class Sequences(nn.Module):
    def __init__(self):
        super().__init__()
        self.rnn, self.head = nn.GRU(8, 6), nn.Linear(6, 3)

    def forward(self, packed):
        return self.head(self.rnn(packed)[1][-1])


@pytest.mark.parametrize("realize", ["mask", "remove"])
def test_sweeps_and_removal_take_packed_sequences(realize):
    torch.manual_seed(0)
    net, packed, y = Sequences(), _packed(), torch.tensor([0, 1])
    curve = sparsity_curve(net, [(packed, y)], (0, 0.5), realize=realize, latency_seconds=1e-3)
    assert all("batch of 1," not in note.text for note in curve.notes)
    small = remove_neurons(net, 0.5, packed)
    losses = [nn.functional.cross_entropy(each(packed), y).item() for each in (net, small)]
    assert [point.loss for point in curve] == pytest.approx(losses) and small.rnn.hidden_size == 3


class Net(nn.Module):
    def __init__(self):
        super().__init__()
        self.first, self.last = nn.Linear(2, 8), nn.Linear(8, 3)

    def forward(self, batch):
        hidden = self.first(batch.x * batch.scale)
        return self.last(nn.functional.relu(hidden, inplace=True))


@pytest.mark.parametrize("kind", KINDS)
def test_sweeps_and_removal_take_them(kind):
    torch.manual_seed(0)
    net, x, y = Net(), torch.randn(12, 2), torch.arange(12) % 3
    batch = KINDS[kind](x, torch.tensor(2.0))
    curve = sparsity_curve(net, [(batch, y)], (0, 0.5), realize="remove", latency_seconds=0.01)
    small = remove_neurons(net, 0.5, batch)
    for point, network in zip(curve, (net, small), strict=True):
        assert point.correct == int((network(batch).argmax(1) == y).sum())


def test_float32_on_a_gpu_is_as_precise_as_tf32_unless_that_is_off():
    with FakeTensorMode():
        values = torch.ones(2, device="cuda")
    assert precision_of(values) == 2**-10
    assert precision_of(values.double()) == torch.finfo(torch.float64).eps
    assert precision_of(torch.ones(2)) == torch.finfo(torch.float32).eps
    cudnn = (torch.backends.cudnn.conv, torch.backends.cudnn.rnn)
    before = [kind.fp32_precision for kind in cudnn]
    try:
        for kind in cudnn:
            kind.fp32_precision = "ieee"
        assert precision_of(values) == torch.finfo(torch.float32).eps
    finally:
        for kind, precision in zip(cudnn, before, strict=True):
            kind.fp32_precision = precision
