import pytest
import pytorch_lightning as pl
import torch
from torch import nn
from torch.nn import functional
from torch.utils.data import DataLoader, TensorDataset
from toys.fits import TrainsOnly, make_trainer

from ewnprune import EWN, Distillation, WeightNormPruning
from ewnprune.recipes.nested import NestedTraining, draw_levels

SPARSITIES = (0.5, 0.75)


def _sgd(parameters):
    return torch.optim.SGD(parameters, lr=0.3, momentum=0.5)


def _mlp():
    return nn.Sequential(nn.Linear(5, 8), nn.ReLU(), nn.Linear(8, 6), nn.ReLU(), nn.Linear(6, 3))


def _data(shape=(5,)):
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(24, *shape, generator=generator, dtype=torch.float64)
    return DataLoader(TensorDataset(x, torch.arange(24) % 3), 8)


def _fit(model, data, *callbacks, val=None, **options):
    make_trainer(None, *callbacks, **options).fit(model, data, val)


def _kept(layer, reader, sparsity):
    """By hand: the neurons that stay, by norm with bias times outgoing norm."""
    score = (layer.weight.square().sum(1) + layer.bias.square()).sqrt() * reader.weight.norm(dim=0)
    removed = round(sparsity * len(score))
    return [u for u in range(len(score)) if u not in score.argsort()[:removed].tolist()]


def _pruned(net, sparsity):
    """By hand: a network of the rows and columns that stay; autograd reaches the large one."""
    first, second, last = net[0], net[2], net[4]
    a, b = _kept(first, second, sparsity), _kept(second, last, sparsity)

    def run(x):
        x = functional.relu(functional.linear(x, first.weight[a], first.bias[a]))
        x = functional.relu(functional.linear(x, second.weight[b][:, a], second.bias[b]))
        return functional.linear(x, last.weight[:, b], last.bias)

    return run


def test_each_image_trains_the_network_it_drew():
    """Six steps against a loop that cuts the small networks out, image by image."""
    pl.seed_everything(3)
    model = TrainsOnly(_mlp().double(), _sgd)
    twin = _mlp().double()
    twin.load_state_dict(model.net.state_dict())
    _fit(model, _data(), NestedTraining(0.6, SPARSITIES))
    optimizer = _sgd(twin.parameters())
    seen = set()
    for epoch in range(2):
        for number, (x, y) in enumerate(_data()):
            draws = draw_levels(len(x), 0.6, 2, (3, epoch, number, 0)).tolist()
            networks = [twin, *(_pruned(twin, s) for s in SPARSITIES)]
            each = [
                functional.cross_entropy(networks[n](x[i : i + 1]), y[i : i + 1])
                for i, n in enumerate(draws)
            ]
            optimizer.zero_grad()
            torch.stack(each).mean().backward()
            optimizer.step()
            seen |= set(draws)
    assert seen == {0, 1, 2}
    for found, expected in zip(model.net.parameters(), twin.parameters(), strict=True):
        torch.testing.assert_close(found, expected)


def _sub(net, sparsity, inner, levels):
    """By hand: a pruned network, neuron by neuron, each with its part of the gradient."""
    first, second, last = net[0], net[2], net[4]
    of = {s: (_kept(first, second, s), _kept(second, last, s)) for s in (0.0, *levels)}

    def read(x, layer, number, inputs, outputs):
        value = layer.bias[outputs]
        for j in inputs:
            term = layer.weight[outputs, j] * x[:, j, None]
            smaller = [s for s in levels if s > sparsity and j in of[s][number]]
            part = inner ** len(smaller)
            value = value + part * term + (1 - part) * term.detach()
        return value

    def run(x):
        a, b = of[sparsity]
        x = functional.relu(functional.linear(x, first.weight, first.bias))
        hidden = torch.zeros(len(x), 6, dtype=x.dtype)
        hidden[:, b] = functional.relu(read(x, second, 0, a, b))
        return read(hidden, last, 1, b, [0, 1, 2])

    return run


@pytest.mark.parametrize("inner", [1.0, 0.5, 0.0])
def test_every_image_trains_every_network(inner):
    """Six steps against networks cut out by hand, of which each neuron has its part."""
    pl.seed_everything(3)
    model = TrainsOnly(_mlp().double(), _sgd)
    twin = _mlp().double()
    twin.load_state_dict(model.net.state_dict())
    nested = NestedTraining("every", SPARSITIES, inner_gradient=inner)
    _fit(model, _data(), nested, max_epochs=2)
    assert "training_step" not in vars(model)
    optimizer = _sgd(twin.parameters())
    for _ in range(2):
        for x, y in _data():
            networks = [_sub(twin, s, inner, SPARSITIES) for s in (0.0, *SPARSITIES)]
            losses = [functional.cross_entropy(network(x), y) for network in networks]
            optimizer.zero_grad()
            torch.stack(losses).mean().backward()
            optimizer.step()
    for found, expected in zip(model.net.parameters(), twin.parameters(), strict=True):
        torch.testing.assert_close(found, expected)


def test_images_that_draw_teach_inner_neurons_a_part():
    pl.seed_everything(3)
    model = TrainsOnly(_mlp().double(), _sgd)
    twin = _mlp().double()
    twin.load_state_dict(model.net.state_dict())
    _fit(model, _data(), NestedTraining(0.6, SPARSITIES, inner_gradient=0.5), max_steps=1)
    x, y = next(iter(_data()))
    draws = draw_levels(len(x), 0.6, 2, (3, 0, 0, 0)).tolist()
    networks = [_sub(twin, s, 0.5, SPARSITIES) for s in (0.0, *SPARSITIES)]
    rows = [networks[n](x[i : i + 1]) for i, n in enumerate(draws)]
    functional.cross_entropy(torch.cat(rows), y).backward()
    _sgd(twin.parameters()).step()
    for found, expected in zip(model.net.parameters(), twin.parameters(), strict=True):
        torch.testing.assert_close(found, expected)


class _Validated(TrainsOnly):
    def validation_step(self, batch, _):
        self.evaluated = self(batch[0]).clone()


def test_validation_sees_the_whole_network_and_nothing_stays():
    model, data = _Validated(_mlp().double(), _sgd), _data()
    _fit(model, data, NestedTraining(1.0, [0.75]), val=data, max_epochs=1)
    last, _ = list(data)[-1]
    assert torch.equal(model.evaluated, model.net(last))
    assert not any(m._forward_pre_hooks or m._forward_hooks for m in model.modules())


def test_a_share_of_zero_is_training_as_usual():
    pl.seed_everything(1)
    model = TrainsOnly(_mlp().double(), _sgd)
    again = TrainsOnly(_mlp().double(), _sgd)
    again.net.load_state_dict(model.net.state_dict())
    _fit(model, _data(), NestedTraining(0.0))
    _fit(again, _data())
    for found, expected in zip(model.parameters(), again.parameters(), strict=True):
        assert torch.equal(found, expected)


def test_with_ewn_convolutions_and_batch_norm():
    """A filter is silenced after its BatchNorm, by the layer that reads it: all its pixels."""
    net = nn.Sequential(
        nn.Conv2d(1, 4, 3, bias=False), nn.BatchNorm2d(4), nn.ReLU(), nn.Flatten(), nn.Linear(64, 3)
    ).double()
    before = net[4].weight.detach().clone()
    kept = (net[0].weight.flatten(1).norm(dim=1) * before.view(3, 4, 16).norm(dim=(0, 2))).argmax()
    callbacks = NestedTraining(1.0, [0.75]), WeightNormPruning(EWN(), (0,))
    _fit(TrainsOnly(net, _sgd), _data((1, 6, 6)), *callbacks, max_steps=1)
    moved = (net[4].weight - before).view(3, 4, 16).abs().amax(dim=(0, 2)) > 0
    assert moved.tolist() == [u == kept for u in range(4)]


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: NestedTraining(1.5), "share=1.5"),
        (lambda: NestedTraining("all"), "share='all'"),
        (lambda: NestedTraining(0.1, inner_gradient=2), "inner_gradient=2"),
        (
            lambda: NestedTraining("every", distill=Distillation()),
            "distill= is for images that draw",
        ),
        (lambda: NestedTraining(0.1, [1.0]), "sparsity 1.0"),
        (lambda: NestedTraining(0.1, score="nrm"), "unknown score"),
    ],
)
def test_bad_settings(make, message):
    with pytest.raises(ValueError, match=message):
        make()


def test_a_score_of_single_weights_is_refused():
    with pytest.raises(ValueError, match="ranks single weights"):
        _fit(TrainsOnly(_mlp().double(), _sgd), _data(), NestedTraining(1.0, score="magnitude"))


class Steps(nn.Module):
    def __init__(self):
        super().__init__()
        self.rnn, self.hidden, self.head = nn.GRU(1, 6, batch_first=True), nn.Linear(6, 8), _head()

    def forward(self, x):
        return self.head(self.hidden(self.rnn(x[..., None])[0][:, -1]).tanh())


def _head():
    return nn.Linear(8, 3)


def test_hidden_units_of_recurrent_layers_are_not_nested(capsys):
    torch.manual_seed(0)
    net = Steps().double()
    before = {name: value.clone() for name, value in net.named_parameters()}
    _fit(TrainsOnly(net, _sgd), _data(), NestedTraining(1.0, [0.75]), max_steps=1)
    said = "not nested, since a norm or a recurrent layer reads across them: net.rnn"
    assert said in capsys.readouterr().out
    # three quarters of the hidden layer saw no gradient, and all of the recurrent one did
    moved = {name: (value - before[name]) != 0 for name, value in net.named_parameters()}
    assert moved["head.weight"].any(0).sum() == 2
    assert moved["rnn.weight_ih_l0"].any(1).sum() == 18
    with pytest.raises(ValueError, match="a recurrent layer reads across the neurons of net"):
        _fit(TrainsOnly(net, _sgd), _data(), NestedTraining(1.0, [0.75], layers="net.rnn"))
