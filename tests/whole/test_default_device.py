"""Networks on the CPU where torch makes tensors elsewhere unless told: all is as it is without."""

import pytest
import torch
from torch import nn
from toys.networks import Recurrent, Skip, Transformer, UNet, in_float64, make

from ewnprune import (
    EWN,
    fold,
    fold_state_dict,
    mask_neurons,
    measure_neurons,
    reparametrize,
    sparsity_curve,
)
from ewnprune.pruning.removal import remove_with_notes


def _points(curve):
    return [(point.loss, point.macs.left, point.parameters.left) for point in curve]


def _network(build):
    if build is Skip:
        return in_float64(lambda: (Skip(), torch.randn(6, 10)))
    return make(build, samples=6)


def _found(network, x, options, default):
    """Tensors and numbers of all that pruning does, but for what is random in torch itself."""
    y = network(x).argmax(1)
    with torch.device(default):
        measured = measure_neurons(network, [(x, y)])
        scores = ["norm", "norm_product", "norm_shuffled", "random"]
        scores += [] if options.get("inputs") else ["magnitude"]
        if type(network) in (UNet, Transformer):
            scores += [*measured]
            options = {**options, "measured": measured}
        found = _points(sparsity_curve(network, [(x, y)], (0, 0.5), scores, seed=1, **options))
        options |= {"recalibrate": [(x, y)]} if type(network) is UNet else {}
        removal = remove_with_notes(network, 0.5, x, score="random", seed=1, **options)
        mask_neurons(network, 0.5, x, score="norm")
        reparametrize(network, EWN())
        plain = fold_state_dict(network.state_dict())
        fold(network)
    states = [*removal.model.state_dict().values(), *network.state_dict().values()]
    return [*found, removal.difference, *states, *plain.values()]


@pytest.mark.parametrize(
    ("build", "options"),
    [
        (UNet, {"round_to": 2}),
        (Transformer, {"heads": "whole"}),
        (Recurrent, {}),
        (Skip, {"inputs": True}),
    ],
    ids=["convolutions", "attention", "recurrent", "inputs"],
)
def test_another_default_device_changes_nothing(build, options):
    expected = _found(*_network(build), options, "cpu")
    found = _found(*_network(build), options, "meta")
    torch.testing.assert_close(found, expected, rtol=0, atol=0)


def test_a_model_without_values_is_refused():
    with torch.device("meta"):
        network = nn.Sequential(nn.Linear(3, 4), nn.Linear(4, 2))
    with pytest.raises(ValueError, match=r"'0.weight' is on the meta device and has no values"):
        remove_with_notes(network, 0.5, torch.ones(2, 3))
