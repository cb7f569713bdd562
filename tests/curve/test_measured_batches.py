"""What neurons are measured on: batches that stay as they are, of any kind."""

import pytest
import torch
from torch import nn

from ewnprune import measure_neurons, sparsity_curve
from ewnprune.pruning.removal import remove_with_notes

X, Y = torch.randn(8, 4, generator=torch.Generator().manual_seed(0)), torch.arange(8) % 3


def _network(dtype=None):
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(4, 6, dtype=dtype), nn.Linear(6, 3, dtype=dtype))


class Shifted(nn.Module):
    """Writes to what it is given."""

    def __init__(self):
        super().__init__()
        self.layers = _network()

    def forward(self, x):
        x -= 1
        return self.layers(x)


def test_data_are_not_written_to():
    x = X.clone()
    once = measure_neurons(Shifted(), [(x, Y)])
    assert x.equal(X)
    torch.testing.assert_close(once, measure_neurons(Shifted(), [(x, Y)]))


@pytest.mark.parametrize("of", ["data", "network"])
def test_what_was_made_in_inference_mode_is_measured(of):
    expected = measure_neurons(_network(), [(X, Y)])
    with torch.inference_mode():
        inside = _network() if of == "network" else (X.clone(), Y.clone())
    network, batch = (inside, (X, Y)) if of == "network" else (_network(), inside)
    torch.testing.assert_close(measure_neurons(network, [batch]), expected, rtol=0, atol=0)
    if of == "network":
        assert all(parameter.is_inference() for parameter in network.parameters())


def test_an_empty_last_batch_adds_nothing():
    batches = [(X, Y), (X[:0], Y[:0])]
    expected = measure_neurons(_network(), [(X, Y)])
    torch.testing.assert_close(measure_neurons(_network(), batches), expected, rtol=0, atol=0)
    curves = [sparsity_curve(_network(), data, (0, 0.5)) for data in (batches, batches[::-1])]
    assert [point.loss for point in curves[0]] == [point.loss for point in curves[1]]


def test_lazy_layers_are_refused_and_stay_so():
    network = nn.Sequential(nn.LazyLinear(6), nn.Linear(6, 3))
    with pytest.raises(ValueError, match=r"'0.weight' has no values yet \(a lazy layer\)"):
        measure_neurons(network, [(X, Y)])
    assert nn.parameter.is_lazy(network[0].weight)


def test_complex_neurons_go_by_their_lengths():
    network, x = _network(torch.complex128), torch.randn(8, 4, dtype=torch.complex128)
    targets = torch.rand(8, 3, dtype=torch.float64)

    def loss(outputs, targets):
        return (outputs.abs() - targets).square().mean(1)

    found = measure_neurons(network, [(x, targets)], loss_fn=loss)
    with torch.no_grad():
        values = network[0](x)
        torch.testing.assert_close(found["activation"]["0"], values.abs().mean(0))
        slopes = []
        for neuron in range(6):
            less, more = values.clone(), values.clone()
            less[:, neuron] *= 1 - 1e-6
            more[:, neuron] *= 1 + 1e-6
            change = loss(network[1](more), targets) - loss(network[1](less), targets)
            slopes.append((change / 2e-6).abs().mean())
        torch.testing.assert_close(found["taylor"]["0"], torch.stack(slopes), rtol=1e-6, atol=0)


def test_the_difference_of_complex_outputs_is_told():
    network, x = _network(torch.complex64), torch.randn(5, 4, dtype=torch.complex64)
    assert 0 < remove_with_notes(network, 0.5, x).difference < 1e-5
