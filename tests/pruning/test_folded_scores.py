"""Scores of layers that a BatchNorm follows, against torch's own fusing of the two."""

import pytest
import torch
from torch import nn
from torch.nn.utils.fusion import fuse_conv_bn_eval, fuse_linear_bn_eval
from toys.networks import make, resnet18

from ewnprune import EWN, remove_neurons, reparametrize
from ewnprune.model.batch_norms import following_batch_norms
from ewnprune.model.copying import plain_network
from ewnprune.model.tracing import call
from ewnprune.pruning.choice import Choice
from ewnprune.pruning.scores import (
    magnitude,
    norm,
    norm_change,
    norm_product,
    norm_with_bias,
    raw_norm,
)


def shown_to_scores(model, inputs, **options):
    shown = {}

    def spy(neurons):
        shown[neurons.layer] = neurons
        return norm(neurons)

    choice = Choice(**options)
    with torch.no_grad():
        found = choice.find(plain_network(model), call, inputs)
        choice.rank(found, "spy", spy)
    return shown


def cnn(bias=False):
    return nn.Sequential(
        nn.Conv2d(3, 6, 3, bias=bias), nn.BatchNorm2d(6), nn.ReLU(), nn.MaxPool2d(2),
        nn.Conv2d(6, 8, 3, bias=bias), nn.BatchNorm2d(8, eps=1e-2), nn.ReLU(), nn.Flatten(),
        nn.Linear(8 * 25, 10, bias=bias), nn.BatchNorm1d(10, affine=False), nn.ReLU(),
        nn.Linear(10, 4),
    )  # fmt: skip


@pytest.mark.parametrize("bias", [False, True])
def test_rows_and_biases_are_those_of_torchs_fused_layers(bias):
    net, _ = make(lambda: cnn(bias))
    net[1].weight.data[2] *= -1  # a factor may be negative
    x = torch.randn(4, 3, 16, 16, dtype=torch.float64)
    shown = shown_to_scores(net, x)
    fused = {
        "0": fuse_conv_bn_eval(net[0], net[1]),
        "4": fuse_conv_bn_eval(net[4], net[5]),
    }
    for name, layer in fused.items():
        rows = layer.weight.detach().flatten(1)
        torch.testing.assert_close(shown[name].rows, rows)
        torch.testing.assert_close(shown[name].bias, layer.bias.detach())
        torch.testing.assert_close(norm(shown[name]), rows.norm(dim=1))
        torch.testing.assert_close(
            norm_with_bias(shown[name]), rows.norm(dim=1).hypot(layer.bias.detach())
        )
        own = net.get_submodule(name).weight.detach().flatten(1)
        assert torch.equal(raw_norm(shown[name]), torch.linalg.vector_norm(own, dim=1))
        assert torch.equal(magnitude(shown[name]), own.abs())
    linear = net[9]
    fused_linear = fuse_linear_bn_eval(net[8], _with_ones(linear))
    torch.testing.assert_close(shown["8"].rows, fused_linear.weight.detach())
    torch.testing.assert_close(shown["8"].bias, fused_linear.bias.detach())


def _with_ones(norm):
    """torch's fusing wants weight and bias."""
    twin = nn.BatchNorm1d(norm.num_features).to(norm.running_mean.dtype).eval()
    twin.load_state_dict({**twin.state_dict(), **norm.state_dict()})
    return twin


def test_outgoing_weights_are_folded_too():
    net, _ = make(cnn)
    shown = shown_to_scores(net, torch.randn(4, 3, 16, 16, dtype=torch.float64))
    reader = fuse_conv_bn_eval(net[4], net[5]).weight.detach()
    outgoing = reader.transpose(0, 1).flatten(1).norm(dim=1)
    torch.testing.assert_close(shown["0"].outgoing.norm(dim=1), outgoing)
    torch.testing.assert_close(norm_product(shown["0"]), norm(shown["0"]) * outgoing)


def test_norms_at_initialisation_are_of_the_layers_own_weights():
    net, _ = make(cnn)
    initial = net[0].weight.detach().flatten(1).norm(dim=1) - 1
    x = torch.randn(4, 3, 16, 16, dtype=torch.float64)
    shown = shown_to_scores(net, x, initial_norms={"0": initial})
    torch.testing.assert_close(norm_change(shown["0"]), torch.ones(6, dtype=torch.float64))


def test_the_length_of_a_filter_has_no_say():
    net, _ = make(cnn)
    x = torch.randn(4, 3, 16, 16, dtype=torch.float64)
    before = shown_to_scores(net, x)
    length = float(raw_norm(before["0"])[0])
    with torch.no_grad():  # the same function: the statistics follow the length
        net[0].weight[0] *= 7
        net[1].running_mean[0] *= 7
        net[1].running_var[0] = net[1].running_var[0] * 49 + net[1].eps * 48
    after = shown_to_scores(net, x)
    torch.testing.assert_close(norm(after["0"]), norm(before["0"]))
    assert raw_norm(after["0"])[0] == pytest.approx(7 * length)


def test_coupled_layers_have_each_their_own_batch_norm():
    net, x = make(resnet18)
    shown = shown_to_scores(net, x)
    for conv, bn in (("conv1", "bn1"), ("layer2.0.conv2", "layer2.0.bn2")):
        fused = fuse_conv_bn_eval(net.get_submodule(conv), net.get_submodule(bn))
        torch.testing.assert_close(shown[conv].rows, fused.weight.detach().flatten(1))


def test_without_running_statistics_there_is_nothing_to_fold():
    net = nn.Sequential(
        nn.Linear(5, 4), nn.BatchNorm1d(4, track_running_stats=False), nn.Linear(4, 2)
    ).eval()
    shown = shown_to_scores(net, torch.randn(8, 5))
    assert torch.equal(shown["0"].rows, net[0].weight)
    assert torch.equal(shown["0"].bias, net[0].bias)


class TwoReaders(nn.Module):
    """Something else reads what the BatchNorm reads, as in ResNets that normalize first."""

    def __init__(self):
        super().__init__()
        self.conv, self.norm = nn.Conv2d(3, 3, 1), nn.BatchNorm2d(3)
        self.last = nn.Conv2d(3, 2, 1)

    def forward(self, x):
        x = self.conv(x)
        return self.last(x + self.norm(x).relu())


class Branches(nn.Module):
    """Cannot be traced itself; its parts can."""

    def __init__(self):
        super().__init__()
        self.block = nn.Sequential(nn.Conv2d(3, 3, 1), nn.BatchNorm2d(3), nn.ReLU())
        self.last = nn.Conv2d(3, 2, 1)

    def forward(self, x):
        return self.last(self.block(x) if x.sum() > 0 else x)


def test_which_batch_norm_is_found():
    assert following_batch_norms(TwoReaders()) == {}
    assert following_batch_norms(Branches()) == {"block.0": "block.1"}
    within = nn.Sequential(Branches(), nn.Linear(2, 3), nn.Flatten(), nn.BatchNorm1d(3))
    assert following_batch_norms(within) == {"0.block.0": "0.block.1"}
    shared = nn.BatchNorm2d(3)
    twice = nn.Sequential(nn.Conv2d(3, 3, 1), shared, nn.Conv2d(3, 3, 1), shared)
    assert following_batch_norms(twice) == {}
    words = nn.Sequential(nn.Linear(4, 5), nn.BatchNorm1d(5))  # over places, not neurons
    shown = shown_to_scores(nn.Sequential(words, nn.Linear(5, 2)).eval(), torch.randn(2, 5, 4))
    assert torch.equal(shown["0.0"].rows, words[0].weight)


def test_the_neurons_that_go_are_those_of_the_lowest_folded_norm():
    net, _ = make(cnn)
    reparametrize(net, EWN())  # the score sees the weights that they have
    x = torch.randn(4, 3, 16, 16, dtype=torch.float64)
    shown = shown_to_scores(net, x)["0"]
    assert (
        shown.rows.norm(dim=1).argsort().tolist() != shown.raw_rows.norm(dim=1).argsort().tolist()
    )
    plain, _ = make(cnn)
    small = remove_neurons(plain, 0.5, x, layers="0")
    kept = fuse_conv_bn_eval(plain[0], plain[1]).weight.flatten(1).norm(dim=1).topk(3).indices
    assert torch.equal(small[0].weight, plain[0].weight[kept.sort().values])
