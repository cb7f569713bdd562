"""`copy_network`: layers of its own, and whatever else a module holds shared."""

import copy
from functools import partial
from threading import Lock

import pytest
import torch
from torch import nn
from toys.data import loader
from toys.fits import TrainsOnly, make_trainer, mlp

import ewnprune
from ewnprune import EWN, SWN
from ewnprune.model.copying import copy_network, plain_network


class Keeps(nn.Module):
    """What real modules keep: tied weights, lists of layers, methods, caches, things of no copy."""

    def __init__(self, file=None):
        super().__init__()
        self.body = nn.Sequential(nn.Linear(6, 10), nn.BatchNorm1d(10), nn.ReLU())
        self.again = nn.Linear(10, 10)
        self.head = nn.Linear(10, 10)
        self.head.weight = self.again.weight
        self.blocks = [self.body, self.again]  # no ModuleList, and used all the same
        self.by_name = {"head": (self.head, 1)}
        self.step = partial(self._step, factor=2)
        self.bound = self.again.forward
        self.outputs = []
        self.lock, self.file = Lock(), file
        self.loss = self(torch.ones(3, 6)).sum()  # with its graph

    def _step(self, x, factor):
        return factor * self.bound(x)

    def forward(self, x):
        self.outputs.append(len(x))
        for block in self.blocks:
            x = block(x)
        return self.by_name["head"][0](self.step(x))


def test_it_is_the_same_function_of_layers_of_its_own(tmp_path):
    with open(tmp_path / "open", "w") as file:
        net = Keeps(file)
        with pytest.raises(TypeError, match="pickle"):
            copy.deepcopy(net)
        twin, x = copy_network(net), torch.randn(4, 6)
        assert twin.file is file
    assert type(twin) is Keeps
    assert twin.loss is net.loss
    assert torch.equal(twin.eval()(x), net.eval()(x))
    assert (net.outputs, twin.outputs) == ([3, 4], [3, 4])  # two lists
    assert list(twin.state_dict()) == list(net.state_dict())
    ours = {id(m) for m in net.modules()} | {t.data_ptr() for t in net.state_dict().values()}
    theirs = {id(m) for m in twin.modules()} | {t.data_ptr() for t in twin.state_dict().values()}
    assert not ours & theirs
    assert twin.head.weight is twin.again.weight  # tied, as in the model
    before = {key: value.clone() for key, value in net.state_dict().items()}
    expected = net(x)
    with torch.no_grad():  # every way to a layer leads to the copy's: its outputs are all zero
        for parameter in twin.parameters():
            parameter.zero_()
    assert not twin(x).any()
    assert torch.equal(net(x), expected)
    twin.train()(x)  # batch norm's statistics are its own too
    assert all(torch.equal(before[key], value) for key, value in net.state_dict().items())
    assert not net.body.training


@pytest.mark.parametrize("parametrization", [EWN(), SWN()], ids=["EWN", "SWN"])
def test_a_copy_folds_and_the_model_stays_attached(parametrization):
    net, x = mlp(), torch.randn(4, 6)
    ewnprune.reparametrize(net, parametrization)
    plain = {
        key: value.clone() for key, value in ewnprune.fold_state_dict(net.state_dict()).items()
    }
    expected = net(x)
    for _ in range(2):
        twin = copy_network(net)
        assert ewnprune.fold(twin) == ["0"]
        assert list(ewnprune.attached_parametrizations(net)) == ["0"]
        torch.testing.assert_close(twin(x), expected)
        assert isinstance(twin[0].weight, nn.Parameter)
        assert torch.equal(copy.deepcopy(twin)(x), twin(x))
    net.load_state_dict(plain)  # by the hook that the folds of the copies have left alone
    torch.testing.assert_close(net(x), expected)
    assert ewnprune.fold(net) == ["0"]
    net.load_state_dict(plain)
    assert not net[0]._load_state_dict_pre_hooks


def test_hooks_of_a_copy_are_its_own():
    net, calls = nn.Sequential(nn.Linear(3, 3)), []
    net[0].register_forward_hook(lambda *_: calls.append("both"))
    twin = copy_network(net)
    twin[0].register_forward_hook(lambda *_: calls.append("twin"))
    net(torch.ones(1, 3))
    assert calls == ["both"]
    twin(torch.ones(1, 3))
    assert calls == ["both", "both", "twin"]


def test_hooks_of_loading_act_on_the_layers_of_the_copy():
    net, called_with = nn.Sequential(nn.Linear(3, 3)), []
    net[0].register_load_state_dict_pre_hook(lambda module, *_: called_with.append(module))
    twin = copy_network(copy_network(net))
    twin.load_state_dict(net.state_dict())
    assert [*map(id, called_with)] == [id(twin[0])]


@pytest.mark.parametrize("make", [copy_network, plain_network])
def test_a_copy_loads_its_own_state_after_the_model_is_folded(make):
    net = mlp()
    ewnprune.reparametrize(net, EWN())
    twin = make(net)
    expected = {key: value.clone() for key, value in twin.state_dict().items()}
    for _ in range(2):
        twin.load_state_dict(expected)
        torch.testing.assert_close(twin.state_dict(), expected, rtol=0, atol=0)
        ewnprune.fold(net)


def _compiled_in_place():
    net = nn.Sequential(nn.Linear(3, 3), nn.ReLU())
    net.compile(backend="eager")
    return net


def _compiled_method():
    net = nn.Sequential(nn.Linear(3, 3), nn.ReLU())
    net.forward = torch.compile(net.forward, backend="eager")
    return net


@pytest.mark.parametrize(
    "make",
    [
        lambda: nn.Sequential(torch.compile(nn.Linear(3, 3), backend="eager")),
        _compiled_in_place,
        _compiled_method,
        lambda: nn.LSTM(3, 3),
        lambda: torch.fx.symbolic_trace(nn.Sequential(nn.Linear(3, 3), nn.ReLU())),
    ],
    ids=["a part compiled", "in place", "its forward", "LSTM", "torch.fx"],
)
def test_modules_of_other_kinds_run_their_own_layers(make):
    torch.compiler.reset()
    net, x = make(), torch.randn(2, 3)

    def outputs(network):
        found = network(x)
        return found[0] if isinstance(found, tuple) else found

    expected = outputs(net).clone()
    twin = copy_network(net)
    assert torch.equal(outputs(twin), expected)
    assert list(twin.state_dict()) == list(net.state_dict())
    with torch.no_grad():
        for parameter in twin.parameters():
            parameter.zero_()
    assert not outputs(twin).any()
    assert torch.equal(outputs(net), expected)


def test_a_lightning_module_keeps_its_trainer(tmp_path):
    class Copied(TrainsOnly):
        def training_step(self, batch, _):
            twin = copy_network(self)
            assert twin.trainer is self.trainer
            return twin.net(batch[0]).sum() * 0 + self.net(batch[0]).sum()

    make_trainer(tmp_path, max_epochs=1).fit(Copied(), loader())
