"""Norms that are not torch's are known by what they give."""

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from ewnprune.model.normalization import channels_of, normalization_of, shrink_channels


class RootMeanSquare(nn.Module):
    """As Llama has it."""

    def __init__(self, size):
        super().__init__()
        self.weight, self.eps = nn.Parameter(torch.rand(size) + 0.5), 1e-6

    def forward(self, x):
        wide = x.float()
        return self.weight * (wide * (wide.square().mean(-1, True) + self.eps).rsqrt()).to(x.dtype)


class OnePlus(RootMeanSquare):
    """As Gemma has it."""

    def forward(self, x):
        return F.rms_norm(x, (len(self.weight),)) * (1 + self.weight)


class Kept(RootMeanSquare):
    """It keeps its width, under names of its own."""

    def __init__(self, size):
        super().__init__(size)
        self.dim, self.sizes = size, (size,)

    def forward(self, x):
        return x / (x.norm(dim=-1, keepdim=True) * self.dim**-0.5) * self.weight.view(self.sizes)


class Centred(RootMeanSquare):
    def __init__(self, size):
        super().__init__(size)
        self.shift = nn.Parameter(torch.randn(size))

    def forward(self, x):
        return F.layer_norm(x, x.shape[-1:], self.weight, self.shift)


class Rooted(RootMeanSquare):
    """It keeps the root of its width: without some channels it gives others than the norm would."""

    def __init__(self, size):
        super().__init__(size)
        self.scale = size**0.5

    def forward(self, x):
        return F.normalize(x, dim=-1) * self.scale * self.weight


class Scaled(RootMeanSquare):
    def forward(self, x):
        return x * self.weight


class Bounded(RootMeanSquare):
    def forward(self, x):
        return x.tanh() * self.weight


class Shared(RootMeanSquare):
    def forward(self, x):
        return x.softmax(-1) * self.weight


class Pairs(RootMeanSquare):
    def forward(self, x, y):
        return F.rms_norm(x, x.shape[-1:]) + y


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16])
@pytest.mark.parametrize("kind", [RootMeanSquare, OnePlus, Kept, Centred])
def test_a_norm_is_seen_and_loses_channels(kind, dtype):
    norm = kind(12).to(dtype)
    record = normalization_of(norm)
    assert (record.dim, record.across, channels_of(norm)) == (-1, True, 12)
    keep = torch.arange(12) % 3 > 0
    small, weight = kind(12).to(dtype), norm.weight.detach()[keep]
    small.load_state_dict(norm.state_dict())
    shrink_channels(small, keep)
    assert small.weight.equal(weight) and channels_of(small) == 8
    x = torch.randn(3, 5, 8, dtype=dtype)
    if kind is Centred:
        expected = F.layer_norm(x, (8,), weight, norm.shift.detach()[keep])
    else:
        expected = F.rms_norm(x, (8,), weight + 1 if kind is OnePlus else weight)
    tolerance = {"rtol": 1e-4, "atol": 1e-5} if dtype != torch.bfloat16 else {}
    torch.testing.assert_close(small(x), expected, **tolerance)


def test_one_that_is_another_norm_without_some_channels_cannot_be_masked():
    record = normalization_of(Rooted(12))
    assert (record.dim, record.across) == (None, True)


@pytest.mark.parametrize("kind", [Scaled, Bounded, Shared, Pairs])
def test_what_is_no_norm_is_none(kind):
    assert normalization_of(kind(12)) is None


def test_one_without_values_is_not_run():
    assert normalization_of(RootMeanSquare(12).to("meta")) is None


def test_measuring_leaves_a_module_as_it_is():
    norm = Kept(12)
    before = {name: value for name, value in vars(norm).items() if not name.startswith("_")}
    weight, state = norm.weight, torch.get_rng_state()
    normalization_of(norm)
    assert norm.weight is weight and weight.requires_grad
    assert {name: vars(norm)[name] for name in before} == before
    assert torch.get_rng_state().equal(state)
