"""HAM, Group-HS and Network Slimming: a fit of one step against a few lines of NumPy."""

import numpy as np
import pytest
import pytorch_lightning as pl
import torch
from pytorch_lightning.plugins import MixedPrecision
from torch import nn
from toys.data import loader, points
from toys.fits import Net, TrainsOnly, fit, make_trainer

from ewnprune import (
    EWN,
    HAM,
    AsymptoticRelations,
    DGating,
    FactorDecay,
    Finetune,
    GroupHS,
    GroupLasso,
    InitialNorms,
    LogNormPenalty,
    NetworkSlimming,
    WeightNormPruning,
)
from ewnprune.recipes import ham
from ewnprune.recipes.group_hs import hoyer_gradient
from ewnprune.recipes.ham import take_step

LR = 0.1


class _Net(TrainsOnly):
    """In float64, trained by SGD with momentum, whose first step is a plain one."""

    def __init__(self, *layers):
        layers = layers or (nn.Linear(6, 10), nn.ReLU(), nn.Linear(10, 2))
        super().__init__(
            nn.Sequential(*layers).double(), lambda p: torch.optim.SGD(p, LR, momentum=0.9)
        )

    def training_step(self, batch, _):
        return nn.functional.cross_entropy(self(batch[0].double()), batch[1])


def _one_step(model, *callbacks, **options):
    """What the parameters and their gradients were, and what the parameters are."""
    before = {k: v.detach().numpy().copy() for k, v in model.net.named_parameters()}
    data = torch.utils.data.DataLoader(points(16), batch_size=16)
    batch = next(iter(data))
    trained = {k: p for k, p in model.net.named_parameters() if p.requires_grad}
    gradients = torch.autograd.grad(model.training_step(batch, 0), list(trained.values()))
    slopes = {k: g.numpy() for k, g in zip(trained, gradients, strict=True)}
    make_trainer(None, *callbacks, max_epochs=1, **options).fit(model, data)
    return before, slopes, {k: v.detach().numpy() for k, v in model.net.named_parameters()}


def _plain(before, slopes, changed):
    """All but one as SGD leaves them."""
    return {k: w - LR * slopes[k] for k, w in before.items() if k != changed}


@pytest.mark.parametrize("per_neuron", [False, True])
def test_ham_is_its_formula_after_the_optimizers_step(per_neuron):
    pl.seed_everything(1)
    model = _Net()
    with torch.no_grad():
        model.net[0].weight[3] = 0
        model.net[0].bias[3] = -10.0  # has no gradient, and stays zero
    before, slopes, after = _one_step(model, HAM(2.0, 0.3, per_neuron))
    w = before["0.weight"] - LR * slopes["0.weight"]
    expected = np.zeros_like(w)
    for u in range(len(w)):
        g = slopes["0.weight"][u]
        along = w[u] @ g / max(np.sqrt(w[u] @ w[u]), 1e-300) if per_neuron else np.sign(w[u]) * g
        expected[u] = w[u] * np.exp(-LR * (2.0 * along + 0.3))
    np.testing.assert_allclose(after["0.weight"], expected)
    for key, value in _plain(before, slopes, "0.weight").items():
        np.testing.assert_allclose(after[key], value)


def test_ham_goes_on_under_the_optimizer_of_finetuning(tmp_path, monkeypatch):
    steps = []
    monkeypatch.setattr(ham, "take_step", lambda *_: steps.append(1))
    pruning = WeightNormPruning(None, (0, 0.5), finetune=Finetune(1, 0.5))
    fit(tmp_path, Net(), HAM(), pruning, max_epochs=1)
    assert len(steps) == 2 * 4


def test_ham_per_neuron_of_a_transposed_convolution():
    layer = nn.ConvTranspose2d(4, 6, 3, groups=2).double()
    before = layer.weight.detach().clone()
    layer.weight.grad = torch.randn_like(before)
    take_step(layer, 0.1, 3.0, 0.2, per_neuron=True)
    for u in range(6):  # (in, out / groups, ...): inputs 0 and 1 belong to outputs 0 to 2
        place = slice(2 * (u // 3), 2 * (u // 3) + 2), u % 3
        w, g = before[place], layer.weight.grad[place]
        factor = np.exp(-0.1 * (3.0 * float((w * g).sum() / w.norm()) + 0.2))
        torch.testing.assert_close(layer.weight.detach()[place], w * factor)


def test_group_hs_adds_the_gradient_of_its_measure():
    pl.seed_everything(1)
    model = _Net()
    before, slopes, after = _one_step(model, GroupHS(0.05))

    def measure(weight):
        norms = np.sqrt((weight**2).sum(1))
        return norms.sum() ** 2 / (norms**2).sum()

    w = before["0.weight"]
    for place in np.ndindex(w.shape):  # by central differences
        e = np.zeros_like(w)
        e[place] = 1e-5
        slope = (measure(w + e) - measure(w - e)) / 2e-5
        expected = w[place] - LR * (slopes["0.weight"][place] + 0.05 * slope)
        assert after["0.weight"][place] == pytest.approx(expected, abs=1e-9)
    for key, value in _plain(before, slopes, "0.weight").items():
        np.testing.assert_allclose(after[key], value)
    assert torch.equal(hoyer_gradient(torch.zeros(3, 2)), torch.zeros(3, 2))


def test_network_slimming_adds_the_sign_of_scales():
    pl.seed_everything(1)
    model = _Net(
        nn.Linear(6, 10), nn.BatchNorm1d(10), nn.ReLU(), nn.Linear(10, 8), nn.BatchNorm1d(8),
        nn.Linear(8, 2),
    )  # fmt: skip
    with torch.no_grad():
        model.net[1].weight[0], model.net[1].weight[1] = -2.0, 0.0
    model.net[4].requires_grad_(False)
    before, slopes, after = _one_step(model, NetworkSlimming(0.05))
    signs = np.array([-1, 0, *[1] * 8])
    expected = before["1.weight"] - LR * (slopes["1.weight"] + 0.05 * signs)
    np.testing.assert_allclose(after["1.weight"], expected)
    np.testing.assert_array_equal(after["4.weight"], before["4.weight"])
    del before["4.weight"], before["4.bias"]
    for key, value in _plain(before, slopes, "1.weight").items():
        np.testing.assert_allclose(after[key], value)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: HAM(alpha=-1), "alpha=-1"),
        (lambda: HAM(beta=-1), "beta=-1"),
        (lambda: GroupHS(-1), "strength=-1"),
        (lambda: NetworkSlimming(-1), "strength=-1"),
    ],
)
def test_numbers_out_of_range(make, message):
    with pytest.raises(ValueError, match=message):
        make()


def test_what_they_cannot_work_on():
    with pytest.raises(ValueError, match="the model has none that is a plain parameter"):
        _one_step(_Net(), NetworkSlimming(0.1))
    for callback in (HAM(), GroupHS(0.1)):
        with pytest.raises(ValueError, match="which is reparametrized: it works on plain weights"):
            _one_step(_Net(), WeightNormPruning(EWN(), (0,)), callback)
    model = _Net()
    nn.utils.prune.identity(model.net[0], "weight")  # a weight that is made of others, as once
    for callback in (HAM(), GroupHS(0.1), GroupLasso(0.1)):
        with pytest.raises(ValueError, match=r"on layer 'net\.0', which"):
            callback.on_fit_start(None, model)
    with pytest.raises(ValueError, match=r"'net\.0' is reparametrized already"):
        InitialNorms(0.1).setup(None, model, "fit")


@pytest.mark.parametrize(
    "callbacks",
    [
        [HAM()],
        [GroupHS(0.1)],
        [NetworkSlimming(0.1)],
        [WeightNormPruning(EWN(), (0,)), LogNormPenalty(0.1)],
        [WeightNormPruning(DGating(), (0,)), FactorDecay(0.1)],
        [AsymptoticRelations()],
    ],
    ids=lambda callbacks: type(callbacks[-1]).__name__,
)
def test_gradients_that_a_fused_optimizer_unscales_itself_are_refused(tmp_path, callbacks):
    layers = nn.Linear(6, 10), nn.BatchNorm1d(10), nn.ReLU(), nn.Linear(10, 2)
    model = TrainsOnly(nn.Sequential(*layers), lambda p: torch.optim.SGD(p, LR, fused=True))
    scaled = MixedPrecision("16-mixed", "cpu", torch.amp.GradScaler("cpu"))
    name = type(callbacks[-1]).__name__
    with pytest.raises(ValueError, match=rf"{name} under .*16-mixed.* with SGD\(fused=True\)"):
        make_trainer(tmp_path, *callbacks, plugins=[scaled]).fit(model, loader())
