"""A sweep leaves the model, the random numbers and the batches as they were."""

import random as python_random

import numpy as np
import pytest
import torch
from torch import nn
from torch.utils.data import DataLoader, TensorDataset
from toys.sweeps import Catch

from ewnprune import EWN, reparametrize
from ewnprune.curve.sweep import sparsity_curve
from lightning_modules import CNN

LEVELS = (0, 0.3, 0.5, 0.8, 0.95)


def everything(net):
    state = {key: value.clone() for key, value in net.state_dict().items()}
    flags = [module.training for module in net.modules()]
    attributes = [
        {key: id(value) for key, value in vars(module).items()} for module in net.modules()
    ]
    hooks = [(len(m._forward_hooks), len(m._forward_pre_hooks)) for m in net.modules()]
    return state, flags, attributes, hooks


def generators():
    torch_state, numpy_state = torch.get_rng_state(), np.random.get_state()
    cuda = torch.cuda.get_rng_state_all() if torch.cuda.is_available() else []
    return torch_state, numpy_state[1].copy(), numpy_state[2], python_random.getstate(), cuda


class Restless(nn.Module):
    """Draws numbers, keeps what it saw and moves a buffer, even in eval mode."""

    def __init__(self, traceable):
        super().__init__()
        self.traceable = traceable
        self.register_buffer("seen", torch.zeros(2))
        self.register_buffer("last", torch.zeros(2))
        self.count, self.cache = 0, None

    def forward(self, x):
        python_random.random(), np.random.rand()
        self.seen += 1
        self.last = self.seen + torch.rand(2)
        self.count += 1
        self.cache = x
        self.fresh = x
        return x if self.traceable or x.sum() < 1e9 else -x


class Bomb:
    """A forward hook that raises in the middle of a masked forward pass."""

    def __init__(self, error):
        self.error, self.calls = error, 0

    def __call__(self, *_):
        self.calls += 1
        if self.error is not None and self.calls == 12:
            raise self.error


@pytest.mark.parametrize("mode", [torch.enable_grad, torch.no_grad, torch.inference_mode])
@pytest.mark.parametrize(
    ("error", "scores"),
    [
        (None, ("norm", "random")), (None, ("magnitude",)),
        (RuntimeError("boom"), ("norm", "random")), (KeyboardInterrupt(), ("magnitude",)),
    ],
)  # fmt: skip
@pytest.mark.parametrize("parametrized", [False, True], ids=["plain", "ewn"])
@pytest.mark.parametrize("traceable", [False, True], ids=["eager", "traced"])
def test_the_model_and_the_generators_stay_as_they_were(
    batches, traceable, parametrized, scores, error, mode
):
    net = nn.Sequential(
        nn.Flatten(), nn.Linear(784, 20), nn.BatchNorm1d(20), Restless(traceable),
        nn.Dropout(), nn.Linear(20, 15), nn.ReLU(), nn.Linear(15, 10),
    )  # fmt: skip
    if parametrized:
        reparametrize(net, EWN())
    net[2].eval()  # flags differ between modules
    net[5].register_forward_hook(Bomb(error))
    data = TensorDataset(*(torch.cat(parts) for parts in zip(*batches, strict=True)))
    own = torch.Generator().manual_seed(7)
    loader = DataLoader(data, 50, shuffle=True, generator=own)
    before, states, own_state = everything(net), generators(), own.get_state()
    with mode():
        if error is None:
            sparsity_curve(net, loader, LEVELS, scores, seed=1)
        else:
            with pytest.raises(type(error)):
                sparsity_curve(net, loader, LEVELS, scores, seed=1)
        assert torch.is_grad_enabled() == (mode is torch.enable_grad)
        assert torch.is_inference_mode_enabled() == (mode is torch.inference_mode)
    after, states_after = everything(net), generators()
    assert before[0].keys() == after[0].keys()
    assert all(torch.equal(before[0][key], after[0][key]) for key in before[0])
    assert before[1:] == after[1:]
    for one, other in zip(states, states_after, strict=True):
        if isinstance(one, torch.Tensor | np.ndarray):
            assert (one == other).all()
        else:
            assert one == other
    assert torch.equal(own.get_state(), own_state)
    net.train()(batches[0][0]).sum().backward()  # and it still trains


def test_an_error_of_the_loader_leaves_no_hook(batches):
    net = CNN(channels=(4, 4))

    def loader():
        yield batches[0]
        raise OSError("disk gone")

    before = everything(net)
    with pytest.raises(OSError, match="disk gone"):
        sparsity_curve(net, loader(), LEVELS, ("norm", "magnitude"))
    assert everything(net)[1:] == before[1:]


def test_the_batches_stay_as_they_were():
    class Greedy(nn.Module):
        def __init__(self):
            super().__init__()
            self.fc1, self.fc2 = nn.Linear(4, 6), nn.Linear(6, 3)

        def forward(self, x):
            return self.fc2(self.fc1(x.mul_(2)).relu_())

    x, y = torch.randn(8, 4), torch.randint(3, (8,))
    copy = x.clone()
    net, catch = Greedy(), Catch()
    sparsity_curve(net, [(x, y)], (0, 0.5), loss_fn=catch)
    assert torch.equal(x, copy)
    assert torch.equal(catch.outputs[0], net(x.clone()))
