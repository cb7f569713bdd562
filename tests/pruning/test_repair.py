import pytest
import torch
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

from ewnprune.curve.sweep import sparsity_curve
from ewnprune.pruning.removal import remove_neurons
from lightning_modules import MLP


def _repaired(model, sparsity=None, example_input=None, **options):
    return remove_neurons(model, sparsity, example_input, repair=example_input, **options)


def _constant(layer, neurons):
    """Make some neurons constant: no weights but a bias."""
    with torch.no_grad():
        layer.weight[neurons] = 0
        layer.bias[neurons] = torch.rand(len(neurons), dtype=layer.bias.dtype) + 0.5


def test_neurons_that_are_constant_go_without_a_trace():
    torch.manual_seed(0)
    network = nn.Sequential(
        nn.Conv2d(2, 8, 3), nn.BatchNorm2d(8), nn.ReLU(), nn.Conv2d(8, 6, 3, groups=2, bias=False),
        nn.ReLU(), nn.MaxPool2d(2), nn.Flatten(), nn.Linear(6 * 4, 10), nn.ReLU(), nn.Linear(10, 3),
    ).double().eval()  # fmt: skip
    network[1].running_mean.normal_()
    network[1].running_var.uniform_(0.5, 2)
    _constant(network[0], [0, 3, 4, 7])  # two of each group that reads them
    _constant(network[7], [1, 2, 5])
    x = torch.randn(5, 2, 8, 8, dtype=torch.float64)
    expected = network(x)
    small = _repaired(network, 0.5, x[:3], layers="0")
    assert small[0].out_channels == 4 and small[3].bias is not None and network[3].bias is None
    small = _repaired(small, 0.3, x[:3], layers="7")
    assert small[7].out_features == 7
    torch.testing.assert_close(small(x), expected, rtol=1e-10, atol=1e-10)
    without = remove_neurons(network, 0.5, x, layers="0")
    assert float((without(x) - expected).detach().abs().max()) > 1e-2
    torch.testing.assert_close(network(x), expected, rtol=0, atol=0)


@pytest.mark.parametrize("score", ["norm", "norm_with_bias", "norm_with_bias_product", "random"])
def test_the_mean_outputs_stay_and_the_neurons_are_those_of_remove_neurons(score):
    torch.manual_seed(0)
    network = MLP(6, (12,), 3).double()
    x = torch.randn(40, 6, dtype=torch.float64)
    small = _repaired(network, 0.5, x, score=score, seed=5)
    torch.testing.assert_close(small(x).mean(0), network(x).mean(0))
    plain = remove_neurons(network, 0.5, x, score=score, seed=5)
    assert small.fc1.weight.equal(plain.fc1.weight) and small.fc2.weight.equal(plain.fc2.weight)
    assert not torch.allclose(plain(x).mean(0), network(x).mean(0), atol=1e-3)


def test_a_curve_under_its_own_name():
    torch.manual_seed(0)
    network = MLP(6, (12,), 3)
    x = torch.randn(40, 6)
    data = DataLoader(TensorDataset(x, network(x).argmax(1)), 40)
    curves = {
        word: sparsity_curve(network, data, (0, 0.5), realize=word, latency_seconds=0.01)
        for word in ("remove", "repair")
    }
    assert len((curves["remove"] + curves["repair"]).series()) == 2
    small = _repaired(network, 0.5, x)
    right = int((small(x).argmax(1) == network(x).argmax(1)).sum())
    assert curves["repair"].points[1].correct == right


class Residual(nn.Module):
    """Convolutions added, concatenated, normalized, gated, with groups and without biases."""

    def __init__(self):
        super().__init__()
        self.first, self.second = nn.Conv2d(2, 6, 3, padding=1), nn.Conv2d(6, 6, 3, padding=1)
        self.norm = nn.BatchNorm2d(6)
        self.gate = nn.Linear(6, 6)
        self.up = nn.ConvTranspose2d(6, 4, 2, stride=2, bias=False)
        self.low = nn.Conv2d(10, 6, 3, stride=2, padding=2, padding_mode="reflect", bias=False)
        self.depth = nn.Conv2d(6, 6, 3, groups=6)
        self.mix = nn.Conv2d(6, 8, 2, groups=2)
        self.head = nn.Linear(8, 3)

    def forward(self, x):
        x = self.first(x).relu()
        x = x + self.norm(self.second(x)).relu()
        x = x * self.gate(x.mean((2, 3))).sigmoid()[:, :, None, None]
        x = self.low(torch.cat([self.up(x[:, :, ::2, ::2]).relu(), x], 1)).relu()
        return self.head(self.mix(self.depth(x).relu()).relu().mean((2, 3)))


def _residual():
    torch.manual_seed(0)
    network = Residual().double().eval()
    network.norm.running_mean.normal_()
    nn.init.normal_(network.norm.bias)
    return network, torch.randn(5, 2, 8, 8, dtype=torch.float64)


def _inputs(network, name, x):
    seen = []
    handle = network.get_submodule(name).register_forward_pre_hook(
        lambda _, args: seen.extend(args)
    )
    network(x)
    handle.remove()
    return seen[0].detach()


@pytest.mark.parametrize("layer", ["first", "up", "low", "mix"])
def test_biases_get_the_mean_of_what_is_lost_by_brute_force(layer):
    """With one input channel after the other set to zero, in each layer that reads it."""
    network, x = _residual()
    gone = [1, 4] if layer in ("low", "mix") else [1, 2]
    indices = {layer: gone}
    small = _repaired(network, example_input=x, indices=indices)
    plain = remove_neurons(network, indices=indices, example_input=x)
    readers = {  # by name, which of its inputs go
        "first": {"second": gone, "gate": gone, "up": gone, "low": [4 + i for i in gone]},
        "up": {"low": gone},
        "low": {"mix": gone},
        "mix": {"head": gone},
    }[layer]
    for name, module in network.named_modules():
        if not isinstance(module, nn.Linear | nn.Conv2d | nn.ConvTranspose2d):
            continue
        repaired, other = small.get_submodule(name), plain.get_submodule(name)
        assert repaired.weight.equal(other.weight)
        if name not in readers:
            assert (repaired.bias is None) == (other.bias is None)
            assert other.bias is None or repaired.bias.equal(other.bias)
            continue
        inputs = _inputs(network, name, x)
        without = inputs.clone()
        for i in readers[name]:
            without.select(-1 if isinstance(module, nn.Linear) else 1, i).zero_()
        lost = (module(inputs) - module(without)).detach()
        added = lost.mean(0) if lost.ndim == 2 else lost.mean((0, 2, 3))
        kept = [i for i in range(len(added)) if name not in ("second", "gate") or i not in gone]
        before = 0 if other.bias is None else other.bias
        torch.testing.assert_close(repaired.bias.detach(), (before + added[kept]).detach())
        # the outputs come nearest to the dense ones, in mean square, with this bias
        shape = (-1,) if lost.ndim == 2 else (-1, 1, 1)
        best = (lost - added.view(shape)).square().mean()
        assert best < (lost - (added + 1e-3).view(shape)).square().mean()
        assert best < (lost - (added - 1e-3).view(shape)).square().mean()


def test_a_repaired_residual_network_is_nearer_to_the_dense_one():
    network, x = _residual()
    dense = network(x)
    errors = {_repaired: 0.0, remove_neurons: 0.0}
    for seed in range(6):
        for remove in errors:
            small = remove(network, 0.3, x, score="random", seed=seed)
            assert small.first.out_channels == 4
            errors[remove] += float((small(x) - dense).detach().square().mean())
    assert errors[_repaired] < 0.7 * errors[remove_neurons]


def test_sums_of_half_precision_do_not_overflow():
    network = nn.Sequential(nn.Linear(1, 4), nn.ReLU(), nn.Linear(4, 2)).half()
    for parameter in network.parameters():
        nn.init.ones_(parameter)
    x = torch.ones(8, 20000, 1).half()  # each neuron gives 2, which is 320,000 in all
    small = remove_neurons(network, 0.5, x[:1, :4], repair=x)
    assert small[2].bias.tolist() == [1 + 2 * 2] * 2 and small[2].bias.dtype == torch.float16


def test_what_only_training_calls_is_left_as_it_is():
    class Auxiliary(nn.Module):
        def __init__(self):
            super().__init__()
            self.first, self.head, self.aux = nn.Linear(4, 8), nn.Linear(8, 3), nn.Linear(8, 2)

        def forward(self, x):
            x = self.first(x).relu()
            return (self.head(x), self.aux(x)) if self.training else self.head(x)

    network, x = Auxiliary(), torch.randn(6, 4)
    small = _repaired(network, 0.5, x, layers="first")
    plain = remove_neurons(network, 0.5, x, layers="first")
    assert small.aux.in_features == 4 and small.aux.bias.equal(plain.aux.bias)
    torch.testing.assert_close(small.eval()(x).mean(0), network.eval()(x).mean(0))


class Normed(nn.Module):
    def __init__(self):
        super().__init__()
        self.first, self.norm, self.second = nn.Linear(4, 4), nn.LayerNorm(4), nn.Linear(4, 4)
        self.head = nn.Linear(4, 2)

    def forward(self, x):
        x = self.first(x)
        return self.head(self.norm(x + self.second(x)))


def test_bad_input():
    x = torch.randn(4, 4)
    with pytest.raises(
        ValueError, match=r"'first', 'second' cannot be repaired, since a norm reads acr"
    ):
        _repaired(Normed(), 0.5, x)
    with pytest.raises(ValueError, match="single weights"):
        _repaired(MLP(4, (8,), 2), 0.5, x, score="magnitude")
