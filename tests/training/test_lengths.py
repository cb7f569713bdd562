"""The fast forms of a row of given length, and what they cost a GPU."""

import pytest
import torch
from torch import nn
from torch.nn.utils import parametrizations as torch_parametrizations
from torch.utils._python_dispatch import TorchDispatchMode

from ewnprune import EWN, SWN, reparametrize
from ewnprune.training import lengths
from ewnprune.training.lengths import of_length, of_length_plainly


@pytest.mark.parametrize(
    ("shape", "reduced"), [((40, 300), [1]), ((5, 3, 2, 2), [1, 2, 3]), ((3, 5, 2), [0, 2])]
)
@pytest.mark.parametrize("zero_row", [False, True])
def test_gradients_by_hand_are_those_autograd_finds(shape, reduced, zero_row):
    v = torch.randn(shape, dtype=torch.double)
    length = torch.randn(v.sum(reduced, keepdim=True).shape, dtype=torch.double)
    v *= 1 - zero_row * (torch.arange(length.numel()).view(length.shape) == 1).double()
    g, results = torch.randn(shape, dtype=torch.double), []
    for form in (of_length, of_length_plainly):
        inputs = [x.clone().requires_grad_() for x in (v, length)]
        weight = form(*inputs, reduced)
        gradients = torch.autograd.grad(weight, inputs, g)
        results.append([weight, *gradients])
    torch.testing.assert_close(*results, rtol=1e-12, atol=1e-13)


@pytest.fixture
def as_on_a_gpu(monkeypatch):
    """The path of a device that is not to be waited for, on the CPU."""
    monkeypatch.setattr(lengths, "_asking_waits", lambda rows: True)


@pytest.mark.parametrize("shape", [(40, 300), (5, 3, 2, 2)])
@pytest.mark.parametrize("zero_row", [False, True])
def test_the_path_of_a_gpu_has_the_same_numbers(shape, zero_row, as_on_a_gpu):
    reduced = list(range(1, len(shape)))
    v = torch.randn(shape, dtype=torch.double)
    v[1] *= not zero_row
    length, g, results = torch.randn_like(v.sum(reduced, keepdim=True)), torch.randn_like(v), []
    for form in (of_length, of_length_plainly):
        inputs = [x.clone().requires_grad_() for x in (v, length)]
        weight = form(*inputs, reduced)
        results.append([weight, *torch.autograd.grad(weight, inputs, g)])
    torch.testing.assert_close(*results, rtol=1e-12, atol=1e-13)
    assert (results[0][0][1] == 0).all() == zero_row


@pytest.mark.parametrize("kind", [EWN, SWN])
def test_gradients_of_gradients_on_the_path_of_a_gpu(kind, as_on_a_gpu):
    s, v = (torch.randn(3, n, dtype=torch.double).requires_grad_() for n in (1, 4))
    assert torch.autograd.gradgradcheck(kind(dim=0), (s, v))


class _Kernels(TorchDispatchMode):
    """Notes each operation that computes: one kernel of a GPU."""

    def __init__(self):
        super().__init__()
        self.names = []

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        name = function.overloadpacket.__name__
        if name not in ("detach", "view", "ones_like"):  # the last is the gradient given here
            self.names.append(name)
        return function(*args, **(kwargs or {}))


def _kernels(attach):
    layer = nn.Sequential(nn.Linear(7, 5, bias=False))
    attach(layer)
    with _Kernels() as forward:
        weight = layer[0].weight
    with _Kernels() as backward:
        weight.backward(torch.ones_like(weight))
    return forward.names, backward.names


@pytest.mark.parametrize(("kind", "exp", "mul"), [(EWN, ["exp"], ["mul"]), (SWN, [], [])])
def test_a_gpu_starts_few_kernels_and_waits_for_none(kind, exp, mul, as_on_a_gpu):
    forward, backward = _kernels(lambda model: reparametrize(model, kind(), layers="0"))
    fused = ["_weight_norm_interface", "eq", "masked_fill_", "masked_fill_"]
    assert forward == [*exp, *fused]
    assert backward == ["_weight_norm_interface_backward", *mul]


def test_the_kernels_of_torchs_weight_norm_are_ours_but_for_zero_rows():
    forward, backward = _kernels(lambda model: torch_parametrizations.weight_norm(model[0]))
    assert forward == ["_weight_norm_interface"]
    assert backward == ["_weight_norm_interface_backward"]
