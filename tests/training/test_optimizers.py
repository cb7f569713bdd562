import copy
import math

import pytest
import torch
from torch import nn
from torch.nn.utils import parametrizations, prune

from ewnprune import EWN, SWN, reparametrize
from ewnprune.training.optimizers import EWNSGD, SWNSGD, neuron_param_groups
from ewnprune.training.steps import weight_space_step
from ewnprune.training.weight_space import mark_neurons, unmark

KINDS = pytest.mark.parametrize(("kind", "optimizer"), [(EWN, EWNSGD), (SWN, SWNSGD)])


def _quadratic(dim, generator):
    """A convex loss of one neuron's weights with a minimum away from the origin."""
    root = torch.randn(dim, dim, generator=generator, dtype=torch.float64)
    target = torch.randn(dim, generator=generator, dtype=torch.float64)
    return lambda w: ((w - target) @ root).square().sum() / dim


def _autograd_trajectory(kind, s, v, loss, lr, steps, weight_decay=0.0):
    """Gradient descent on (s, v) by the definition, with no code of the package."""
    s, v = s.clone().requires_grad_(), v.clone().requires_grad_()
    seen = []
    for _ in range(steps):
        w = (s.exp() if kind is EWN else s) * v / v.norm()
        objective = loss(w) + weight_decay / 2 * w.square().sum()
        ds, dv = torch.autograd.grad(objective, (s, v))
        with torch.no_grad():
            s -= lr * ds
            v -= lr * dv
            seen.append(((s.exp() if kind is EWN else s) * v / v.norm()).clone())
    return torch.stack(seen), v.detach().norm().square()


@KINDS
@pytest.mark.parametrize("seed", range(2))  # SWN's length of either sign
@pytest.mark.parametrize("weight_decay", [0.0, 0.1])
def test_300_steps_equal_descent_on_s_and_v(kind, optimizer, seed, weight_decay):
    generator = torch.Generator().manual_seed(seed)
    loss = _quadratic(6, generator)
    v = torch.randn(6, generator=generator, dtype=torch.float64)
    v *= 0.5 + torch.rand((), generator=generator, dtype=torch.float64) * 2
    s = torch.randn((), generator=generator, dtype=torch.float64)
    lr = 0.01
    expected, squared_norm = _autograd_trajectory(kind, s, v, loss, lr, 300, weight_decay)

    scale = s.exp() if kind is EWN else s
    w = nn.Parameter((scale * v / v.norm())[None])
    descent = optimizer([w], lr=lr, weight_decay=weight_decay)
    descent.state[w]["n"] = v.norm().square().reshape(1, 1)
    seen = []
    for _ in range(300):
        descent.zero_grad()
        loss(w[0]).backward()
        descent.step()
        seen.append(w.detach()[0].clone())
    difference = (torch.stack(seen) - expected).norm(dim=1) / expected.norm(dim=1)
    assert difference.max() < 1e-12
    assert descent.state[w]["n"].item() == pytest.approx(squared_norm.item(), rel=1e-12)


def _network(seed=0):
    torch.manual_seed(seed)
    return nn.Sequential(
        nn.Conv2d(1, 4, 3),
        nn.ReLU(),
        nn.ConvTranspose2d(4, 6, 3, groups=2),
        nn.ReLU(),
        nn.Flatten(),
        nn.Linear(6 * 36, 5),
        nn.ReLU(),
        nn.Linear(5, 3, bias=False),
    ).double()


def _train(model, optimizer, steps=30, seed=1):
    generator = torch.Generator().manual_seed(seed)
    for _ in range(steps):
        x = torch.randn(8, 1, 6, 6, generator=generator, dtype=torch.float64)
        y = torch.randint(3, (8,), generator=generator)
        optimizer.zero_grad()
        nn.functional.cross_entropy(model(x), y).backward()
        optimizer.step()
    x = torch.randn(8, 1, 6, 6, generator=generator, dtype=torch.float64)
    return model(x).detach()


@KINDS
def test_a_network_trains_as_the_reparametrized_one_under_sgd(kind, optimizer):
    plain = _network()
    attached = copy.deepcopy(plain)
    reparametrize(attached, kind())
    expected = _train(attached, torch.optim.SGD(attached.parameters(), lr=0.1))
    got = _train(plain, optimizer(neuron_param_groups(plain), lr=0.1))
    torch.testing.assert_close(got, expected, rtol=1e-11, atol=1e-12)
    # and the comparison means something: plain SGD goes elsewhere
    other = _network()
    assert (_train(other, torch.optim.SGD(other.parameters(), lr=0.1)) - expected).norm() > 1e-3


def test_weight_decay_is_that_of_gamma_alone_for_swn_and_of_plain_sgd_elsewhere():
    plain = _network()
    attached = copy.deepcopy(plain)
    reparametrize(attached, SWN())
    directions = [p for name, p in attached.named_parameters() if name.endswith("original1")]
    rest = [p for p in attached.parameters() if all(p is not d for d in directions)]
    groups = [{"params": directions, "weight_decay": 0.0}, {"params": rest}]
    expected = _train(attached, torch.optim.SGD(groups, lr=0.1, weight_decay=0.05))
    got = _train(plain, SWNSGD(neuron_param_groups(plain), lr=0.1, weight_decay=0.05))
    torch.testing.assert_close(got, expected, rtol=1e-11, atol=1e-12)


def test_a_step_along_the_weight_by_hand():
    w, n = torch.tensor([[3.0, 4.0]], dtype=torch.float64), torch.ones(1, 1, dtype=torch.float64)
    g = 2 * w  # w.g = 50
    ewn, _ = weight_space_step(w, g, n, 0.01, "EWN")
    swn, _ = weight_space_step(w, g, n, 0.01, "SWN")
    torch.testing.assert_close(ewn, w * math.exp(-0.5))
    torch.testing.assert_close(swn, w * 0.98)
    turned, _ = weight_space_step(w, g, n, 1.0, "SWN")  # gamma passes through zero
    torch.testing.assert_close(turned, -w)


def test_a_step_of_another_method_is_refused():
    w = torch.ones(1, 2)
    with pytest.raises(ValueError, match="method='ewn': expected 'EWN' or 'SWN'"):
        weight_space_step(w, w, torch.ones(1, 1), 0.1, "ewn")


def test_a_step_across_the_weight_by_hand():
    # v = (1, 0) moves to (1, -0.3): w keeps its length 2 and n grows to 1.09
    w, g = torch.tensor([[2.0, 0.0]]), torch.tensor([[0.0, 1.5]])
    for method in ("EWN", "SWN"):
        moved, n = weight_space_step(w, g, torch.ones(1, 1), 0.1, method)
        torch.testing.assert_close(moved, 2 * torch.tensor([[1.0, -0.3]]) / math.sqrt(1.09))
        torch.testing.assert_close(n, torch.tensor([[1.09]]))


@pytest.mark.parametrize("optimizer", [EWNSGD, SWNSGD])
def test_a_row_of_zeros_stays_and_everything_is_finite(optimizer):
    w = nn.Parameter(torch.tensor([[0.0, 0.0], [1.0, 2.0]]))
    w.grad = torch.ones(2, 2)
    descent = optimizer([w], lr=0.1, weight_decay=0.5)
    descent.step()
    assert w[0].tolist() == [0, 0]
    assert torch.isfinite(w).all() and w[1].tolist() != [1, 2]
    assert torch.isfinite(descent.state[w]["n"]).all()


@KINDS
def test_state_dict_resumes_bit_for_bit(kind, optimizer):
    model = _network()
    descent = optimizer(neuron_param_groups(model), lr=0.1)
    _train(model, descent, steps=5)
    resumed = copy.deepcopy(model)
    loaded = optimizer(neuron_param_groups(resumed), lr=1.0)
    loaded.load_state_dict(copy.deepcopy(descent.state_dict()))
    assert loaded.param_groups[0]["lr"] == 0.1
    assert torch.equal(_train(model, descent, seed=2), _train(resumed, loaded, seed=2))


def test_closure_returns_the_loss_and_parameters_without_gradient_stay():
    w, b, idle = (
        nn.Parameter(torch.ones(2, 2)),
        nn.Parameter(torch.ones(2)),
        nn.Parameter(w_ := torch.ones(2)),
    )
    descent = EWNSGD([w, b, idle], lr=0.1)

    def closure():
        descent.zero_grad()
        loss = (w @ b).sum()
        loss.backward()
        return loss

    assert descent.step(closure).item() == 4.0
    assert torch.equal(idle, w_)
    torch.testing.assert_close(b, torch.tensor([0.8, 0.8]))  # plain SGD: 1 - 0.1 * 2


def test_groups_follow_the_layers_chosen():
    model = _network()
    groups = neuron_param_groups(model, layers=["0", "2"])
    layout = [(g["weight_norm"], g.get("dim"), g.get("groups"), len(g["params"])) for g in groups]
    assert layout == [(True, 0, 1, 1), (True, 1, 2, 1), (False, None, None, 5)]
    assert sum(len(g["params"]) for g in groups) == len(list(model.parameters()))


def test_bad_input_is_named():
    model = _network()
    with pytest.raises(ValueError, match=r"weight_norm=True .* shape \(4,\).*neuron_param_groups"):
        EWNSGD(model.parameters(), lr=0.1, weight_norm=True)
    with pytest.raises(ValueError, match=r"lr=-1.*>= 0"):
        EWNSGD(model.parameters(), lr=-1)
    with pytest.raises(ValueError, match=r"bfloat16.*float32"):
        SWNSGD(_network().bfloat16().parameters(), lr=0.1)
    reparametrize(model, EWN())
    with pytest.raises(ValueError, match=r"layer '0' is parametrized already \(EWN\)"):
        neuron_param_groups(model)


@pytest.mark.parametrize(
    ("attach", "match"),
    [
        (parametrizations.weight_norm, r"layer '0' is parametrized already \(_WeightNorm\)"),
        (parametrizations.spectral_norm, r"layer '0' is parametrized already \(_SpectralNorm\)"),
        (
            lambda m: prune.identity(m, "weight"),
            r"layer '0' \(Linear\) has a weight that is no par",
        ),
    ],
)
@pytest.mark.parametrize("choose", [mark_neurons, neuron_param_groups])
def test_a_weight_that_is_computed_is_refused(choose, attach, match):
    net = nn.Sequential(nn.Linear(4, 3), nn.ReLU(), nn.Linear(3, 2))
    attach(net[0])
    with pytest.raises(ValueError, match=match + r".*exclude='0'"):
        choose(net)
    assert not any(vars(parameter) for parameter in net.parameters())  # no mark is left
    choose(net, layers="2")


def test_marked_weights_are_grouped_whatever_the_optimizer_is_given():
    """As neuron_param_groups(model) does, from plain parameters, some of them, or groups."""
    net = nn.Sequential(
        nn.Conv2d(1, 4, 3), nn.ConvTranspose2d(4, 6, 3, groups=2), nn.Flatten(), nn.Linear(6, 2)
    )
    expected = EWNSGD(neuron_param_groups(net), lr=0.1)
    mark_neurons(net)

    def layout(optimizer):
        return [
            (
                [id(p) for p in g["params"]],
                g["weight_norm"],
                g["dim"] * g["weight_norm"],
                g["groups"],
            )
            for g in optimizer.param_groups
        ]

    assert layout(EWNSGD(net.parameters(), lr=0.1)) == layout(expected)
    assert layout(EWNSGD([{"params": net.parameters()}], lr=0.1)) == layout(expected)
    assert layout(EWNSGD(net.named_parameters(), lr=0.1)) == layout(expected)
    head = EWNSGD(net[3].parameters(), lr=0.1)  # of the layer that was left
    assert [group["weight_norm"] for group in head.param_groups] == [False]
    parts = EWNSGD([{"params": net[0].weight}, {"params": net[3].parameters(), "lr": 1.0}], lr=0.1)
    assert [(g["weight_norm"], g["lr"]) for g in parts.param_groups] == [(True, 0.1), (False, 1.0)]
    asked = EWNSGD([{"params": net[3].weight, "weight_norm": True}], lr=0.1)
    assert asked.param_groups[0]["weight_norm"]  # what is said outright holds
    other = nn.Linear(2, 2)  # not of the model: no neurons to prune
    assert not EWNSGD([net[0].weight, other.weight], lr=0.1).param_groups[1]["weight_norm"]
    twin = copy.deepcopy(net)
    assert [g["weight_norm"] for g in EWNSGD(twin.parameters(), lr=0.1).param_groups] == [None]
    unmark(net)
    assert [g["weight_norm"] for g in EWNSGD(net.parameters(), lr=0.1).param_groups] == [None]
