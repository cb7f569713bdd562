"""The step in weight space against its formula, and what float32 keeps of small steps."""

import pytest
import torch
from torch import nn
from toys.references import weight_space_step_reference

from ewnprune import EWN, EWNSGD, SWN, SWNSGD
from ewnprune.training.steps import change, squares_after, weight_space_step

METHODS = ["EWN", "SWN"]


def _gradients(seed):
    """Of quadratic losses, one for each neuron, with a minimum away from the origin."""
    generator, neurons, inputs = torch.Generator().manual_seed(seed), 8, 6

    def normal(*shape):
        return torch.randn(shape, generator=generator, dtype=torch.float64)

    root, target = normal(neurons, inputs, inputs), normal(neurons, inputs)
    curvature = root @ root.mT / inputs
    w, n = normal(neurons, inputs) / 2, normal(neurons, 1).exp()
    return w, n, lambda w: ((w - target).unsqueeze(1) @ curvature).squeeze(1)


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("weight_decay", [0.0, 0.1])
@pytest.mark.parametrize("seed", range(4))
def test_each_step_is_its_reference(method, weight_decay, seed):
    w, n, gradient = _gradients(seed)
    for _ in range(300):
        g = gradient(w)
        ww, wg, gg = (x.sum(1, keepdim=True) for x in (w * w, w * g, g * g))
        kappa, move, more = change(ww, wg, gg, n, 0.01, weight_decay, method)
        expected, grown = weight_space_step_reference(w, g, n, 0.01, method, weight_decay)
        size = expected.norm(dim=1, keepdim=True)
        assert ((w + (kappa * w - move * g) - expected) / size).abs().max() < 3e-14
        torch.testing.assert_close(n + n * more, grown, rtol=3e-14, atol=0)
        if not weight_decay:
            after = squares_after(ww, wg, 0.01, method)
            torch.testing.assert_close(after, size.square(), rtol=3e-14, atol=0)
            fast, _ = weight_space_step(w, g, n, 0.01, method)
            assert ((fast - expected) / size).abs().max() < 3e-14
        w, n = expected, grown


STEPS, LR, SQUARED_NORM = 6_000, 1e-6, 1.2


def _small_steps(dtype):
    """Weights, and gradients of a thousand steps with ``-LR * w.g`` of 3e-8 in the mean."""
    generator = torch.Generator().manual_seed(0)
    w = torch.randn(64, 16, generator=generator, dtype=torch.float64)
    w *= torch.linspace(0.8, 1.7, 64, dtype=torch.float64)[:, None] / w.norm(dim=1, keepdim=True)
    along = w / w.square().sum(1, keepdim=True)
    across = torch.randn(1000, 64, 16, generator=generator, dtype=torch.float64)
    across -= (across * w).sum(-1, keepdim=True) * along
    # some batches push a neuron back, as in training
    push = 3e-8 + 1e-7 * torch.randn(1000, 64, 1, generator=generator, dtype=torch.float64)
    return w.to(dtype), (across - push / LR * along).to(dtype).unbind()


def _growth(before, after):
    return (after.detach().double().norm(dim=1) / before.double().norm(dim=1)).log().mean().item()


@pytest.mark.parametrize(
    ("kind", "optimizer", "method"),
    [(EWN, EWNSGD, "EWN"), pytest.param(SWN, SWNSGD, "SWN", marks=pytest.mark.slow)],
)
def test_float32_keeps_the_growth_of_small_steps(kind, optimizer, method):
    w, gradients = _small_steps(torch.float64)
    moved, n = w, torch.full((64, 1), SQUARED_NORM, dtype=torch.float64)
    for k in range(STEPS):
        moved, n = weight_space_step_reference(moved, gradients[k % 1000], n, LR, method)
    expected = _growth(w, moved)
    assert 1e-4 < expected < 1e-3

    w, gradients = _small_steps(torch.float32)
    p = nn.Parameter(w.clone())
    descent = optimizer([p], lr=LR)
    descent.state[p]["n"] = torch.full((64, 1), SQUARED_NORM)
    for k in range(STEPS):
        p.grad = gradients[k % 1000]
        descent.step()
    assert _growth(w, p) == pytest.approx(expected, rel=0.01)

    parametrization = kind(dim=0)
    s, v = parametrization.right_inverse(w)
    s, v = s.requires_grad_(), (v * SQUARED_NORM**0.5).requires_grad_()
    for k in range(STEPS):
        of_s, of_v = torch.autograd.grad(parametrization(s, v), (s, v), gradients[k % 1000])
        with torch.no_grad():
            s.sub_(of_s, alpha=LR)
            v.sub_(of_v, alpha=LR)
    assert _growth(w, parametrization(s, v)) == pytest.approx(expected, rel=0.01)
