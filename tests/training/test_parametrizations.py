import copy

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn
from torch.nn.utils import parametrizations as torch_parametrizations

from ewnprune import EWN, SWN, fold, reparametrize
from ewnprune.model.layers import neuron_rows

LAYERS = [
    nn.Linear(7, 5),
    nn.Conv1d(4, 6, 3, groups=2),
    nn.Conv2d(3, 5, (3, 2)),
    nn.Conv3d(2, 4, 2),
    nn.ConvTranspose1d(4, 6, 3, groups=2),
    nn.ConvTranspose2d(3, 5, (3, 2)),
    nn.ConvTranspose3d(2, 4, 2),
]


def _names(layer):
    return f"{type(layer).__name__}-{getattr(layer, 'groups', 1)}"


def _reparametrized(layer, parametrization):
    layer = copy.deepcopy(layer)
    model = nn.Sequential(layer)
    reparametrize(model, parametrization, layers="0")
    return layer


def _numpy_rows(layer, weight):
    """One row per output unit, by a loop over the definition of each layer's weight."""
    weight = weight.detach().double().numpy()
    if not isinstance(layer, nn.ConvTranspose1d | nn.ConvTranspose2d | nn.ConvTranspose3d):
        return [weight[u].ravel() for u in range(weight.shape[0])]
    groups, per_group = layer.groups, weight.shape[1]
    inputs = weight.shape[0] // groups
    return [
        weight[u // per_group * inputs : (u // per_group + 1) * inputs, u % per_group].ravel()
        for u in range(groups * per_group)
    ]


@pytest.mark.parametrize("layer", LAYERS, ids=_names)
@pytest.mark.parametrize("kind", [EWN, SWN])
def test_attaching_keeps_the_weight_and_ewn_follows_a_numpy_loop(layer, kind):
    attached = _reparametrized(layer, kind())
    torch.testing.assert_close(attached.weight, layer.weight, rtol=1e-6, atol=1e-7)
    s = attached.parametrizations.weight.original0
    v = attached.parametrizations.weight.original1
    with torch.no_grad():
        s.add_(torch.linspace(-0.5, 0.5, s.numel()).view_as(s))
        v.mul_(1.7).add_(0.1)
    scales = s.detach().double().numpy().ravel()
    if kind is EWN:
        scales = np.exp(scales)
    expected = [
        scale * row / np.sqrt((row**2).sum())
        for scale, row in zip(scales, _numpy_rows(layer, v), strict=True)
    ]
    got = _numpy_rows(layer, attached.weight)
    np.testing.assert_allclose(np.stack(got), np.stack(expected), rtol=2e-6, atol=1e-7)


@pytest.mark.parametrize("layer", LAYERS, ids=_names)
def test_rows_are_the_definition_by_loop(layer):
    expected = np.stack(_numpy_rows(layer, layer.weight))
    np.testing.assert_array_equal(neuron_rows(layer).detach().double().numpy(), expected)


@pytest.mark.parametrize("layer", LAYERS, ids=_names)
def test_each_neuron_has_its_own_scale(layer):
    attached = _reparametrized(layer, EWN())
    rows = neuron_rows(layer)
    s = attached.parametrizations.weight.original0
    assert s.numel() == len(rows)
    torch.testing.assert_close(s.exp().flatten(), rows.norm(dim=1), rtol=1e-5, atol=0)


@pytest.mark.parametrize("make", [lambda: nn.Linear(6, 4), lambda: nn.Conv2d(3, 4, 3)])
def test_swn_trains_as_torchs_weight_norm(make):
    torch.manual_seed(0)
    ours, theirs = make(), make()
    theirs.load_state_dict(ours.state_dict())
    ours = nn.Sequential(ours)
    reparametrize(ours, SWN(), layers="0")
    theirs = nn.Sequential(torch_parametrizations.weight_norm(theirs))
    # torch starts from v = w, the paper from ||v|| = 1: give both torch's start
    ours.load_state_dict(theirs.state_dict())
    optimizers = [
        torch.optim.SGD(net.parameters(), lr=0.05, momentum=0.9) for net in (ours, theirs)
    ]
    for step in range(20):
        generator = torch.Generator().manual_seed(step)
        shape = (8, 6) if isinstance(theirs[0], nn.Linear) else (8, 3, 5, 5)
        x = torch.randn(shape, generator=generator)
        outputs = [net(x) for net in (ours, theirs)]
        torch.testing.assert_close(*outputs)
        for _, output, optimizer in zip((ours, theirs), outputs, optimizers, strict=True):
            optimizer.zero_grad()
            output.square().mean().backward()
        for (name, a), (_, b) in zip(
            ours.named_parameters(), theirs.named_parameters(), strict=True
        ):
            torch.testing.assert_close(a.grad, b.grad, msg=lambda m, n=name: f"{n}: {m}")
        for optimizer in optimizers:
            optimizer.step()
    torch.testing.assert_close(ours.state_dict(), theirs.state_dict())


@pytest.mark.parametrize("kind", [EWN, SWN])
def test_gradients_match_finite_differences(kind):
    torch.manual_seed(1)
    parametrization = kind(dim=0)
    s, v = torch.randn(3, 1, dtype=torch.double), torch.randn(3, 4, dtype=torch.double)
    s.requires_grad_(), v.requires_grad_()
    assert torch.autograd.gradcheck(parametrization, (s, v))


@pytest.mark.parametrize("kind", [EWN, SWN])
def test_gradients_of_gradients_match_finite_differences(kind):
    """Those of torch's own weight_norm do not: they lack the part through the norm."""
    s, v = (torch.randn(3, n, dtype=torch.double).requires_grad_() for n in (1, 4))
    assert torch.autograd.gradgradcheck(kind(dim=0), (s, v))


@pytest.mark.parametrize("kind", [EWN, SWN])
def test_function_transforms_go_through(kind):
    parametrization = kind(dim=0)
    s, v = torch.randn(4, 3, 1), torch.randn(4, 3, 5)
    got = torch.vmap(parametrization)(s, v)
    torch.testing.assert_close(
        got, torch.stack([parametrization(*x) for x in zip(s, v, strict=True)])
    )
    jacobian = torch.func.jacrev(parametrization, argnums=1)(s[0], v[0])
    expected = torch.autograd.functional.jacobian(lambda x: parametrization(s[0], x), v[0])
    torch.testing.assert_close(jacobian, expected)


@pytest.mark.parametrize("kind", [EWN, SWN])
def test_gradient_of_v_is_tangential_and_scaled_as_in_the_paper(kind):
    """dL/dv = (scale / ||v||) (I - v v^T / ||v||^2) g, the paper's eqs. (2) and (4)."""
    generator = torch.Generator().manual_seed(2)
    s = torch.randn(3, 1, dtype=torch.double, generator=generator).requires_grad_()
    v = torch.randn(3, 4, dtype=torch.double, generator=generator).requires_grad_()
    g = torch.randn(3, 4, dtype=torch.double, generator=generator)
    (kind(dim=0)(s, v) * g).sum().backward()
    scale, norm = (s.exp() if kind is EWN else s), v.norm(dim=1, keepdim=True)
    direction = v / norm
    radial = (direction * g).sum(1, keepdim=True)
    torch.testing.assert_close(v.grad, scale / norm * (g - direction * radial))
    torch.testing.assert_close(s.grad, radial * (scale if kind is EWN else 1))


@pytest.mark.parametrize("kind", [EWN, SWN])
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32])
def test_zero_and_tiny_rows_stay_finite(kind, dtype):
    tiny = 1e-30 if dtype == torch.float32 else 1e-3  # alpha has only 8 bits in bfloat16
    weight = torch.tensor([[0, 0, 0], [tiny, -2 * tiny, 0], [0.5, 0.25, -1]], dtype=dtype)
    parametrization = kind(dim=0)
    s, v = (x.requires_grad_() for x in parametrization.right_inverse(weight))
    rebuilt = parametrization(s, v)
    assert rebuilt.dtype == dtype
    rtol = {torch.float32: 1e-5, torch.float16: 5e-3, torch.bfloat16: 3e-2}[dtype]
    torch.testing.assert_close(rebuilt, weight, rtol=rtol, atol=0)
    rebuilt.float().square().sum().backward()
    assert s.grad.isfinite().all()
    assert v.grad.isfinite().all()


def test_a_zero_row_stays_zero_under_training():
    torch.manual_seed(3)
    layer = nn.Linear(4, 3)
    with torch.no_grad():
        layer.weight[1] = 0
    attached = _reparametrized(layer, EWN())
    optimizer = torch.optim.SGD(attached.parameters(), lr=0.1, momentum=0.9)
    for _ in range(10):
        optimizer.zero_grad()
        attached(torch.randn(8, 4)).square().mean().backward()
        optimizer.step()
    assert attached.weight[1].norm() < 1e-30
    assert attached.weight[0].norm() > 0.01


@given(st.integers(0, 10_000), st.sampled_from([EWN, SWN]), st.floats(1e-18, 1e18))
@settings(max_examples=60, deadline=None)
def test_right_inverse_is_inverse_at_every_size(seed, kind, size):
    weight = torch.randn(4, 6, generator=torch.Generator().manual_seed(seed)) * size
    parametrization = kind(dim=0)
    s, v = parametrization.right_inverse(weight)
    torch.testing.assert_close(v.norm(dim=1), torch.ones(4))
    torch.testing.assert_close(parametrization(s, v) / size, weight / size, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("kind", [EWN, SWN])
def test_right_inverse_never_aliases(kind):
    weight = torch.eye(3)
    s, v = kind(dim=0).right_inverse(weight)
    pointers = {x.untyped_storage().data_ptr() for x in (s, v, weight)}
    assert len(pointers) == 3


def test_dim_can_be_chosen():
    layer = nn.Linear(4, 3)
    attached = _reparametrized(layer, EWN(dim=1))
    expected = layer.weight.norm(dim=0).log()
    torch.testing.assert_close(attached.parametrizations.weight.original0[0], expected)


def test_dim_must_fit_the_weight():
    with pytest.raises(
        ValueError, match=r"EWN\(dim=2\): expected a dimension of a weight of shape"
    ):
        _reparametrized(nn.Linear(4, 3), EWN(dim=2))


def test_unbound_parametrization_says_so():
    with pytest.raises(ValueError, match="bound to no layer yet"):
        EWN()(torch.zeros(3, 1), torch.ones(3, 4))


def test_bfloat16_norm_is_taken_in_float32():
    weight = torch.full((1, 4096), 0.01, dtype=torch.bfloat16)
    alpha, _ = EWN(dim=0).right_inverse(weight)
    expected = torch.log(weight.float().norm())
    assert abs(alpha.item() - expected.item()) < 0.005  # bfloat16 keeps 8 bits


def test_compiles_to_one_graph():
    model = nn.Sequential(nn.Linear(4, 3), nn.ReLU(), nn.Linear(3, 2))
    reparametrize(model, EWN())
    x = torch.randn(5, 4)
    compiled = torch.compile(model, fullgraph=True, backend="eager")
    torch.testing.assert_close(compiled(x), model(x))


def test_exports_after_folding():
    model = nn.Sequential(nn.Linear(4, 3), nn.ReLU(), nn.Linear(3, 2))
    reparametrize(model, EWN())
    x = torch.randn(5, 4)
    before = model(x)
    fold(model)
    exported = torch.export.export(model, (x,)).module()
    torch.testing.assert_close(exported(x), before)
