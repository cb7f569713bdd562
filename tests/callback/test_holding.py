"""Masks that are held while a network trains, without Lightning."""

import numpy as np
import pytest
import torch
from torch import nn

import ewnprune
from ewnprune import (
    EWN,
    EWNSGD,
    SWN,
    SWNSGD,
)
from ewnprune.callback.holding import hold_at_zero, pruning_masks, set_to_zero
from ewnprune.pruning.removal import remove_neurons


def _mlp():
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(6, 10), nn.ReLU(), nn.Linear(10, 3)).double()


def _conv():
    torch.manual_seed(0)
    return nn.Sequential(
        nn.Conv2d(1, 8, 3), nn.BatchNorm2d(8), nn.ReLU(), nn.Conv2d(8, 6, 3),
        nn.BatchNorm2d(6, affine=False), nn.ReLU(), nn.Flatten(), nn.Linear(6 * 16, 3),
    ).double()  # fmt: skip


def _batch(network, n=16, seed=0):
    generator = torch.Generator().manual_seed(seed)
    shape = (n, 6) if isinstance(network[0], nn.Linear) else (n, 1, 8, 8)
    x = torch.randn(*shape, generator=generator, dtype=torch.float64)
    return x, torch.randint(3, (n,), generator=generator)


def _step(network, optimizer, seed, clip=None):
    x, y = _batch(network, seed=seed)
    optimizer.zero_grad()
    nn.functional.cross_entropy(network(x), y).backward()
    if clip is not None:
        nn.utils.clip_grad_norm_(network.parameters(), clip)
    optimizer.step()


def test_masks_are_what_mask_neurons_zeroes_and_nothing_else():
    network = _mlp()
    with torch.no_grad():
        network[0].bias.zero_()  # zeros of its own are no mask
        network[2].weight[0, 3] = 0
    norms = network[0].weight.norm(dim=1).detach().numpy()
    gone = np.argsort(norms)[:8]
    masks = pruning_masks(network, 0.8, _batch(network)[0])
    assert sorted(masks) == ["0.bias", "0.weight", "2.weight"]
    expected = np.ones(10, bool)
    expected[gone] = False
    np.testing.assert_array_equal(masks["0.bias"], expected)
    np.testing.assert_array_equal(masks["0.weight"], np.repeat(expected[:, None], 6, 1))
    np.testing.assert_array_equal(masks["2.weight"], np.repeat(expected[None], 3, 0))
    weights = pruning_masks(network, 0.5, _batch(network)[0], score="magnitude")
    cut = np.sort(np.abs(network[0].weight.detach().numpy()).ravel())[30]
    np.testing.assert_array_equal(weights["0.weight"], network[0].weight.detach().abs() >= cut)
    assert pruning_masks(network, 0, _batch(network)[0]) == {}


OPTIMIZERS = {
    "momentum": lambda p: torch.optim.SGD(p, 0.1, momentum=0.9, weight_decay=0.1, nesterov=True),
    "Adam": lambda p: torch.optim.Adam(p, 0.02, weight_decay=0.1),
    "AdamW": lambda p: torch.optim.AdamW(p, 0.02, amsgrad=True),
}


@pytest.mark.parametrize("make", [_mlp, _conv], ids=["MLP", "CNN"])
@pytest.mark.parametrize("parametrization", [None, EWN(), SWN()], ids=["plain", "EWN", "SWN"])
@pytest.mark.parametrize("optimizer", OPTIMIZERS)
def test_training_held_is_training_the_smaller_network(optimizer, parametrization, make):
    """The oracle: the network that was made smaller, trained by the same optimizer."""
    network = make()
    x, _ = _batch(network)
    small = remove_neurons(network, 0.5, x)
    masks = pruning_masks(network, 0.5, x)
    if parametrization is not None:  # one layer, so that no row of v loses columns
        ewnprune.reparametrize(network, parametrization, layers="0")
        ewnprune.reparametrize(small, parametrization, layers="0")
    set_to_zero(network, masks)
    trained = OPTIMIZERS[optimizer](network.parameters())
    trained_small = OPTIMIZERS[optimizer](small.parameters())
    handles = hold_at_zero(network, masks, [trained])
    rows = masks["0.bias"]
    for step in range(6):
        _step(network, trained, step, clip=0.5)
        _step(small, trained_small, step, clip=0.5)
        for name, keep in masks.items():
            layer, _, kind = name.rpartition(".")
            tensor = getattr(network.get_submodule(layer), kind)
            assert not tensor[~keep].any(), (step, name)
        torch.testing.assert_close(network[0].weight[rows], small[0].weight)
        torch.testing.assert_close(network[0].bias[rows], small[0].bias)
    torch.testing.assert_close(network.eval()(x), small.eval()(x))
    for handle in handles:
        handle.remove()
    assert not any(parameter._backward_hooks for parameter in network.parameters())


@pytest.mark.parametrize("optimizer", [EWNSGD, SWNSGD])
def test_weight_space_optimizers_keep_zeros(optimizer):
    network = _mlp()
    masks = pruning_masks(network, 0.5, _batch(network)[0])
    set_to_zero(network, masks)
    made = optimizer(ewnprune.neuron_param_groups(network), lr=0.1)
    hold_at_zero(network, masks, [made])
    before = network[0].weight.detach().clone()
    for step in range(3):
        _step(network, made, step)
        assert all(
            not dict(network.named_parameters())[n][~keep].any() for n, keep in masks.items()
        )
    keep = masks["0.weight"]
    assert (network[0].weight[keep] != before[keep]).all()


@pytest.mark.parametrize("parametrization", [EWN(), SWN()], ids=["EWN", "SWN"])
def test_single_weights_of_reparametrized_layers(parametrization):
    network = _mlp()
    x, _ = _batch(network)
    masks = pruning_masks(network, 0.6, x, score="magnitude")
    expected = network[0].weight.detach() * masks["0.weight"]
    ewnprune.reparametrize(network, parametrization, layers="0")
    v = network[0].parametrizations.weight.original1.detach().clone()
    set_to_zero(network, masks)
    torch.testing.assert_close(network[0].weight, expected)
    kept = network[0].parametrizations.weight.original1.detach()
    assert torch.equal(kept, v * masks["0.weight"])  # as long as before, so it learns as fast
    optimizer = torch.optim.Adam(network.parameters(), 0.05)
    hold_at_zero(network, masks, [optimizer])
    for step in range(4):
        _step(network, optimizer, step)
        assert torch.equal(network[0].weight != 0, masks["0.weight"])
