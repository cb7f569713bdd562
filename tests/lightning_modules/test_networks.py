"""The networks that are shipped: layers, sizes, counts, and how their weights start."""

from __future__ import annotations

import math

import pytest
import torch
from torch import nn
from torchvision.models.resnet import BasicBlock

from ewnprune import remove_neurons
from lightning_modules import CNN, MLP, LeNet5, OneCycle, ResNet20


def test_the_default_is_the_network_of_the_paper():
    network = MLP()
    shapes = {name: tuple(p.shape) for name, p in network.named_parameters()}
    expected = {"fc1.weight": (1024, 784), "fc1.bias": (1024,), "fc2.weight": (10, 1024)}
    assert shapes == expected
    assert [type(layer) for layer in network] == [nn.Flatten, nn.Linear, nn.ReLU, nn.Linear]
    assert network(torch.randn(3, 1, 28, 28)).shape == (3, 10)


def test_lenet_300_100():
    network = MLP(hidden=(300, 100), output_bias=True, hidden_bias=False)
    shapes = [tuple(p.shape) for p in network.parameters()]
    assert shapes == [(300, 784), (100, 300), (10, 100), (10,)]


def multiply_adds(network: nn.Module, size: tuple[int, ...], bias: bool) -> int:
    """Counted layer by layer from the shapes that pass through."""
    total = 0

    def count(layer, _, output):
        nonlocal total
        per_output = layer.weight[0].numel() + (bias and layer.bias is not None)
        total += per_output * output.numel()

    for layer in network.modules():
        if isinstance(layer, nn.Linear | nn.Conv2d):
            layer.register_forward_hook(count)
    assert network.eval()(torch.zeros(1, *size)).shape == (1, 10)
    return total


@pytest.mark.parametrize(("channels", "hidden"), [((20, 50), 500), ((3, 4), 5)])
def test_lenet_5(channels, hidden):
    network = LeNet5(channels, hidden)
    c1, c2 = channels
    # as Louizos, Welling & Kingma (2018) count them
    expected = 26 * 24**2 * c1 + (25 * c1 + 1) * 8**2 * c2 + (16 * c2 + 1) * hidden
    expected += (hidden + 1) * 10
    assert multiply_adds(network, (1, 28, 28), bias=True) == expected
    if hidden == 500:
        assert expected == 2_308_230
        assert sum(p.numel() for p in network.parameters()) == 431_080


def test_resnet_20():
    network = ResNet20()
    # He et al. (2016), section 4.2, has 0.27 million parameters; the shortcuts have 2,752 more
    assert sum(p.numel() for p in network.parameters()) == 269_722 + 2_752
    assert multiply_adds(network, (3, 32, 32), bias=False) == 40_813_184
    # 6 n + 2 layers with weights for n = 3, and the two shortcuts
    layers = [m for m in network.modules() if isinstance(m, nn.Linear | nn.Conv2d)]
    assert len(layers) == 20 + 2


def test_a_block_of_resnet_20_is_that_of_torchvision():
    ours, theirs = ResNet20((4, 6, 6)).stage2[0], BasicBlock(4, 6, 2, nn.Sequential())
    theirs.downsample = ours.shortcut
    states = zip(theirs.state_dict(), ours.state_dict().values(), strict=True)
    theirs.load_state_dict(dict(states))
    x = torch.randn(2, 4, 8, 8)
    torch.testing.assert_close(ours(x), theirs(x))


def test_all_filters_of_resnet_20_can_be_removed():
    small = remove_neurons(ResNet20((4, 6, 8)).eval(), 0.5, example_input=torch.randn(2, 3, 8, 8))
    widths = {m.out_channels for m in small.modules() if isinstance(m, nn.Conv2d)}
    assert widths == {2, 3, 4}


@pytest.mark.parametrize(
    ("network", "message"),
    [
        (lambda: LeNet5((20, 50, 3)), r"channels must be two numbers.*, got \(20, 50, 3\)"),
        (lambda: LeNet5(hidden=0), "hidden must be one or more positive whole numbers, got 0"),
        (lambda: ResNet20(channels=()), r"channels must be one or more positive .*, got \(\)"),
        (lambda: ResNet20(in_channels=0), "in_channels must be one or more positive .*, got 0"),
    ],
)
def test_wrong_sizes_of_others_are_named(network, message):
    with pytest.raises(ValueError, match=message):
        network()


@pytest.mark.parametrize(
    "network", [MLP(hidden=(512,)), CNN(channels=(64, 128)), LeNet5(), ResNet20()]
)
def test_weights_start_as_kaiming_normal_and_biases_at_zero(network):
    """Normal with mean 0 and variance 2 / fan_in (He et al. 2015, equation 10)."""
    for layer in network.modules():
        if isinstance(layer, nn.Linear | nn.Conv2d):
            weight = layer.weight.detach().double()
            n = weight.numel()
            z = weight * math.sqrt(weight[0].numel() / 2)
            # five standard errors of the mean, of the variance and of the fourth moment of a normal
            assert abs(z.mean()) < 5 / math.sqrt(n)
            assert abs(z.var() - 1) < 5 * math.sqrt(2 / n)
            assert abs((z**4).mean() - 3) < 5 * math.sqrt(96 / n)
            assert layer.bias is None or not layer.bias.any()


@pytest.mark.parametrize("kind", [MLP, CNN])
def test_the_global_seed_chooses_the_weights(kind):
    def weights(seed: int) -> torch.Tensor:
        torch.manual_seed(seed)
        return nn.utils.parameters_to_vector(kind().parameters())

    assert torch.equal(weights(0), weights(0))
    assert not torch.equal(weights(0), weights(1))


def test_cnn_layers_and_shapes():
    network = CNN(channels=(4, 6, 8), num_classes=7, in_channels=3, image_size=32)
    block = [nn.Conv2d, nn.BatchNorm2d, nn.ReLU, nn.MaxPool2d]
    assert [type(layer) for layer in network] == [*block * 3, nn.Flatten, nn.Linear]
    assert network(torch.randn(2, 3, 32, 32)).shape == (2, 7)
    assert CNN()(torch.randn(2, 1, 28, 28)).shape == (2, 10)


@pytest.mark.parametrize("network", [MLP(hidden=(8, 8)), CNN(channels=(2, 3))])
def test_networks_are_chains_that_torch_fx_traces(network):
    graph = torch.fx.symbolic_trace(network)
    names = [node.target for node in graph.graph.nodes if node.op == "call_module"]
    assert names == [name for name, _ in network.named_children()]
    x = torch.randn(2, 1, 28, 28)
    assert torch.equal(graph.eval()(x), network.eval()(x))


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: MLP(hidden=()), r"hidden must be one or more positive whole numbers, got \(\)"),
        (lambda: MLP(hidden=(10, 0)), r"hidden must be .* got \(10, 0\)"),
        (lambda: MLP(hidden=(2.5,)), "hidden must be .* got 2.5"),
        (lambda: MLP(in_features=0), "in_features must be .* got 0"),
        (lambda: CNN(channels=()), r"channels must be .* got \(\)"),
        (lambda: CNN(num_classes=-1), "num_classes must be .* got -1"),
        (lambda: CNN(channels=(1,) * 5), "image_size=28 can be halved only 4 times: give fewer"),
        (lambda: OneCycle(torch.optim.SGD([torch.zeros(1)]), pct_start=1), "pct_start must lie"),
    ],
)
def test_wrong_sizes_are_named(make, message):
    with pytest.raises(ValueError, match=message):
        make()
