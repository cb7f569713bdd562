"""`EWN(inputs=True)`: a first layer has a length ``exp(alpha)`` for each input feature."""

from copy import deepcopy

import pytest
import torch
from torch import nn

from ewnprune import EWN, attached_parametrizations, fold, fold_state_dict, reparametrize
from ewnprune.training.attach import ewn_alphas


def mlp():
    torch.manual_seed(0)
    return nn.Sequential(
        nn.Flatten(), nn.Linear(6, 5), nn.ReLU(), nn.Linear(5, 4), nn.ReLU(), nn.Linear(4, 2)
    ).double()


def gate_of(net, name="1"):
    originals = net.get_submodule(name).parametrizations.weight
    return originals.original0, originals.original1


def test_what_is_attached_and_where():
    net, x = mlp(), torch.randn(8, 2, 3).double()
    plain = deepcopy(net)
    selection = reparametrize(net, EWN(inputs=True))
    assert selection.gates == ("1",)
    assert str(selection).splitlines() == [
        "  chosen  1: Linear, 5 neurons, a gate for each of 6 inputs",
        "  chosen  3: Linear, 4 neurons",
        "  left    5: the last layer: its outputs are the model's",
    ]
    alpha, v = gate_of(net)
    torch.testing.assert_close(alpha, plain[1].weight.norm(dim=0, keepdim=True).log())
    torch.testing.assert_close(v.norm(dim=0), torch.ones(6).double())
    assert gate_of(net, "3")[0].shape == (4, 1)  # others by neuron, as ever
    assert [tuple(a.shape) for a in ewn_alphas(net, "")] == [(1, 6), (4, 1)]
    torch.testing.assert_close(net(x), plain(x))
    assert fold(net) == ["1", "3"]
    assert list(net.state_dict()) == list(plain.state_dict())
    torch.testing.assert_close(net[1].weight, plain[1].weight)


def test_the_folded_layer_computes_what_gates_before_unit_columns_do():
    net, x = mlp(), torch.randn(8, 2, 3).double()
    reparametrize(net, EWN(inputs=True))
    alpha, v = gate_of(net)
    with torch.no_grad():
        alpha += torch.randn_like(alpha)
        v *= torch.rand_like(v)
    columns = v / v.norm(dim=0)
    by_hand = (x.flatten(1) * alpha.exp()) @ columns.T + net[1].bias
    torch.testing.assert_close(net[1](x.flatten(1)), by_hand)
    fold(net)
    torch.testing.assert_close(net[1](x.flatten(1)), by_hand)


def test_a_step_of_descent_is_that_by_hand():
    net, x = mlp(), torch.randn(8, 2, 3).double()
    plain = deepcopy(net)
    reparametrize(net, EWN(inputs=True), layers="1")
    optimizer = torch.optim.SGD(net.parameters(), lr=0.1)
    net(x).square().sum().backward()
    plain(x).square().sum().backward()
    w, g = plain[1].weight.detach(), plain[1].weight.grad
    alpha, v = gate_of(net)
    length = w.norm(dim=0)
    # d L / d alpha_j = w_j . g_j, and d L / d v_j the part of exp(alpha_j) g_j across w_j
    slope = (w * g).sum(0)
    across = length * (g - w / length * (w / length * g).sum(0))
    torch.testing.assert_close(alpha.grad[0], slope)
    torch.testing.assert_close(v.grad, across)
    optimizer.step()
    moved = w / length - 0.1 * across
    expected = (length.log() - 0.1 * slope).exp() * moved / moved.norm(dim=0)
    torch.testing.assert_close(net[1].weight, expected)


def test_the_flow_of_docs_theory():
    net, x, rate = mlp(), torch.randn(8, 2, 3).double(), 1e-8
    plain = deepcopy(net)
    reparametrize(net, EWN(inputs=True), layers="1")
    optimizer = torch.optim.SGD(net.parameters(), lr=rate)
    net(x).square().sum().backward()
    plain(x).square().sum().backward()
    before = net[1].weight.detach().clone()
    optimizer.step()
    expected = -before.square().sum(0) * plain[1].weight.grad
    torch.testing.assert_close((net[1].weight - before) / rate, expected, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize(
    ("layer", "x"),
    [
        (nn.Conv2d(3, 4, 3), (2, 3, 5, 5)),
        (nn.ConvTranspose1d(3, 4, 3), (2, 3, 5)),
        (nn.Linear(3, 4), (2, 7, 3)),
    ],
    ids=["Conv2d", "ConvTranspose1d", "a sequence"],
)
def test_a_channel_is_a_feature(layer, x):
    net = nn.Sequential(deepcopy(layer), nn.ReLU()).double()
    x = torch.randn(x).double()
    expected = net(x)
    reparametrize(net, EWN(inputs=True), layers="0")
    alpha = gate_of(net, "0")[0]
    assert alpha.numel() == 3
    torch.testing.assert_close(net(x), expected)
    with torch.no_grad():
        alpha.flatten()[1] -= 1e3  # the layer no longer reads the second
        x_dim = 2 if isinstance(layer, nn.Linear) else 1
        changed = x.clone()
        changed.select(x_dim, 1).fill_(5)
    torch.testing.assert_close(net(x), net(changed))
    assert not torch.allclose(net(x), expected)


def test_with_the_scale_of_a_batch_norm():
    torch.manual_seed(0)
    net = nn.Sequential(nn.Linear(3, 4), nn.BatchNorm1d(4), nn.ReLU(), nn.Linear(4, 2)).double()
    plain, x = deepcopy(net), torch.randn(8, 3).double()
    selection = reparametrize(net, EWN(batchnorm=True, inputs=True))
    assert selection.scales == {"0": "1"} and selection.gates == ("0",)
    assert sorted(attached_parametrizations(net)) == ["0", "1"]
    assert gate_of(net, "0")[0].shape == (1, 3) and gate_of(net, "1")[0].shape == (4,)
    torch.testing.assert_close(net(x), plain(x))
    fold(net)
    torch.testing.assert_close(net(x), plain.train()(x))


def test_state_dicts_are_folded_and_plain_ones_load():
    net = mlp()
    plain = net.state_dict()
    reparametrize(net, EWN(inputs=True))
    folded = fold_state_dict(net.state_dict())
    assert list(folded) == list(plain)
    torch.testing.assert_close(folded["1.weight"], plain["1.weight"])
    other = mlp()
    nn.init.normal_(other[1].weight)
    reparametrize(other, EWN(inputs=True))
    other.load_state_dict(plain)
    torch.testing.assert_close(other[1].weight, plain["1.weight"])
    other.load_state_dict(net.state_dict())
    assert torch.equal(gate_of(other)[0], gate_of(net)[0])


def test_a_feature_that_nothing_reads_stays_so():
    net, x = mlp(), torch.randn(8, 2, 3).double()
    with torch.no_grad():
        net[1].weight[:, 2] = 0
    reparametrize(net, EWN(inputs=True))
    optimizer = torch.optim.SGD(net.parameters(), lr=0.1)
    net(x).square().sum().backward()
    assert all(p.grad.isfinite().all() for p in net.parameters())
    optimizer.step()
    assert net[1].weight[:, 2].norm() < 1e-30 < net[1].weight.norm(dim=0)[3]


class TwoReaders(nn.Module):
    """Two layers read the inputs, normalized; a third reads both."""

    def __init__(self):
        super().__init__()
        self.norm = nn.BatchNorm1d(3)
        self.left, self.right = nn.Linear(3, 4), nn.Linear(3, 4)
        self.middle, self.last = nn.Linear(4, 4), nn.Linear(4, 2)

    def forward(self, x):
        x = (self.norm(x) - 1) * 2
        return self.last(self.middle(self.left(x) + self.right(x)).relu())


class Shared(TwoReaders):
    def forward(self, x):
        x = self.left(x)
        return self.last(self.middle(self.middle(x)))


def test_all_first_layers_have_gates_and_no_others():
    assert reparametrize(TwoReaders(), EWN(inputs=True)).gates == ("left", "right")
    assert reparametrize(Shared(), EWN(inputs=True)).gates == ("left",)
    frozen = TwoReaders()
    frozen.left.requires_grad_(False)
    assert reparametrize(frozen, EWN(inputs=True)).gates == ("right",)


class Untraceable(nn.Sequential):
    def forward(self, x):
        return super().forward(x) if x.sum() > 0 else x


@pytest.mark.parametrize(
    ("net", "options", "message"),
    [
        (mlp(), {"layers": "3"}, "none of '3' is seen to read the model's inputs by itself"),
        (
            nn.Sequential(nn.Conv1d(2, 2, 1, groups=2), nn.ReLU(), nn.Conv1d(2, 2, 1)),
            {},
            "none of '0' is seen to read",
        ),
        (
            nn.Sequential(nn.Embedding(4, 3), nn.Linear(3, 3), nn.Linear(3, 1)),
            {},
            "none of '1' is seen to read",
        ),
        (Untraceable(nn.Linear(2, 2), nn.Linear(2, 2)), {}, "inputs=True, and the model cannot be"),
    ],
    ids=["not chosen", "groups", "tokens", "untraceable"],
)
def test_what_has_no_first_layer_is_refused(net, options, message):
    before = {key: value.clone() for key, value in net.state_dict().items()}
    with pytest.raises(ValueError, match=message) as raised:
        reparametrize(net, EWN(inputs=True), **options)
    assert "\n" not in str(raised.value)
    assert not attached_parametrizations(net)
    assert all(torch.equal(value, before[key]) for key, value in net.state_dict().items())
