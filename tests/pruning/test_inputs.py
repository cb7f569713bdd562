"""Features of the inputs that go: pixels, columns of a table, channels of a first convolution."""

import warnings
from copy import deepcopy

import numpy as np
import pytest
import torch
from torch import nn
from toys.networks import Skip, in_float64

from ewnprune import Budget, mask_neurons, remove_neurons, remove_with_notes, sparsity_curve


def _mlp():
    layers = (nn.Linear(36, 12), nn.ReLU(), nn.Linear(12, 3))
    return nn.Sequential(nn.Flatten(), *layers), torch.randn(32, 1, 6, 6)


def _cnn():
    convs = (nn.Conv2d(4, 6, 3), nn.BatchNorm2d(6), nn.ReLU(), nn.AdaptiveAvgPool2d(1))
    return nn.Sequential(*convs, nn.Flatten(), nn.Linear(6, 3)), torch.randn(16, 4, 7, 7)


def _skip():
    return Skip(), 3 + torch.randn(20, 10)


class Both(nn.Module):
    """A convolution reads the channels of an image, and a Linear layer all of its numbers."""

    def __init__(self):
        super().__init__()
        self.conv, self.fc = nn.Conv2d(3, 2, 3, padding=1), nn.Linear(48, 4)
        self.head = nn.Linear(2 * 16 + 4, 2)

    def forward(self, x):
        seen = [self.conv(x).relu().flatten(1), self.fc(x.flatten(1)).relu()]
        return self.head(torch.cat(seen, 1))


def _both():
    return Both(), torch.randn(9, 3, 4, 4)


def _words():
    """Features of each word: the last dimension, after a word's place."""
    return nn.Sequential(nn.Linear(6, 5), nn.ReLU(), nn.Linear(5, 2)), torch.randn(8, 4, 6)


def _weights_that_read(network, masks):
    """The network with zeros where first layers read what went, written by hand."""
    network = deepcopy(network)
    for name, keep in masks.items():
        with torch.no_grad():
            network.get_submodule(name).weight[:, ~keep] = 0
    return network


@pytest.mark.parametrize("build", [_mlp, _cnn, _skip, _both, _words])
def test_the_network_that_picks_gives_what_zeros_give(build):
    network, x = in_float64(build)
    before = {key: value.clone() for key, value in network.state_dict().items()}
    removal = remove_with_notes(network, 0.5, x, inputs=True)
    features = removal.inputs
    total = int(np.prod(features.shape))
    assert removal.left == {"inputs": (total - round(0.5 * total), total)}
    keep = torch.zeros(features.shape, dtype=torch.bool)
    keep.view(-1)[list(features.kept)] = True
    masks = {
        "_mlp": {"1": keep.flatten()},
        "_cnn": {"0": keep},
        "_skip": {"long": keep, "short": keep},
        "_both": {"conv": keep, "fc": keep.repeat_interleave(16) if keep.ndim == 1 else keep},
        "_words": {"0": keep},
    }[build.__name__]
    expected = _weights_that_read(network, masks)(x)
    torch.testing.assert_close(removal.model(x), expected, rtol=0, atol=1e-13)
    assert not torch.allclose(removal.model(x), network(x), atol=1e-3)
    assert all(torch.equal(value, before[key]) for key, value in network.state_dict().items())
    masked = deepcopy(network)
    assert mask_neurons(masked, 0.5, x, inputs=True)["inputs"].tolist() == keep.flatten().tolist()
    torch.testing.assert_close(masked(x), expected, rtol=0, atol=1e-13)


@pytest.mark.parametrize("build", [_mlp, _cnn, _skip, _both, _words])
def test_what_went_may_be_anything(build):
    network, x = in_float64(build)
    small = remove_neurons(network, 0.5, x, inputs=True)
    features = remove_with_notes(network, 0.5, x, inputs=True).inputs
    if build is _words:
        gone = [i for i in range(6) if i not in features.kept]
        noisy = x.clone()
        noisy[..., gone] = 1e6
    else:
        noisy = x.clone()
        per_sample = noisy.view(len(x), int(np.prod(features.shape)), -1)
        gone = [i for i in range(per_sample.shape[1]) if i not in features.kept]
        per_sample[:, gone] = 1e6
    assert torch.equal(small(noisy), small(x))


def test_a_repaired_network_has_the_mean_in_the_place_of_what_went():
    network, x = in_float64(_mlp)
    x = x + 2
    small = remove_neurons(network, 0.5, x, inputs=True, repair=x)
    flat = x.flatten(1).clone()
    gone = [i for i in range(36) if i not in small[1].input_index.tolist()]
    flat[:, gone] = flat[:, gone].mean(0)
    torch.testing.assert_close(small(x), network(flat.view_as(x)), rtol=0, atol=1e-12)


def test_neurons_may_go_before_or_after():
    network, x = in_float64(_mlp)
    first = remove_neurons(remove_neurons(network, 0.5, x, inputs=True), 0.5, x)
    assert (first[1].in_features, first[1].out_features, first[3].in_features) == (18, 6, 6)
    second = remove_neurons(remove_neurons(network, 0.5, x), 0.5, x, inputs=True)
    assert (second[1].in_features, second[1].out_features, second[3].in_features) == (18, 6, 6)
    assert first(x).shape == second(x).shape == (32, 3)


def test_features_by_name_multiples_and_budgets():
    network, x = in_float64(_mlp)
    named = remove_with_notes(network, indices={"inputs": [0, 35]}, example_input=x, inputs=True)
    assert named.inputs == ((1, 6, 6), tuple(range(1, 35)))
    rounded = remove_neurons(network, 0.5, x, inputs=True, round_to=8)
    assert rounded[1].in_features == 24
    met = remove_neurons(network, None, x, inputs=True, budget=Budget(macs=0.5))
    assert met[1].in_features == 16  # (36 * 12 + 36) / 2 = 234 = 16 * 12 + 36 + 6
    single = remove_neurons(nn.Linear(6, 2), 0.5, torch.randn(9, 6), inputs=True)
    assert single(torch.randn(4, 6)).shape == (4, 2)


class Named(nn.Linear):
    """A layer of a user's own that computes what torch's does."""

    def twice(self):
        return 2 * self.out_features


def test_scopes_have_their_meaning_for_features():
    network, x = in_float64(_mlp)
    some = remove_with_notes(
        network, 0.5, x, inputs=True, scope="normalized", max_per_layer=0.25
    ).inputs
    assert len(some.kept) == 27
    curve = sparsity_curve(
        network, [(x, torch.zeros(32).long())], (0, 0.5), inputs=True, per_layer=True
    )
    assert [(point.layer, point.unit) for point in curve] == [("inputs", "inputs")] * 2
    half = remove_with_notes(
        network, 0.5, x, inputs=True, scope="sensitivity", sensitivity=curve.sensitivity()
    )
    assert half.inputs == remove_with_notes(network, 0.5, x, inputs=True).inputs


def test_a_layer_of_a_users_own_stays_one():
    network = nn.Sequential(Named(6, 4), nn.ReLU(), nn.Linear(4, 2))
    small = remove_neurons(network, 0.5, torch.randn(8, 6), inputs=True)
    assert isinstance(small[0], Named) and small[0].twice() == 8
    assert type(network[0]) is Named


def test_the_smaller_network_trains_copies_and_scripts():
    network, x = in_float64(_cnn)
    small = remove_neurons(network, 0.5, x, inputs=True)
    expected = small(x)
    assert torch.equal(deepcopy(small)(x), expected)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # that torch.jit is old
        assert torch.equal(torch.jit.script(small)(x), expected)
        assert torch.equal(torch.jit.trace(small, x)(x), expected)
    program = torch.export.export(small, (x,))
    torch.testing.assert_close(program.module()(x), expected)
    small.train()(x).sum().backward()
    assert all(p.grad is not None for p in small.parameters())
    again = deepcopy(small)
    again.load_state_dict(small.state_dict(), strict=True)
