"""Single weights of layers whose weight is computed from others, or is another's too."""

import pytest
import torch
from torch import nn
from torch.nn.functional import cross_entropy, linear
from torch.nn.utils import parametrizations, prune

from ewnprune import sparsity_curve
from ewnprune.model.size import Count

X, Y = torch.randn(32, 8, generator=torch.Generator().manual_seed(0)), torch.arange(32) % 3


def _network():
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(8, 16), nn.ReLU(), nn.Linear(16, 3))


@pytest.mark.filterwarnings("ignore:.*weight_norm.* is deprecated:FutureWarning")
@pytest.mark.parametrize(
    "attach",
    [
        parametrizations.spectral_norm,
        parametrizations.orthogonal,
        parametrizations.weight_norm,
        nn.utils.weight_norm,
        lambda layer: prune.l1_unstructured(layer, "weight", 0.25),
    ],
    ids=["spectral_norm", "orthogonal", "weight_norm", "older weight_norm", "prune"],
)
def test_weights_computed_from_others_are_masked(attach):
    network = _network()
    attach(network[0])
    network.eval()
    point = [*sparsity_curve(network, [(X, Y)], (0, 0.75), "magnitude")][-1]
    with torch.no_grad():
        weight = network[0].weight.clone()
        weight.flatten()[weight.abs().flatten().argsort(stable=True)[:96]] = 0
        outputs = network[2](linear(X, weight, network[0].bias).relu())
        torch.testing.assert_close(point.loss, float(cross_entropy(outputs, Y)))
    assert point.weights == Count(32, 128)
    kinds = ("parametrizations" in dict(network[0].named_children()), "weight" in vars(network[0]))
    assert any(kinds)  # the model is as it was


@pytest.mark.parametrize("layers", [None, "0"], ids=["both", "one"])
def test_tied_layers_are_left(layers):
    network = nn.Sequential(
        nn.Linear(8, 8), nn.ReLU(), nn.Linear(8, 8), nn.Linear(8, 8), _network()
    )
    network[2].weight = network[0].weight
    layers = None if layers is None else [layers, "3"]
    curve = sparsity_curve(network, [(X, Y)], (0, 0.9), "magnitude", layers=layers, exclude="4.*")
    dense, point = curve
    parameters = dense.parameters.total
    assert dense.weights == Count(64, 64) and point.weights == Count(6, 64)
    assert dense.parameters.left == parameters and point.parameters.left == parameters - 58
    assert "0: left: it shares its weight with 2.weight" in map(str, curve.notes)
    with pytest.raises(ValueError, match=r"expected a layer, not recurrent, whose weight is no"):
        sparsity_curve(network, [(X, Y)], (0, 0.9), "magnitude", layers="0")
