"""The proximal step of a penalty, on the lengths of neurons and of inputs."""

from copy import deepcopy

import numpy as np
import pytest
import torch
from torch import nn

from ewnprune import EWN, SWN, reparametrize
from ewnprune.model.layers import neuron_rows
from ewnprune.recipes.group_lasso import GroupLasso
from ewnprune.recipes.log_sum_penalty import LogSumPenalty
from ewnprune.recipes.proximal import shorten


@pytest.mark.parametrize(
    "layer", [nn.Linear(6, 5), nn.Conv2d(2, 6, 3), nn.ConvTranspose2d(4, 6, 3, groups=2)]
)
def test_the_proximal_step_is_the_minimiser(layer):
    """prox(w) minimises ||x - w||^2 / 2 + threshold ||x||: no other point near it does better."""
    layer = deepcopy(layer).double()
    before = torch.cat([neuron_rows(layer), layer.bias[:, None]], 1).detach().clone()
    norms = before.norm(dim=1).sort().values
    threshold = float(norms[1] + norms[2]) / 2  # between two, for one equal to it may go either way
    shorten(layer, lambda r: GroupLasso(1).shortened(r, threshold))
    after = torch.cat([neuron_rows(layer), layer.bias[:, None]], 1).detach()

    def cost(x):
        return (x - before).square().sum(1) / 2 + threshold * x.norm(dim=1)

    generator = torch.Generator().manual_seed(1)
    for size in (1e-3, 1e-1, 1.0):
        other = after + size * torch.randn(after.shape, generator=generator, dtype=torch.float64)
        assert (cost(other) >= cost(after)).all()
    zero = before.norm(dim=1) <= threshold
    assert zero.any()
    assert not zero.all()
    assert (after[zero] == 0).all()  # exactly


@pytest.mark.parametrize("strength", [1e-7, 1e-4, 0.02, 0.3])  # below epsilon squared and above
def test_the_log_sum_step_is_the_minimiser(strength):
    """Against the least of (x - r)^2 / 2 + t log(x + epsilon) over a fine grid, in float64."""
    penalty = LogSumPenalty(1, epsilon=0.01)
    lengths = torch.linspace(0, 2, 81, dtype=torch.float64)
    new = lengths * penalty.shortened(lengths, strength)
    for r, x in zip(lengths.tolist(), new.tolist(), strict=True):
        grid = np.linspace(0, r, 20_001)
        costs = (grid - r) ** 2 / 2 + strength * np.log(grid + 0.01)
        cost = (x - r) ** 2 / 2 + strength * np.log(x + 0.01)
        assert cost <= costs.min() + 1e-12
        assert abs(x - grid[costs.argmin()]) <= 2e-4 or abs(cost - costs.min()) < 1e-9
    if strength > 1e-4:
        assert 1 < (new == 0).sum() < 81


@pytest.mark.parametrize("kind", [EWN, SWN])
@pytest.mark.parametrize("layer", [nn.Linear(6, 5), nn.ConvTranspose2d(4, 6, 3, groups=2)])
def test_under_weight_normalization_the_step_on_the_weights_is_the_same(kind, layer):
    plain, attached = deepcopy(layer), deepcopy(layer)
    reparametrize(nn.Sequential(attached), kind(), layers="0")
    parts = attached.parametrizations["weight"]
    with torch.no_grad():
        parts.original1.mul_(1.7)  # whose length stays
        if kind is SWN:
            parts.original0[0].neg_()
            plain.weight.copy_(attached.weight)
    v = parts.original1.clone()
    norms = plain.weight.detach().norm(), plain.bias.norm()
    for one in (plain, attached):
        shorten(one, lambda r: GroupLasso(1).shortened(r, float(norms[0]) / len(layer.bias)))
    torch.testing.assert_close(attached.weight, plain.weight, rtol=1e-5, atol=1e-7)
    torch.testing.assert_close(attached.bias, plain.bias)
    assert torch.equal(parts.original1, v)


@pytest.mark.parametrize(
    ("kind", "layer"),
    [
        (EWN(inputs=True), nn.Linear(6, 5)),
        (EWN(inputs=True), nn.Linear(6, 6)),  # as many as there are biases
        (SWN(dim=1), nn.Linear(6, 5)),
        (SWN(dim=-1), nn.Linear(6, 6)),
        (EWN(inputs=True), nn.Conv1d(3, 4, 2)),
        (EWN(inputs=True), nn.ConvTranspose1d(3, 4, 2)),
    ],
)
def test_a_length_that_is_of_no_neuron_is_shortened_without_a_bias(kind, layer):
    layer = deepcopy(layer)
    dim = 0 if isinstance(layer, nn.ConvTranspose1d) else 1
    weight, bias = layer.weight.detach().clone(), layer.bias.detach().clone()
    reparametrize(nn.Sequential(layer, nn.ReLU()), kind, layers="0")
    others = [d for d in range(weight.dim()) if d != dim]
    lengths = weight.norm(dim=others, keepdim=True)
    threshold = float(lengths.flatten().sort().values[1])  # the second goes too, or nearly
    shorten(layer, lambda r: GroupLasso(1).shortened(r, threshold))
    expected = weight * (1 - threshold / lengths).clamp_min(0)
    torch.testing.assert_close(layer.weight.detach(), expected, rtol=1e-5, atol=1e-6)
    assert torch.equal(layer.bias, bias)
