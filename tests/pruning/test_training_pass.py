"""Branches that run in training only: the smaller network can be trained on, or is refused."""

import copy

import pytest
import torch
from torch import nn
from torchvision import models

from ewnprune import mask_neurons, remove_neurons, sparsity_curve
from ewnprune.pruning.removal import remove_with_notes

X = torch.randn(4, 3, 12, 12, generator=torch.Generator().manual_seed(1))


class Auxiliary(nn.Module):
    """A second head reads the first layer in training."""

    def __init__(self, read=None):
        super().__init__()
        self.first, self.norm = nn.Conv2d(3, 8, 3), nn.BatchNorm2d(8)
        self.second = nn.Conv2d(8, 6, 3)
        self.aux, self.aux_out = nn.Linear(8, 5), nn.Linear(5, 4)
        self.drop, self.head = nn.Dropout(), nn.Linear(6, 4)
        self.read = read

    def forward(self, x):
        x = self.norm(self.first(x)).relu()
        main = self.head(self.drop(self.second(x).relu().mean((2, 3))))
        if not self.training:
            return main
        pooled = x.mean((2, 3))
        aux = self.aux(pooled) if self.read is None else self.read(self, pooled)
        return main, self.aux_out(aux.relu())


def _state(model):
    return copy.deepcopy(model.state_dict())


def test_a_head_that_only_training_calls_loses_what_it_read():
    torch.manual_seed(0)
    net = Auxiliary()
    before, generator = _state(net), torch.get_rng_state()
    removal = remove_with_notes(net, indices={"first": [0, 1, 5]}, example_input=X[:1])
    torch.testing.assert_close(net.state_dict(), before, rtol=0, atol=0)
    assert torch.equal(torch.get_rng_state(), generator)
    small, stays = removal.model, [2, 3, 4, 6, 7]
    assert small.aux.in_features == 5 and small.aux.out_features == 5
    # by hand: the second head of the whole one, without the columns of those that went
    net.train()
    small.train()
    hidden = net.norm(net.first(X)).relu().mean((2, 3))[:, stays]
    aux = nn.functional.linear(hidden, net.aux.weight[:, stays], net.aux.bias)
    torch.testing.assert_close(small(X)[1], net.aux_out(aux.relu()))
    small(X)[0].sum().backward()


def test_heads_of_training_are_told_and_stay_themselves():
    torch.manual_seed(0)
    curve = sparsity_curve(Auxiliary(), [(X, torch.arange(4))], (0, 0.5))
    notes = {str(note).partition(":")[0]: str(note) for note in curve.notes}
    assert "only the training pass calls it" in notes["aux"]
    assert "aux" in notes["first"].partition("read by")[2]
    assert curve.points[1].neurons.total - curve.points[1].neurons.left == 4 + 3


def test_what_cannot_be_followed_in_training_is_refused_by_name():
    def read(net, pooled):
        return net.aux(pooled.view(-1, 2, 4).flip(1).reshape(-1, 8))

    torch.manual_seed(0)
    net = Auxiliary(read)
    with pytest.raises(ValueError, match=r"'first' \(without them it cannot be trained"):
        remove_neurons(net, 0.5, X)
    small = remove_neurons(net, 0.5, X, exclude="first").train()
    assert small.second.out_channels == 3
    small(X)


def test_a_training_pass_that_wants_more_than_inputs_is_told():
    class Detector(nn.Sequential):
        def forward(self, x):
            if self.training:
                raise ValueError("targets should not be none in training")
            return super().forward(x)

    net = Detector(nn.Linear(4, 8), nn.ReLU(), nn.Linear(8, 3))
    curve = sparsity_curve(net, [(torch.randn(4, 4), torch.arange(4) % 3)], (0, 0.5))
    (told,) = (note for note in curve.notes if "training" in str(note))
    assert "targets should not be none" in str(told)
    assert remove_neurons(net, 0.5, torch.randn(4, 4))[0].out_features == 4


class Momentum(nn.Module):
    """In training, parameters are written too: an average of those of other layers."""

    def __init__(self):
        super().__init__()
        self.first, self.head = nn.Linear(4, 8), nn.Linear(8, 3)
        self.slow, self.code = nn.Linear(4, 8), nn.Parameter(torch.ones(5), requires_grad=False)

    @torch.no_grad()
    def average(self):
        self.code.data = self.code.data / 2
        for parameter, average in zip(self.first.parameters(), self.slow.parameters(), strict=True):
            if parameter.shape == average.shape:
                average.mul_(0.9).add_(parameter, alpha=0.1)

    def forward(self, x):
        if self.training:
            self.average()
        return self.head(self.first(x).relu())


@pytest.mark.parametrize("heads", ["keep", "whole"])  # without and with the graph of gradients
@pytest.mark.parametrize(
    "prune",
    [
        lambda net, x, heads: sparsity_curve(
            net, [(x, torch.arange(6) % 3)], (0, 0.5), heads=heads
        ),
        lambda net, x, heads: remove_with_notes(net, 0.5, x, heads=heads),
        lambda net, x, heads: mask_neurons(net, 0, x, heads=heads),
    ],
    ids=["curve", "remove", "mask"],
)
def test_parameters_that_training_writes_stay_as_they_were(prune, heads):
    net = Momentum()
    before = _state(net)
    prune(net, torch.randn(6, 4), heads)
    torch.testing.assert_close(net.state_dict(), before, rtol=0, atol=0)


def test_googlenet_without_neurons_trains():
    torch.manual_seed(0)
    net = models.GoogLeNet(num_classes=5, init_weights=False, aux_logits=True)
    x = torch.randn(2, 3, 64, 64)
    small = remove_neurons(net, 0.5, x).train()
    assert small.aux1.conv.conv.in_channels == 256
    outputs = small(x)
    assert [out.shape for out in outputs] == [(2, 5)] * 3
    sum(out.sum() for out in outputs).backward()
