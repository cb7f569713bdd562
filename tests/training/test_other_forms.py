"""Weights of other forms than a scale times a direction: D-Gating and powerpropagation."""

import copy

import numpy as np
import pytest
import torch
from torch import nn

from ewnprune import (
    EWN,
    DGating,
    Powerpropagation,
    attached_parametrizations,
    fold,
    fold_state_dict,
    reparametrize,
)
from ewnprune.callback.holding import hold_at_zero, set_to_zero
from ewnprune.training.relations import gradient_rows

FORMS = [
    DGating(2), DGating(4), Powerpropagation(3), Powerpropagation(1),
    Powerpropagation(1.5, per_neuron=True),
]  # fmt: skip
LAYERS = [nn.Linear(7, 5), nn.Conv2d(4, 6, 3, groups=2), nn.ConvTranspose2d(4, 6, 3, groups=2)]


def _net():
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(4, 6), nn.ReLU(), nn.Linear(6, 2)).double()


def _changed(model):
    """As after training: factors that are not balanced."""
    generator = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for parameter in model.parameters():
            noise = torch.rand(parameter.shape, generator=generator, dtype=torch.double)
            parameter.mul_(0.5 + noise.to(parameter.dtype))
    return model


@pytest.mark.parametrize("form", FORMS, ids=str)
@pytest.mark.parametrize("layer", LAYERS, ids=lambda layer: type(layer).__name__)
def test_weights_go_in_and_come_out_as_they_were(form, layer):
    model = nn.Sequential(copy.deepcopy(layer))
    with torch.no_grad():
        layer.weight[0, 0] = model[0].weight[0, 0] = 0
    reparametrize(model, form, layers="0")
    torch.testing.assert_close(model[0].weight, layer.weight)
    _changed(model)
    during = model[0].weight.detach().clone()
    found = fold_state_dict(model.state_dict())
    assert list(found) == ["0.weight", "0.bias"]
    torch.testing.assert_close(found["0.weight"], during, rtol=0, atol=0)
    fold(model)
    torch.testing.assert_close(model[0].weight, during, rtol=0, atol=0)
    assert isinstance(model[0].weight, nn.Parameter)


@pytest.mark.parametrize("form", FORMS, ids=str)
def test_state_dicts_of_any_form_load(form):
    plain = _net()
    ours, again, ewn = (copy.deepcopy(plain) for _ in range(3))
    reparametrize(ours, form)
    reparametrize(again, form)
    _changed(ours)
    again.load_state_dict(ours.state_dict())  # bit for bit, not by way of the weight
    for a, b in zip(ours.parameters(), again.parameters(), strict=True):
        assert torch.equal(a, b)
    reparametrize(ewn, EWN())
    ewn.load_state_dict(ours.state_dict())
    torch.testing.assert_close(ewn[0].weight, ours[0].weight)
    again.load_state_dict(reparametrized_state(plain, EWN()))
    torch.testing.assert_close(again[0].weight, plain[0].weight)
    again.load_state_dict(plain.state_dict())
    torch.testing.assert_close(again[0].weight, plain[0].weight)


def reparametrized_state(plain, form):
    model = copy.deepcopy(plain)
    reparametrize(model, form)
    return model.state_dict()


def test_options_are_part_of_the_form():
    model = _net()
    reparametrize(model, DGating(2))
    model.load_state_dict(reparametrized_state(_net(), DGating(4)))
    torch.testing.assert_close(model[0].weight, _net()[0].weight)


def test_marks_of_others_are_not_guessed_at():
    state = reparametrized_state(_net(), EWN())
    state["0.parametrizations.weight.0._extra_state"] = torch.tensor(7)
    with pytest.raises(ValueError, match="layer '0' of the state dict has a parametrization that"):
        fold_state_dict(state)


@pytest.mark.parametrize("form", FORMS, ids=str)
def test_what_is_pruned_stays_zero(form):
    model = _net()
    reparametrize(model, form)
    _changed(model)
    before = model[0].weight.detach().clone()
    keep = torch.ones_like(before, dtype=torch.bool)
    keep[1], keep[2, 3] = False, False
    set_to_zero(model, {"0.weight": keep})
    torch.testing.assert_close(model[0].weight, before * keep)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9)
    hold_at_zero(model, {"0.weight": keep}, [optimizer])
    for step in range(5):
        generator = torch.Generator().manual_seed(step)
        optimizer.zero_grad()
        model(torch.randn(8, 4, generator=generator, dtype=torch.double)).square().mean().backward()
        optimizer.step()
    after = model[0].weight
    assert torch.equal(after != 0, keep)
    assert not torch.allclose(after, before * keep)


@pytest.mark.parametrize("depth", [2, 3, 4])
def test_a_step_of_d_gating_is_that_of_its_formula(depth):
    """By hand in NumPy: dL/domega = (prod gamma) g, dL/dgamma_d = (prod of the others) omega.g."""
    model = _net()
    plain = model[0].weight.detach().numpy().copy()
    reparametrize(model, DGating(depth))
    parts = model[0].parametrizations.weight
    lengths = np.sqrt((plain**2).sum(1))
    np.testing.assert_allclose(parts.original1.detach().norm(dim=1), lengths ** (1 / depth))
    np.testing.assert_allclose(parts.original0.detach()[..., 0].T, lengths[:, None] ** (1 / depth) *
                               np.ones(depth - 1))  # fmt: skip
    _changed(model)
    gates = parts.original0.detach().numpy()[..., 0].copy()  # (D - 1, neurons)
    omega = parts.original1.detach().numpy().copy()
    x = torch.randn(8, 4, generator=torch.Generator().manual_seed(2), dtype=torch.double)
    with torch.nn.utils.parametrize.cached():
        model[0].weight.retain_grad()
        model(x).square().sum().backward()
        g = model[0].weight.grad.numpy().copy()
    torch.optim.SGD(parts.parameters(), lr=0.01).step()
    product = gates.prod(0)
    expected_omega = omega - 0.01 * product[:, None] * g
    inner = (omega * g).sum(1)
    expected_gates = gates - 0.01 * np.stack(
        [np.delete(gates, d, axis=0).prod(0) * inner for d in range(depth - 1)]
    )
    np.testing.assert_allclose(parts.original1.detach().numpy(), expected_omega)
    np.testing.assert_allclose(parts.original0.detach().numpy()[..., 0], expected_gates)


@pytest.mark.parametrize("exponent", [1.5, 2, 4])
def test_gradients_of_powerpropagation_are_scaled(exponent):
    generator = torch.Generator().manual_seed(3)
    v, g = torch.randn(2, 3, 4, generator=generator, dtype=torch.double)
    v[0], v[1, 1] = 0, 0
    each = v.clone().requires_grad_()
    (Powerpropagation(exponent, dim=0)(each) * g).sum().backward()
    scale = exponent * np.abs(v.numpy()) ** (exponent - 1)
    np.testing.assert_allclose(each.grad, scale * g.numpy())

    rows = v.clone().requires_grad_()
    (Powerpropagation(exponent, per_neuron=True, dim=0)(rows) * g).sum().backward()
    for row, slope, found in zip(v.numpy(), g.numpy(), rows.grad.numpy(), strict=True):
        r = np.sqrt((row**2).sum())
        direction = row / r if r else row
        matrix = r ** (exponent - 1) * (np.eye(4) + (exponent - 1) * np.outer(direction, direction))
        np.testing.assert_allclose(found, matrix @ slope, atol=1e-14)


@pytest.mark.parametrize(
    ("form", "power", "along"),
    [
        (DGating(2, dim=0), 1.0, 2.0),
        (DGating(4, dim=0), 1.5, 4.0),
        (DGating(400, dim=0), 1.995, 400.0),  # near EWN with a faster alpha
        (Powerpropagation(3, per_neuron=True, dim=0), 4 / 3, 9.0),
        (EWN(dim=0), 2.0, 1.0),
    ],
    ids=str,
)
def test_flow_of_the_weights_is_that_of_the_theory(form, power, along):
    """dw/dt = -r^power (along * what (what . g) + P g), from balanced factors."""
    generator = torch.Generator().manual_seed(4)
    w, g = torch.randn(2, 3, 5, generator=generator, dtype=torch.double)
    originals = tuple(x.clone().requires_grad_() for x in form.right_inverse(w))
    (form(*originals) * g).sum().backward()
    velocity = torch.autograd.functional.jvp(form, originals, tuple(-x.grad for x in originals))[1]
    for row, slope, found in zip(w.numpy(), g.numpy(), velocity.numpy(), strict=True):
        r = np.sqrt(row @ row)
        radial = row / r * (row @ slope) / r
        np.testing.assert_allclose(found, -(r**power) * (along * radial + slope - radial))


def test_sixteen_bits_and_function_transforms():
    for form in FORMS:
        form = copy.deepcopy(form)
        form.dim = 0
        weight = torch.tensor([[0, 0, 0], [1e-3, -2e-3, 0], [0.5, 0.25, -1]], dtype=torch.bfloat16)
        rebuilt = form(*form.right_inverse(weight))
        assert rebuilt.dtype == torch.bfloat16
        torch.testing.assert_close(rebuilt, weight, rtol=0.06, atol=0)
        originals = tuple(
            x.detach().double().requires_grad_() for x in form.right_inverse(weight[2:].double())
        )
        assert torch.autograd.gradgradcheck(form, originals)


def test_other_forms_refuse():
    with pytest.raises(ValueError, match="depth=1"):
        DGating(1)
    with pytest.raises(ValueError, match=r"exponent=0\.5"):
        Powerpropagation(0.5)
    model = _net()
    reparametrize(model, DGating())
    assert str(attached_parametrizations(model)["0"]) == "DGating(depth=2, dim=0)"
    with pytest.raises(ValueError, match="a layer is under DGating"):
        gradient_rows(model[0])
