import pytest
import torch
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

from ewnprune.removal import remove_neurons
from ewnprune.repair import remove_and_repair
from ewnprune.sweep import sparsity_curve
from lightning_modules import MLP


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
    small = remove_and_repair(network, 0.5, x[:3], layers="0")
    assert small[0].out_channels == 4 and small[3].bias is not None and network[3].bias is None
    small = remove_and_repair(small, 0.3, x[:3], layers="7")
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
    small = remove_and_repair(network, 0.5, x, score=score, seed=5)
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
        method: sparsity_curve(
            network, data, (0, 0.5), realize=remove, method=method, latency_seconds=0.01
        )
        for method, remove in (("removed", remove_neurons), ("repaired", remove_and_repair))
    }
    assert len((curves["removed"] + curves["repaired"]).series()) == 2
    small = remove_and_repair(network, 0.5, x)
    right = int((small(x).argmax(1) == network(x).argmax(1)).sum())
    assert curves["repaired"].points[1].correct == right


class Residual(nn.Module):
    def __init__(self):
        super().__init__()
        self.first, self.second, self.head = (nn.Linear(4, 4) for _ in range(3))

    def forward(self, x):
        x = self.first(x)
        return self.head(x + self.second(x))


def test_bad_input():
    x = torch.randn(4, 4)
    with pytest.raises(ValueError, match=r"'first' cannot be repaired, since .*exclude='first'"):
        remove_and_repair(Residual(), 0.5, x)
    with pytest.raises(ValueError, match="single weights"):
        remove_and_repair(MLP(4, (8,), 2), 0.5, x, score="magnitude")
    up = nn.Sequential(nn.Conv2d(1, 4, 3), nn.ConvTranspose2d(4, 1, 3))
    with pytest.raises(ValueError, match=r"'1', a transposed convolution, reads '0'"):
        remove_and_repair(up, 0.5, torch.randn(1, 1, 8, 8), layers="0")
