"""What a module is decides, and not the name of its class: subclasses of torch's own layers."""

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from ewnprune import remove_neurons, remove_with_notes, sparsity_curve


class BatchNormAct2d(nn.BatchNorm2d):
    """A BatchNorm that activates too, as timm's does."""

    def __init__(self, channels, act):
        super().__init__(channels)
        self.drop, self.act = nn.Identity(), act
        self.register_buffer("times", torch.ones(1))

    def forward(self, x):
        x = F.batch_norm(
            x, self.running_mean, self.running_var, self.weight, self.bias, False, 0.1, self.eps
        )
        return self.act(self.drop(x)) * self.times


class Whitening(nn.BatchNorm2d):
    """A BatchNorm by its class, which reads across channels all the same."""

    def forward(self, x):
        x = super().forward(x)
        return x - x.mean(1, keepdim=True)


class Named(nn.Conv2d):
    pass


class Standardized(nn.Conv2d):
    """Computes with another weight than it has, behind torch's own forward."""

    def _conv_forward(self, x, weight, bias):
        return super()._conv_forward(x, weight - weight.mean((1, 2, 3), keepdim=True), bias)


def _net(norm, conv=nn.Conv2d):
    torch.manual_seed(0)
    net = nn.Sequential(
        conv(2, 6, 3), norm, conv(6, 4, 3), nn.ReLU(), nn.Flatten(), nn.Linear(16, 3)
    ).double()
    for module in net.modules():
        if isinstance(module, nn.BatchNorm2d):
            nn.init.normal_(module.running_mean)
            nn.init.normal_(module.weight)
            nn.init.normal_(module.bias)
    return net.eval()


class Residual(nn.Module):
    """Coupled layers behind such a norm."""

    def __init__(self, norm):
        super().__init__()
        self.first, self.norm = nn.Conv2d(2, 6, 3, padding=1), norm
        self.second, self.head = nn.Conv2d(6, 6, 3, padding=1), nn.Linear(6, 3)

    def forward(self, x):
        x = self.norm(self.first(x))
        return self.head((x + self.second(x)).mean((2, 3)))


X = torch.randn(3, 2, 6, 6, dtype=torch.float64, generator=torch.Generator().manual_seed(1))


@pytest.mark.parametrize("act", [nn.ReLU(), nn.SiLU(), nn.Sigmoid()])
def test_a_norm_that_activates_is_followed_in_a_chain(act):
    net = _net(BatchNormAct2d(6, act))
    small = remove_neurons(net, indices={"0": [0, 4]}, example_input=X)
    assert small[1].num_features == 4 and small[1].times.shape == (1,)
    # by hand: channels are kept apart, so what stays gives what it gave
    stays = [1, 2, 3, 5]
    hidden = net[1](net[0](X))[:, stays]
    torch.testing.assert_close(small[1](small[0](X)), hidden)
    expected = F.conv2d(hidden, net[2].weight[:, stays], net[2].bias)
    torch.testing.assert_close(small(X), net[3:](expected))


def test_a_norm_that_activates_is_followed_where_layers_are_coupled():
    torch.manual_seed(0)
    net = Residual(BatchNormAct2d(6, nn.SiLU())).double().eval()
    small = remove_neurons(net, 0.5, X)
    assert small.first.out_channels == small.second.out_channels == small.norm.num_features == 3


@pytest.mark.parametrize("build", [_net, Residual])
def test_one_that_reads_across_channels_is_not_believed(build):
    net = build(Whitening(6)).double().eval()
    layer = "0" if build is _net else "first"
    (note,) = (n for n in _notes(net) if str(n).startswith(layer))
    assert note.kind == "masked"
    with pytest.raises(ValueError, match=f"'{layer}'"):
        remove_neurons(net, 0.5, X)


def _notes(net):
    return sparsity_curve(net, [(X, torch.arange(3))], (0, 0.5)).notes


def test_a_subclass_that_adds_nothing_is_its_parent():
    net, named = _net(nn.BatchNorm2d(6)), _net(nn.BatchNorm2d(6), Named)
    expected = remove_neurons(net, 0.5, X).state_dict()
    torch.testing.assert_close(remove_neurons(named, 0.5, X).state_dict(), expected)


def test_a_convolution_with_its_own_inner_forward_is_tried_before_it_is_believed():
    net = _net(nn.BatchNorm2d(6), Standardized)
    # the second standardizes over what the first gives: without some of that it is another layer
    with pytest.raises(ValueError, match=r"'0' .*does not give what the masked one gives"):
        remove_neurons(net, 0.5, X)
    small = remove_neurons(net, 0.5, X, exclude="0")
    assert small[2].out_channels == 2


def test_a_forward_put_on_one_module_is_not_taken_for_torchs():
    net = _net(nn.BatchNorm2d(6))
    net[3].forward = lambda x: x - x.mean(1, keepdim=True)
    with pytest.raises(ValueError, match="'2'"):
        remove_neurons(net, 0.5, X)


class Doubling(nn.Linear):
    def forward(self, x):
        return 2 * super().forward(x)


class CallsByName(nn.Module):
    def __init__(self):
        super().__init__()
        self.first, self.own, self.same = nn.Linear(3, 8), Doubling(8, 8), nn.Linear(8, 8)
        self.head = nn.Linear(8, 2)

    def forward(self, x):
        x = self.own(x=self.first(x).relu())
        return self.head(x + self.same(x))


def test_a_layer_called_by_a_name_of_its_own_is_no_error():
    network = CallsByName().double().eval()
    x = torch.randn(4, 3, dtype=torch.float64)
    small = remove_neurons(network, 0.5, x, layers=["own", "same"])
    assert (small.own.out_features, small.same.out_features) == (4, 4)
    assert remove_with_notes(network, 0.5, x, layers=["own", "same"]).difference < 1e-14
