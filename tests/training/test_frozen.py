"""Frozen layers: left bit for bit as they are; frozen later, they come back as such parameters."""

import copy

import pytest
import torch
from torch import nn

from ewnprune import (
    EWN,
    SWN,
    NeuronParametrization,
    attached_parametrizations,
    fold,
    reparametrize,
    separate_attention,
)


def _net():
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(4, 3), nn.Tanh(), nn.Linear(3, 3), nn.Tanh(), nn.Linear(3, 2))


@pytest.mark.parametrize("kind", [EWN, SWN])
def test_a_frozen_layer_is_left_with_its_reason_and_bit_for_bit(kind):
    net = _net()
    net[0].requires_grad_(False)
    weight = net[0].weight
    before = weight.clone()
    selection = reparametrize(net, kind())
    assert list(selection.chosen) == ["2"]
    assert selection.left["0"] == "frozen"
    assert fold(net) == ["2"]
    assert net[0].weight is weight and torch.equal(weight, before) and not weight.requires_grad
    assert not list(net.buffers())


def test_only_the_weight_says_whether_a_layer_is_frozen():
    net = _net()
    net[0].bias.requires_grad_(False)
    assert list(reparametrize(net, EWN()).chosen) == ["0", "2"]


def test_a_layer_frozen_after_attaching_comes_back_frozen_and_trains_when_unfrozen():
    net = _net()
    reparametrize(net, EWN())
    net[0].requires_grad_(False)
    before = net[0].weight.clone()
    fold(net)
    assert isinstance(net[0].weight, nn.Parameter) and not net[0].weight.requires_grad
    assert torch.equal(net[0].weight, before)
    assert [name for name, _ in net.named_parameters()] == [
        f"{n}.{key}" for n in (0, 2, 4) for key in ("weight", "bias")
    ]
    net.requires_grad_(True)
    net(torch.ones(1, 4)).sum().backward()
    torch.optim.SGD(net.parameters(), 0.1).step()
    assert not torch.equal(net[0].weight, before)


@pytest.mark.parametrize("mode", [torch.no_grad, torch.inference_mode, torch.enable_grad])
def test_folding_in_any_mode_gives_parameters_that_train(mode):
    net = _net()
    reparametrize(net, EWN())
    with mode():
        fold(net)
    assert all(p.requires_grad and not p.is_inference() for p in net.parameters())
    assert len(list(net.parameters())) == 6
    net(torch.ones(1, 4)).sum().backward()


def test_a_model_that_is_all_frozen_is_refused():
    net = _net().requires_grad_(False)
    before = copy.deepcopy(net.state_dict())
    with pytest.raises(ValueError, match=r"all layers chosen are frozen \('0', '2'\)"):
        reparametrize(net, EWN())
    torch.testing.assert_close(net.state_dict(), before, rtol=0, atol=0)


class _Choosy(NeuronParametrization):
    """Takes no weight of three inputs."""

    def scale(self, s):
        return s

    def scale_inverse(self, norm):
        return norm.clone()

    def right_inverse(self, weight):
        if weight.shape[1] == 3:
            raise NotImplementedError("not of three inputs")
        return super().right_inverse(weight)


def test_a_complex_layer_leaves_the_layers_before_it_unattached():
    net = nn.Sequential(nn.Linear(4, 3), nn.Linear(3, 3, dtype=torch.complex64), nn.Linear(3, 2))
    weights = [layer.weight for layer in net]
    with pytest.raises(ValueError, match=r"layer '1' has a weight of torch.complex64.*exclude='1'"):
        reparametrize(net, EWN())
    assert not attached_parametrizations(net)
    assert all(layer.weight is weight for layer, weight in zip(net, weights, strict=True))


def test_an_error_of_a_users_parametrization_leaves_the_model_unchanged():
    net = _net()
    with pytest.raises(ValueError, match=r"layer '2' cannot be put under _Choosy.*three inputs"):
        reparametrize(net, _Choosy())
    assert not attached_parametrizations(net)


def test_separated_attention_trains_where_the_whole_did():
    attention = nn.MultiheadAttention(8, 2)
    attention.in_proj_weight.requires_grad_(False)
    with torch.no_grad():
        separate = separate_attention(attention)
    trains = {name for name, p in separate.named_parameters() if p.requires_grad}
    biases = {f"{name}.bias" for name in ("query", "key", "value")}
    assert trains == {*biases, "out_proj.weight", "out_proj.bias"}
