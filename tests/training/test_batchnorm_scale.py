"""`EWN(batchnorm=True)`: a BatchNorm's scale is exp(alpha), and the weights before are plain."""

from copy import deepcopy

import pytest
import torch
from pytorch_lightning.callbacks import BaseFinetuning
from torch import nn

from ewnprune import EWN, attached_parametrizations, fold, fold_state_dict, reparametrize


def cnn():
    torch.manual_seed(0)
    net = nn.Sequential(
        nn.Conv2d(1, 4, 3, bias=False), nn.BatchNorm2d(4), nn.ReLU(), nn.Flatten(),
        nn.Linear(4 * 16, 5), nn.ReLU(), nn.Linear(5, 2),
    )  # fmt: skip
    with torch.no_grad():
        net[1].weight.copy_(torch.tensor([2.0, -0.5, 1.0, 3.0]))
    return net


def alpha_and_sign(net):
    originals = net[1].parametrizations.weight
    return originals.original0, originals.original1


def test_what_is_attached_and_where():
    net = cnn()
    plain = deepcopy(net)
    x = torch.randn(8, 1, 6, 6)
    selection = reparametrize(net, EWN(batchnorm=True))
    assert selection.scales == {"0": "1"}
    assert str(selection).splitlines() == [
        "  chosen  0: Conv2d, 4 neurons, by the scale of 1",
        "  chosen  4: Linear, 5 neurons",  # no BatchNorm follows: its own length
        "  left    6: the last layer: its outputs are the model's",
    ]
    assert list(attached_parametrizations(net)) == ["1", "4"]
    assert type(net[0].weight) is nn.Parameter
    alpha, sign = alpha_and_sign(net)
    torch.testing.assert_close(alpha, torch.tensor([2.0, 0.5, 1.0, 3.0]).log())
    assert sign.tolist() == [1, -1, 1, 1] and not sign.requires_grad
    for mode in (net.train(), net.eval()):
        twin = plain.train(mode.training)
        torch.testing.assert_close(mode(x), twin(x))
    assert fold(net) == ["1", "4"]
    assert list(net.state_dict()) == list(plain.state_dict())
    torch.testing.assert_close(net[1].weight, plain[1].weight)
    assert isinstance(net[1].weight, nn.Parameter) and net[1].weight.requires_grad


def test_a_step_of_descent_is_that_by_hand():
    net, x = cnn(), torch.randn(8, 1, 6, 6)
    plain = deepcopy(net)
    reparametrize(net, EWN(batchnorm=True), layers="0")
    optimizer = torch.optim.SGD(net.parameters(), lr=0.1)
    net(x).square().sum().backward()
    plain(x).square().sum().backward()
    slope, gamma, alpha = plain[1].weight.grad, plain[1].weight.detach(), alpha_and_sign(net)[0]
    # d L / d alpha = gamma d L / d gamma
    expected = gamma.abs().log() - 0.1 * gamma * slope
    optimizer.step()
    torch.testing.assert_close(alpha.detach(), expected, rtol=1e-4, atol=1e-6)
    torch.testing.assert_close(net[1].weight, gamma.sign() * expected.exp(), rtol=1e-4, atol=1e-6)
    # the weights before are trained plainly
    by_hand = plain[0].weight - 0.1 * plain[0].weight.grad
    torch.testing.assert_close(net[0].weight, by_hand, rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("unfrozen", [False, True])
def test_decay_and_momentum_leave_the_sign(unfrozen):
    net, x = cnn(), torch.randn(8, 1, 6, 6)
    reparametrize(net, EWN(batchnorm=True))
    if unfrozen:
        BaseFinetuning.make_trainable(net)  # which asks nobody
    optimizer = torch.optim.AdamW(net.parameters(), lr=0.1, weight_decay=0.5)
    for _ in range(5):
        optimizer.zero_grad()
        net(x).square().sum().backward()
        optimizer.step()
    assert alpha_and_sign(net)[1].tolist() == [1, -1, 1, 1]
    assert torch.equal(net[1].weight.sign(), torch.tensor([1.0, -1.0, 1.0, 1.0]))


def test_state_dicts_are_folded_and_plain_ones_load():
    net = cnn()
    plain = net.state_dict()
    reparametrize(net, EWN(batchnorm=True))
    folded = fold_state_dict(net.state_dict())
    assert list(folded) == list(plain)
    torch.testing.assert_close(folded["1.weight"], plain["1.weight"])
    other = cnn()
    with torch.no_grad():
        other[1].weight.fill_(7)
    reparametrize(other, EWN(batchnorm=True))
    other.load_state_dict(plain)
    assert alpha_and_sign(other)[1].tolist() == [1, -1, 1, 1]
    torch.testing.assert_close(other[1].weight, plain["1.weight"])
    other.load_state_dict(net.state_dict())
    assert torch.equal(alpha_and_sign(other)[0], alpha_and_sign(net)[0])


def test_channels_of_zero_scale_stay_zero():
    net, x = cnn(), torch.randn(8, 1, 6, 6)
    with torch.no_grad():
        net[1].weight[2] = 0
    reparametrize(net, EWN(batchnorm=True))
    optimizer = torch.optim.SGD(net.parameters(), lr=0.1)
    net(x).square().sum().backward()
    assert all(p.grad.isfinite().all() for p in net.parameters() if p.grad is not None)
    optimizer.step()
    assert net[1].weight[2] == 0 and net[1].weight.count_nonzero() == 3


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (
            lambda net: nn.init.zeros_(net[1].weight),
            "layer '1' has an all-zero weight.*exclude='0'",
        ),
        (
            lambda net: net.__setitem__(1, nn.Identity()),
            "no BatchNorm with a scale .* '0', '4' directly",
        ),
        (lambda net: net.__setitem__(1, nn.BatchNorm2d(4, affine=False)), "no BatchNorm with a"),
    ],
)
def test_what_has_no_scale_is_refused(change, message):
    net = cnn()
    change(net)
    before = {key: value.clone() for key, value in net.state_dict().items()}
    with pytest.raises(ValueError, match=message):
        reparametrize(net, EWN(batchnorm=True))
    assert all(torch.equal(value, before[key]) for key, value in net.state_dict().items())
    assert not attached_parametrizations(net)


def test_a_frozen_scale_is_left():
    net = cnn()
    net[1].weight.requires_grad_(False)
    selection = reparametrize(net, EWN(batchnorm=True))
    assert selection.left["0"] == "its BatchNorm is frozen"
    assert list(attached_parametrizations(net)) == ["4"]


@pytest.mark.parametrize("method", [EWN(batchnorm=True), None], ids=["EWN", "plain"])
def test_the_flow_of_docs_theory(method):
    """What a small step does to ``u = gamma w / ||w||_S``, S the covariance of the inputs."""
    torch.manual_seed(0)
    net = nn.Sequential(nn.Linear(5, 3, bias=False), nn.BatchNorm1d(3, eps=1e-12)).double()
    nn.init.uniform_(net[1].weight, 0.5, 2)
    x, target = (
        torch.randn(40, 5).double() @ torch.randn(5, 5).double(),
        torch.randn(40, 3).double(),
    )
    centred = x - x.mean(0)
    covariance = centred.T @ centred / len(x)

    def of_data():
        w, gamma = net[0].weight.detach().clone(), net[1].weight.detach().clone()
        n = ((w @ covariance) * w).sum(1)
        return w / n.sqrt()[:, None], gamma, n

    if method is not None:
        reparametrize(net, method, layers="0")
    (unit, gamma, n), rate = of_data(), 1e-9
    given = net(x)
    torch.testing.assert_close(given, centred @ (gamma[:, None] * unit).T)  # weights u
    loss = (given - target).pow(2).sum()
    (slope,) = torch.autograd.grad(loss, given, retain_graph=True)
    g = slope.T @ centred
    optimizer = torch.optim.SGD(net.parameters(), lr=rate)
    loss.backward()
    optimizer.step()
    after, gamma_after, _ = of_data()
    moved = (gamma_after[:, None] * after - gamma[:, None] * unit) / rate
    for row in range(3):
        u, s = unit[row], gamma[row] ** 2
        q = torch.eye(5).double() - torch.outer(u, covariance @ u)
        along = (u @ g[row]) * u * (1 if method is None else s)
        expected = -along - s / n[row] * q @ q.T @ g[row]
        torch.testing.assert_close(moved[row], expected, rtol=1e-4, atol=1e-5)
