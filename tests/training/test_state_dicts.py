"""State dicts of EWN, SWN, plain weights and torch's weight norm load into each other, or fail."""

import copy

import pytest
import torch
from torch import nn
from torch.nn.utils import parametrizations as torch_parametrizations
from toys.networks import convolution_first

from ewnprune import EWN, SWN, fold_state_dict, reparametrize

X = torch.randn(3, 1, 4, 4, generator=torch.Generator().manual_seed(9))


@pytest.mark.parametrize("kind", [EWN, SWN])
def test_plain_state_dicts_load_into_reparametrized_models_and_back(kind):
    plain, other = convolution_first(0), convolution_first(1)
    reparametrize(other, kind())
    other.load_state_dict(plain.state_dict())
    torch.testing.assert_close(other(X), plain(X))
    folded = fold_state_dict(other.state_dict())
    assert list(folded) == list(plain.state_dict())
    third = convolution_first(2)
    third.load_state_dict(folded)
    torch.testing.assert_close(third(X), plain(X))


@pytest.mark.parametrize("kind", [EWN, SWN])
def test_native_state_dicts_round_trip_bit_for_bit(kind):
    model, other = convolution_first(0), convolution_first(1)
    reparametrize(model, kind())
    reparametrize(other, kind())
    with torch.no_grad():
        model[0].parametrizations.weight.original1.mul_(1.5)  # ||v|| != 1 must survive
    other.load_state_dict(model.state_dict())
    for key, value in model.state_dict().items():
        assert torch.equal(other.state_dict()[key], value), key


@pytest.mark.parametrize("kind", [EWN, SWN])
@pytest.mark.parametrize(
    ("layer", "dim"),
    [
        (nn.Linear(4, 3), 0),
        (nn.Linear(4, 3), 1),
        (nn.Linear(4, 3), None),  # one norm of the whole weight
        (nn.ConvTranspose1d(4, 6, 3), 0),  # torch's default, which are its inputs
        (nn.ConvTranspose1d(4, 6, 3), 1),
    ],
    ids=str,
)
def test_torchs_weight_norm_forms_load(kind, layer, dim):
    plain = nn.Sequential(copy.deepcopy(layer), nn.ReLU())
    theirs = torch_parametrizations.weight_norm(copy.deepcopy(layer), dim=dim)
    with torch.no_grad():
        theirs.parametrizations.weight.original0.mul_(-2)
    expected = theirs.weight
    form = {f"0.{key}": value for key, value in theirs.state_dict().items()}
    legacy = {
        key.replace("parametrizations.weight.original0", "weight_g").replace(
            "parametrizations.weight.original1", "weight_v"
        ): value
        for key, value in form.items()
    }
    assert {"0.weight_g", "0.weight_v"} <= set(legacy)
    for state in (form, legacy):
        ours = copy.deepcopy(plain)
        reparametrize(ours, kind(), layers="0")
        ours.load_state_dict(state)
        torch.testing.assert_close(ours[0].weight, expected)
        other = copy.deepcopy(plain)
        other.load_state_dict(fold_state_dict(state))
        torch.testing.assert_close(other[0].weight, expected)


@pytest.mark.parametrize("kind", [EWN, SWN])
def test_norms_along_another_dimension_load(kind):
    model, other = nn.Sequential(nn.Linear(4, 3)), nn.Sequential(nn.Linear(4, 3))
    reparametrize(model, kind(dim=1), layers="0")
    reparametrize(other, kind(), layers="0")
    other.load_state_dict(model.state_dict())
    torch.testing.assert_close(other[0].weight, model[0].weight)


def test_ewn_and_swn_checkpoints_are_never_mistaken_for_each_other():
    for first, second in ((EWN, SWN), (SWN, EWN)):
        model, other = convolution_first(0), convolution_first(1)
        reparametrize(model, first())
        reparametrize(other, second())
        other.load_state_dict(model.state_dict())
        torch.testing.assert_close(other(X), model(X))


def test_torch_refuses_an_ewn_checkpoint_rather_than_misreading_it():
    model, theirs = nn.Sequential(nn.Linear(4, 3)), nn.Sequential(nn.Linear(4, 3))
    reparametrize(model, EWN(), layers="0")
    torch_parametrizations.weight_norm(theirs[0])
    with pytest.raises(RuntimeError, match="_extra_state"):
        theirs.load_state_dict(model.state_dict())


@pytest.mark.parametrize(
    "layer",
    [
        nn.Linear(5, 1),
        nn.Linear(1, 5),
        nn.Conv2d(3, 1, 3),
        nn.ConvTranspose2d(4, 1, 3),
        nn.ConvTranspose2d(1, 4, 3),
        nn.ConvTranspose2d(4, 6, 3, groups=2),
        nn.ConvTranspose2d(2, 2, 3, groups=2),
        nn.ConvTranspose1d(4, 4, 1, groups=1),
    ],
    ids=str,
)
def test_folding_infers_the_dimension_from_the_shapes(layer):
    expected = layer.weight.detach().clone()
    model = nn.Sequential(layer)
    reparametrize(model, EWN(), layers="0")
    torch.testing.assert_close(fold_state_dict(model.state_dict())["0.weight"], expected)


@pytest.mark.parametrize("prefix", ["", "layer."])
def test_names_that_only_end_like_those_of_weight_norm_are_passed_on(prefix):
    own = {f"{prefix}{kind}weight_{end}": torch.ones(1) for kind in ("my", "my_") for end in "gv"}
    assert fold_state_dict(own) == own
    both = own | nn.utils.parametrizations.weight_norm(nn.Linear(2, 2)).state_dict()
    assert fold_state_dict(both).keys() == {*own, "weight", "bias"}


def test_half_a_layer_in_a_state_dict_is_an_error():
    model = convolution_first()
    reparametrize(model, EWN())
    state = model.state_dict()
    del state["0.parametrizations.weight.original1"]
    with pytest.raises(ValueError, match="a part of layer '0' only"):
        fold_state_dict(state)
    with pytest.raises(RuntimeError, match=r"Missing key.*0.parametrizations.weight.original1"):
        _reparametrized_net().load_state_dict({})


def _reparametrized_net():
    model = convolution_first()
    reparametrize(model, EWN())
    return model


def test_copies_take_plain_weights_too():
    twin = copy.deepcopy(_reparametrized_net())
    plain = convolution_first(4)
    twin.load_state_dict(plain.state_dict())
    torch.testing.assert_close(twin(X), plain(X))
