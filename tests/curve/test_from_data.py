"""Scores that go by data: against sums by hand, neuron by neuron and sample by sample."""

import pytest
import torch
from torch import nn
from torch.nn import functional as F
from toys.data import loader
from toys.fits import Net, fit, make_trainer
from toys.networks import Residual

from ewnprune import WeightNormPruning, measure_neurons, remove_neurons, sparsity_curve
from lightning_modules import CNN


def mlp():
    layers = [nn.Linear(5, 6), nn.ReLU(inplace=True), nn.Linear(6, 1), nn.Tanh(), nn.Linear(1, 3)]
    return nn.Sequential(*layers).double().eval()


def data(batches=3):
    generator = torch.Generator().manual_seed(1)
    return [
        (
            torch.randn(4 + k, 5, generator=generator, dtype=torch.float64),
            torch.randint(3, (4 + k,), generator=generator),
        )
        for k in range(batches)
    ]


def test_an_mlp_by_finite_differences():
    """What one neuron's output times the slope of the loss along it is, in every sample."""
    net = mlp()
    found = measure_neurons(net, data())
    assert set(found) == {"activation", "taylor"} and set(found["taylor"]) == {"0", "2", "4"}
    layers = [0, 2, 4]
    for place in layers:
        absolute, products = [], []
        for x, y in data():
            for sample, target in zip(x.split(1), y.split(1), strict=True):
                with torch.no_grad():
                    z = net[: place + 1](sample)
                    absolute.append(z.abs()[0])
                    row = []
                    for neuron in range(z.shape[1]):
                        step = torch.zeros_like(z)
                        step[0, neuron] = 1e-6
                        up, down = (
                            F.cross_entropy(net[place + 1 :](z + sign * step), target)
                            for sign in (1, -1)
                        )
                        row.append((z[0, neuron] * (up - down) / 2e-6).abs())
                    products.append(torch.stack(row))
        torch.testing.assert_close(found["activation"][f"{place}"], torch.stack(absolute).mean(0))
        torch.testing.assert_close(
            found["taylor"][f"{place}"], torch.stack(products).mean(0), rtol=1e-5, atol=1e-8
        )


def test_a_cnn_over_all_positions(batches):
    net = CNN(channels=(3, 4)).double().eval()
    net.norm1.running_mean.normal_()
    net.requires_grad_(False)  # gradients of outputs need none of weights
    two = [(x.double(), y) for x, y in batches[:2]]
    found = measure_neurons(net, batches, 2, batch=lambda pair: (pair[0].double(), pair[1]))
    z = torch.cat([net.conv1(x) for x, _ in two])
    torch.testing.assert_close(found["activation"]["conv1"], z.abs().mean((0, 2, 3)))
    z.requires_grad_()
    y = torch.cat([y for _, y in two])
    F.cross_entropy(nn.Sequential(*list(net)[1:])(z.clone()), y, reduction="sum").backward()
    torch.testing.assert_close(found["taylor"]["conv1"], (z * z.grad).abs().mean((0, 2, 3)))


def test_the_model_is_left_as_it_was():
    net = mlp().train()
    before = {key: value.clone() for key, value in net.state_dict().items()}
    state = torch.get_rng_state()
    measure_neurons(net, data(), 1)
    assert net.training and all(p.grad is None and p.requires_grad for p in net.parameters())
    assert all(value.equal(before[key]) for key, value in net.state_dict().items())
    assert torch.get_rng_state().equal(state)
    assert not any(module._forward_hooks for module in net.modules())


def test_other_losses_and_tasks_without_one():
    net = nn.Linear(5, 2).double()
    pairs = [(x, x[:, :2]) for x, _ in data()]
    assert set(measure_neurons(net, pairs)) == {"activation"}
    found = measure_neurons(net, pairs, loss_fn=lambda z, y: (z - y).square().mean(1))
    x = torch.cat([x for x, _ in pairs])
    z = net(x).detach()
    torch.testing.assert_close(found["taylor"][""], (z * (z - x[:, :2])).abs().mean(0))
    with pytest.raises(ValueError, match="the loader gave no batch"):
        measure_neurons(net, [])


class Wrapped(nn.Module):
    def __init__(self):
        super().__init__()
        self.net = mlp()

    def forward(self, x):
        return {"logits": self.net(x), "hidden": x[:1]}


@pytest.mark.parametrize("loss", [None, lambda given, y: F.cross_entropy(given["logits"], y)])
def test_outputs_are_read_as_a_curve_reads_them(loss):
    net = Wrapped()
    found = measure_neurons(net, data(), loss_fn=loss)["taylor"]
    expected = measure_neurons(net.net, data())["taylor"]
    for name, values in expected.items():
        torch.testing.assert_close(found[f"net.{name}"], values, rtol=1e-5, atol=1e-8)


def test_targets_are_read_as_a_curve_reads_them():
    net, (x, y) = mlp(), data()[0]
    expected = measure_neurons(net, [(x[1:], y[1:])])["taylor"]
    for mark, dtype in ((255, torch.int64), (-1, torch.int32), (255, torch.uint8)):
        marked = y.clone()
        marked[0] = mark
        found = measure_neurons(net, [(x, marked.to(dtype))])["taylor"]
        for name, values in expected.items():  # over one more, of which there is no loss
            torch.testing.assert_close(found[name] * len(x), values * (len(x) - 1))
    with pytest.raises(ValueError, match="target 3 is none of the model's 3 classes"):
        measure_neurons(net, [(x, y), (x, y * 0 + 3)])


@pytest.mark.parametrize("score", ["activation", "taylor"])
def test_removal_and_curves_go_by_them(score):
    net = mlp()
    measured = measure_neurons(net, data())
    lowest = measured[score]["0"].argsort()[:3]
    small = remove_neurons(net, 0.5, data()[0][0], score=score, measured=measured)
    kept = [i for i in range(6) if i not in lowest]
    assert small[0].weight.equal(net[0].weight[kept])
    (point,) = sparsity_curve(net, data(), (0.5,), score, measured=measured)
    with torch.no_grad():
        loss = sum(float(F.cross_entropy(small(x), y, reduction="sum")) for x, y in data())
    assert point.loss == pytest.approx(loss / 15)


def test_coupled_layers_have_the_mean_of_both():
    net = Residual().double().eval()
    x = torch.randn(6, 3, dtype=torch.float64)
    measured = measure_neurons(net, [(x, torch.zeros(6, dtype=torch.long))])
    means = (measured["activation"]["first"] + measured["activation"]["second"]) / 2
    small = remove_neurons(net, 0.5, x, score="activation", measured=measured)
    kept = means.argsort()[2:].sort().values
    assert small.first.weight.equal(net.first.weight[kept])


class Last(nn.Module):
    def forward(self, given):
        return given[0][-1]


def test_what_is_missing_or_does_not_fit_is_told():
    net, x = mlp(), data()[0][0]
    with pytest.raises(ValueError, match="score 'taylor' goes by data, and none were measured"):
        remove_neurons(net, 0.5, x, score="taylor")
    words = nn.Sequential(nn.Embedding(5, 4), nn.LSTM(4, 6), Last(), nn.Linear(6, 3))
    with pytest.raises(ValueError, match="layers are not measured: leave it with exclude='1'"):
        remove_neurons(words, 0.5, torch.zeros(3, 2).long(), score="taylor", measured={})
    wrong = {"activation": {"0": torch.ones(5)}}
    with pytest.raises(ValueError, match=r"measured\['activation'\]\['0'\] has 5 numbers"):
        remove_neurons(net, 0.5, x, score="activation", measured=wrong)


def test_the_callback_measures_on_validation_data(tmp_path):
    pruning = WeightNormPruning(None, (0, 0.5), ["norm", "activation", "taylor"])
    model = Net()
    trainer = fit(tmp_path, model, pruning, max_epochs=2)
    batches = list(trainer.val_dataloaders)
    measured = measure_neurons(model, batches)
    expected = sparsity_curve(
        model, batches, (0, 0.5), ["norm", "activation", "taylor"], measured=measured
    )
    assert [p.correct for p in pruning.curve] == [p.correct for p in expected]
    assert [p.loss for p in pruning.curve] == pytest.approx([p.loss for p in expected])
    with pytest.raises(ValueError, match="'activation' goes by data, which test data must not be"):
        make_trainer(tmp_path, pruning).test(model, loader(40, 1), verbose=False)
