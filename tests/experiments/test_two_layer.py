"""Steps written by hand beside the same steps by autograd in float64."""

import pytest
import torch
from toys.references import step_reference

from ewnprune.experiments.mnist_stack import Stack, _step
from ewnprune.experiments.two_layer import Descent, TwoLayer

METHODS = ["EWN", "SWN", "none"]
BATCH, STEPS, LR = 32, 40, 0.02


def _start(digits, dtype):
    generator = torch.Generator().manual_seed(3)

    def normal(*shape):
        return torch.randn(shape, generator=generator, dtype=torch.float64).to(dtype)

    net = TwoLayer(normal(12, 784) / 28, normal(12) / 10, normal(10, 12) / 3)
    return digits(STEPS * BATCH, dtype), net, normal(12, 1).exp()


def _stack(methods, net, n, lr):
    """The same network by each method, its summed loss divided by exp(3)."""
    stack = Stack.of(methods, [net] * len(methods))
    stack.n.copy_(n)
    stack.lr.fill_(lr)
    stack.log_scale.fill_(3.0)
    stack.squares.copy_(stack.net.weight.square().sum(-1, keepdim=True))
    return stack


def _batches(data):
    return zip(data.x.split(BATCH), data.y.split(BATCH), strict=True)


def _close(found, expected, start, tolerance):
    """Parameters that moved, and moved alike."""
    for mine, other, old in zip(found, expected, start, strict=True):
        assert (other - old).norm() > 1e-2 * old.norm()
        assert (mine - other).norm() < tolerance * (other - old).norm()


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float64, 1e-12), (torch.float32, 1e-4)])
def test_descent_walks_beside_the_reference(digits, method, dtype, tolerance):
    data, start, n = _start(digits, dtype)
    net, beside = TwoLayer(*(p.clone() for p in start)), (start, n)
    descent = Descent(method, net, n.clone(), LR)
    for x, y in _batches(data):
        assert descent.step(x, y, 3.0)
        beside = step_reference(method, *beside, LR, x, y, 3.0)
    _close(net, beside[0], start, tolerance)
    torch.testing.assert_close(descent.n.double(), beside[1], rtol=tolerance, atol=0)


@pytest.mark.parametrize("stacked", [False, True])
@pytest.mark.parametrize("method", ["EWN", "SWN"])
def test_float32_keeps_the_growth_of_small_steps(digits, method, stacked):
    data, start, n = _start(digits, torch.float32)
    lr, beside = 3e-6, (start, n)  # a step changes a norm by 9e-8 of itself
    net = TwoLayer(*(p.clone() for p in start))
    descent = Descent(method, net, n.clone(), lr)
    stack = _stack([method], net, n, lr)
    for k, (x, y) in enumerate([*_batches(data)] * 3):
        if stacked:
            k %= STEPS
            _step(stack, *data, torch.arange(BATCH * k, BATCH * (k + 1)).expand(1, -1))
        else:
            descent.step(x, y, 3.0)
        beside = step_reference(method, *beside, lr, x, y, 3.0)
    before = start.weight.double().norm(dim=1)
    found = stack.net.weight[0] if stacked else net.weight
    growth, expected = ((w.double().norm(dim=1) / before).log() for w in (found, beside[0].weight))
    assert expected.norm() > 1e-6
    assert (growth - expected).norm() < 0.01 * expected.norm()


@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float64, 1e-12), (torch.float32, 1e-4)])
def test_a_stack_walks_beside_the_reference(digits, dtype, tolerance):
    data, start, n = _start(digits, dtype)
    stack = _stack(METHODS, start, n, LR)
    beside = [(start, n)] * 3
    for k, (x, y) in enumerate(_batches(data)):
        _step(stack, *data, torch.arange(BATCH * k, BATCH * (k + 1)).expand(3, -1))
        beside = [
            step_reference(method, *one, LR, x, y, 3.0)
            for method, one in zip(METHODS, beside, strict=True)
        ]
    for place, (net, grown) in enumerate(beside):
        *parts, found = stack.tensors(place)
        _close(parts, net, start, tolerance)
        torch.testing.assert_close(found.double(), grown, rtol=tolerance, atol=0)
    squares = stack.net.weight[:2].square().sum(-1, keepdim=True)  # not kept of plain runs
    torch.testing.assert_close(stack.squares[:2], squares, rtol=tolerance, atol=0)
