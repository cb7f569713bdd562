"""Which layers are attached, and folded again."""

import copy

import pytest
import torch
from torch import nn
from torch.nn.utils import parametrizations as torch_parametrizations
from torch.nn.utils import parametrize
from toys.networks import convolution_first

from ewnprune import (
    EWN,
    SWN,
    DGating,
    Powerpropagation,
    attached_parametrizations,
    fold,
    fold_state_dict,
    reparametrize,
)
from ewnprune.model.copying import plain_network
from ewnprune.model.size import count_parameters
from ewnprune.training.attach import check_attached

X = torch.randn(3, 1, 4, 4, generator=torch.Generator().manual_seed(9))


def test_default_is_every_layer_but_the_last_and_all_are_accounted_for():
    model = convolution_first()
    selection = reparametrize(model, EWN())
    assert list(selection.chosen) == ["0", "3"]
    assert selection.left == {"5": "the last layer: its outputs are the model's"}
    assert list(attached_parametrizations(model)) == ["0", "3"]


def test_layers_by_glob_and_type_and_exclude():
    assert list(reparametrize(convolution_first(), EWN(), layers=nn.Linear).chosen) == ["3", "5"]
    assert list(
        reparametrize(convolution_first(), EWN(), layers=["0", nn.Linear], exclude="5").chosen
    ) == [
        "0",
        "3",
    ]


@pytest.mark.parametrize("kind", [EWN, SWN])
def test_outputs_stay_and_folding_restores_a_plain_model(kind):
    model = convolution_first()
    plain_state, expected = copy.deepcopy(model.state_dict()), model(X)
    reparametrize(model, kind(), layers=[nn.Linear, nn.Conv2d])
    torch.testing.assert_close(model(X), expected)
    during = model(X)
    assert fold(model) == ["0", "3", "5"]
    torch.testing.assert_close(model(X), during, rtol=0, atol=0)
    assert list(model.state_dict()) == list(plain_state)
    assert [name for name, _ in model.named_parameters()] == list(plain_state)
    assert type(model[0]) is nn.Conv2d
    assert not any(parametrize.is_parametrized(m) for m in model.modules())
    assert not any(m._load_state_dict_pre_hooks for m in model.modules())


def test_a_layer_that_is_compiled_by_itself():
    """It shows the attributes of the layer in it, the parametrization included."""
    torch.compiler.reset()
    model, x = nn.Sequential(nn.Linear(3, 4), nn.ReLU(), nn.Linear(4, 2)), torch.randn(5, 3)
    expected, plain_keys = model(x), {key for key in model.state_dict() if key.startswith("2")}
    model[0] = torch.compile(model[0], backend="eager")
    assert [*reparametrize(model, EWN()).chosen] == ["0._orig_mod"]
    torch.testing.assert_close(model(x), expected)
    torch.testing.assert_close(plain_network(model)(x), expected)
    assert count_parameters(model) == 26
    assert fold(model) == ["0._orig_mod"]
    torch.testing.assert_close(model(x), expected)
    assert set(model.state_dict()) == {"0._orig_mod.weight", "0._orig_mod.bias", *plain_keys}


def test_folding_one_copy_leaves_the_other():
    model = convolution_first()
    reparametrize(model, EWN())
    twin = copy.deepcopy(model)
    fold(model)
    torch.testing.assert_close(twin(X), model(X))
    assert list(attached_parametrizations(twin)) == ["0", "3"]
    twin.load_state_dict(model.state_dict())
    fold(twin)
    torch.testing.assert_close(twin(X), model(X))


def test_folding_leaves_other_peoples_parametrizations():
    model = convolution_first()
    torch_parametrizations.spectral_norm(model[5])
    reparametrize(model, EWN())
    assert fold(model) == ["0", "3"]
    assert parametrize.is_parametrized(model[5], "weight")


def test_the_model_itself_may_be_the_layer():
    layer = nn.Linear(3, 2)
    expected = copy.deepcopy(layer.state_dict())
    reparametrize(layer, EWN(), layers=nn.Linear)
    torch.testing.assert_close(fold_state_dict(layer.state_dict()), expected)
    layer.load_state_dict(expected)
    assert fold(layer) == [""]
    torch.testing.assert_close(layer.state_dict(), expected)


def test_folding_refuses_what_lies_on_top():
    model = convolution_first()
    reparametrize(model, EWN())
    torch_parametrizations.spectral_norm(model[3])
    before = list(model.state_dict())
    with pytest.raises(ValueError, match="layer '3' has _SpectralNorm on top of EWN"):
        fold(model)
    assert list(model.state_dict()) == before


@pytest.mark.parametrize(
    ("parametrization", "other", "message"),
    [
        (EWN(), EWN(batchnorm=True), r"layer '0' of the model is EWN\(dim=0\) .* to be plain"),
        (EWN(), EWN(inputs=True), r"is EWN\(dim=0\) already, .* EWN\(dim=1, inputs=True\)"),
        (EWN(batchnorm=True), EWN(), r"layer '1' of the model is EWN\(dim=0, batchnorm=True\)"),
        (EWN(inputs=True), EWN(inputs=True, dim=0), None),
        (DGating(2), DGating(3), r"is DGating\(depth=2, dim=0\) .* DGating\(depth=3, dim=0\)"),
        (Powerpropagation(2), Powerpropagation(3), "exponent=2.*exponent=3"),
        (SWN(), EWN(), r"is SWN\(dim=0\) already, and here it is to be EWN"),
    ],
    ids=str,
)
def test_what_is_attached_already_is_told_from_what_is_asked_for(parametrization, other, message):
    net = nn.Sequential(
        nn.Linear(6, 5), nn.BatchNorm1d(5), nn.ReLU(), nn.Linear(5, 4), nn.Linear(4, 2)
    )
    attached = reparametrize(net, parametrization)
    net[0].requires_grad_(False)  # what is frozen afterwards stays attached
    assert str(check_attached(net, parametrization)) == str(attached)
    for asked, layers in ((other, None), (parametrization, "4")):
        if layers or message:
            with pytest.raises(ValueError, match=".*" if layers else message):
                check_attached(net, asked, layers)
