"""Every point of a curve is of the network that can be taken away."""

import pytest
import torch
from torch import nn
from torch.nn import functional as F
from toys.networks import (
    PointNet,
    Recurrent,
    Transformer,
    UNet,
    chain,
    convnext,
    densenet,
    group_norm,
    make,
    resnet18,
    separate_vit,
    vit,
)

from ewnprune import remove_with_notes, sparsity_curve
from ewnprune.model.layers import num_neurons, select_layers
from ewnprune.model.size import count_macs

NETWORKS = [chain, densenet, convnext, vit, UNet, group_norm, PointNet]
OPTIONS = {"layer": {}, "global": {"scope": "global"}}
ROUNDED = {"round_to": {"round_to": 4}}
HEADS = {"heads": {"heads": "whole"}, "dims": {"heads": "dims"}}
LEVELS = (0, 0.3, 0.6)


@pytest.mark.parametrize(
    ("build", "options"),
    [
        *((build, options) for build in [*NETWORKS, Transformer, Recurrent] for options in OPTIONS),
        *((build, "round_to") for build in (chain, densenet)),
        pytest.param(resnet18, "layer", marks=pytest.mark.slow),
        *((build, options) for build in [Transformer, separate_vit] for options in HEADS),
    ],
)  # fmt: skip
def test_points_have_the_sizes_and_the_loss_of_the_network_that_removal_builds(build, options):
    network, x = make(build, samples=6)
    options = (OPTIONS | ROUNDED | HEADS)[options]
    targets = network(x).argmax(1).roll(1, 0)
    batches = [(x[:4], targets[:4]), (x[4:], targets[4:])]
    if build in (vit, separate_vit):  # where attention cannot be cut, all on its stream stays
        options = options | {"exclude": "conv_proj"}
    curve = sparsity_curve(network, batches, LEVELS, "norm_product", **options)
    chosen = select_layers(network, exclude=options.get("exclude"), recurrent=True).chosen
    assert {note.kind for note in curve.notes} <= {"removed", "stays", "left"}
    for point in curve:
        removal = remove_with_notes(network, point.sparsity, x[:2], score="norm_product", **options)
        small = removal.model
        with torch.no_grad():
            outputs = small(x)
            macs, _ = count_macs(small, lambda model, inputs: model(inputs), x[:1])
        assert point.parameters.left == sum(p.numel() for p in small.parameters())
        assert point.macs.left == macs
        assert point.neurons.left == sum(num_neurons(small.get_submodule(n)) for n in chosen)
        assert point.loss == pytest.approx(F.cross_entropy(outputs, targets).item(), rel=1e-9)
        assert point.correct == int((outputs.argmax(1) == targets).sum())
        if point.sparsity:
            assert point.parameters.left < point.parameters.total
            assert any(left < size for left, size in removal.left.values())


def test_one_residual_addition_by_hand():
    """Masks of zeros in each maker's own output, and what is built, are one network now."""
    torch.manual_seed(0)

    class Added(nn.Module):
        def __init__(self):
            super().__init__()
            self.first, self.norm = nn.Conv2d(3, 16, 3, padding=1), nn.BatchNorm2d(16)
            self.second, self.head = nn.Conv2d(16, 16, 3, padding=1), nn.Linear(16, 4)

        def forward(self, x):
            x = self.norm(self.first(x)).relu()
            return self.head((x + self.second(x)).mean((2, 3)))

    network, x, y = Added().eval(), torch.randn(200, 3, 8, 8), torch.randint(4, (200,))
    _, point = sparsity_curve(network, [(x, y)], (0, 0.25), "norm")
    rows = [
        network.first.weight.flatten(1).norm(dim=1),
        network.second.weight.flatten(1).norm(dim=1),
    ]
    kept = torch.stack(rows).mean(0).argsort()[4:].sort().values
    with torch.no_grad():
        hidden = network.norm(network.first(x)).relu()[:, kept]
        second = F.conv2d(
            hidden, network.second.weight[kept][:, kept], network.second.bias[kept], padding=1
        )
        outputs = (hidden + second).mean((2, 3)) @ network.head.weight[:, kept].T
        expected = F.cross_entropy(outputs + network.head.bias, y).item()
    assert point.loss == pytest.approx(expected, rel=1e-6)
    sizes = {"first": 12 * 28, "norm": 24, "second": 12 * (12 * 9 + 1), "head": 4 * 13}
    assert point.parameters.left == sum(sizes.values())
    assert point.neurons.left == 24
