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


def changes_by_finite_differences(net, place, dim, x, y):
    """Mean over samples of how much each one's loss changes per part of a neuron that goes.

    The part goes at all positions and calls at once.
    """
    layer = net.get_submodule(place)

    def losses(neuron, scale):
        factors = torch.ones(len(layer.bias), dtype=x.dtype)
        factors[neuron] = scale
        factors = factors.view(-1, *(1,) * (-1 - dim))
        handle = layer.register_forward_hook(lambda _, __, z: z * factors)
        with torch.no_grad():
            found = F.cross_entropy(net(x), y, reduction="none")
        handle.remove()
        return found

    slopes = [
        (losses(neuron, 1 + 1e-6) - losses(neuron, 1 - 1e-6)) / 2e-6
        for neuron in range(len(layer.bias))
    ]
    return torch.stack(slopes).abs().mean(1)


def test_a_cnn_with_its_batch_norms(batches):
    net = CNN(channels=(3, 4)).double().eval()
    net.norm1.running_mean.normal_()
    net.norm1.weight.data.copy_(torch.tensor([1.0, 0.0, -2.0]))
    net.norm1.bias.data.copy_(torch.tensor([0.1, 0.5, 0.0]))
    net.requires_grad_(False)  # gradients of outputs need none of weights
    two = [(x.double(), y) for x, y in batches[:2]]
    found = measure_neurons(net, batches, 2, batch=lambda pair: (pair[0].double(), pair[1]))
    x, y = (torch.cat(parts) for parts in zip(*two, strict=True))
    z = net.norm1(net.conv1(x))
    torch.testing.assert_close(found["activation"]["conv1"], z.abs().mean((0, 2, 3)))
    expected = changes_by_finite_differences(net, "norm1", -3, x, y)
    torch.testing.assert_close(found["taylor"]["conv1"], expected, rtol=1e-5, atol=1e-8)

    factors = torch.tensor([100.0, 10.0, 0.1], dtype=torch.float64)  # which the BatchNorm undoes
    net.conv1.weight *= factors.view(-1, 1, 1, 1)
    net.norm1.running_mean *= factors
    net.norm1.running_var.add_(1e-5).mul_(factors.square()).sub_(1e-5)
    if net.conv1.bias is not None:
        net.conv1.bias *= factors
    scaled = measure_neurons(net, two)
    for score in ("activation", "taylor"):
        torch.testing.assert_close(scaled[score]["conv1"], found[score]["conv1"])


class Tokens(nn.Module):
    """Layers of which each sample has many rows: in the middle, in front, one by one, in calls."""

    def __init__(self, form):
        super().__init__()
        self.form, self.layer, self.out = form, nn.Linear(5, 6), nn.Linear(6, 3)

    def forward(self, x):  # (samples, tokens, 5)
        if self.form == "first":
            z = self.layer(x.transpose(0, 1)).transpose(0, 1)
        elif self.form == "flat":
            z = self.layer(x.flatten(0, 1)).view(*x.shape[:2], -1)
        elif self.form == "called":
            z = torch.stack([self.layer(token) for token in x.unbind(1)], 1)
        else:
            z = self.layer(x)
        return self.out(torch.tanh(z * torch.arange(1, z.shape[1] + 1).view(-1, 1)).mean(1))


@pytest.mark.parametrize("form", ["middle", "first", "flat", "called"])
def test_all_that_a_neuron_does_for_a_sample_counts_together(form):
    net = Tokens(form).double()
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(4, 6, 5, generator=generator, dtype=torch.float64)
    y = torch.randint(3, (4,), generator=generator)
    found = measure_neurons(net, [(x[:2], y[:2]), (x[2:], y[2:])])
    expected = changes_by_finite_differences(net, "layer", -1, x, y)
    torch.testing.assert_close(found["taylor"]["layer"], expected, rtol=1e-5, atol=1e-8)
    z = net.layer(x).detach()
    torch.testing.assert_close(found["activation"]["layer"], z.abs().mean((0, 1)))


def test_a_batch_norm_over_tokens_is_none_of_the_neurons():
    """It has something for each of 6 tokens, and the layer as many neurons."""
    net = nn.Sequential(nn.Linear(5, 6), nn.BatchNorm1d(6), nn.Flatten(), nn.Linear(36, 3)).double()
    x = torch.randn(4, 6, 5, dtype=torch.float64)
    found = measure_neurons(net, [(x, torch.arange(4) % 3)])
    torch.testing.assert_close(found["activation"]["0"], net[0](x).detach().abs().mean((0, 1)))


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
