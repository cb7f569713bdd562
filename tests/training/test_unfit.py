"""What `reparametrize` refuses by name, with the model unchanged."""

import copy

import pytest
import torch
import torch.distributed as dist
from torch import nn
from torch.distributed._tensor import distribute_tensor  # public since torch 2.5, by another path
from torch.distributed.device_mesh import init_device_mesh
from torch.nn.utils import parametrizations as torch_parametrizations
from torch.nn.utils import prune
from toys.networks import convolution_first

from ewnprune import (
    EWN,
    SWN,
    attached_parametrizations,
    fold,
    reparametrize,
)

X = torch.randn(3, 1, 4, 4, generator=torch.Generator().manual_seed(9))


def _refused(model, match, **options):
    before = copy.deepcopy(model.state_dict())
    with pytest.raises(ValueError, match=match) as error:
        reparametrize(model, EWN(), **options)
    assert "\n" not in str(error.value)
    assert list(model.state_dict()) == list(before)
    assert not attached_parametrizations(model)


def test_tied_weights_are_refused():
    model = nn.Sequential(nn.Embedding(5, 4), nn.Linear(4, 4), nn.Linear(4, 5, bias=False))
    model[2].weight = model[0].weight
    _refused(model, "layer '2' shares its weight with '0.weight'", layers=nn.Linear)
    assert list(reparametrize(model, EWN()).chosen) == ["1"]


def test_lazy_layers_are_refused():
    _refused(nn.Sequential(nn.LazyLinear(3), nn.Linear(3, 2)), "layer '0' is lazy")


def test_parametrized_layers_are_refused():
    model = convolution_first()
    torch_parametrizations.weight_norm(model[3])
    with pytest.raises(ValueError, match=r"layer '3' is parametrized already \(_WeightNorm\)"):
        reparametrize(model, EWN())
    model = convolution_first()
    reparametrize(model, EWN())
    with pytest.raises(ValueError, match=r"layer '0' is parametrized already \(EWN\)"):
        reparametrize(model, SWN())


def test_zero_layers_and_masked_layers_are_refused():
    model = convolution_first()
    nn.init.zeros_(model[3].weight)
    _refused(model, "layer '3' has an all-zero weight")
    model = convolution_first()
    prune.l1_unstructured(model[0], "weight", 0.5)
    _refused(model, r"layer '0' \(Conv2d\) has a weight that is no parameter")


@pytest.mark.parametrize("value", [torch.inf, torch.nan])
def test_weights_that_are_not_finite_are_refused(value):
    model = convolution_first()
    model[3].weight.data[1, 2] = value
    _refused(model, "layer '3' has a weight that is infinite or NaN")


class Flat(SWN):
    def forward(self, *originals):
        return super().forward(*originals).flatten(1)


class Long(SWN):
    def forward(self, *originals):
        weight = super().forward(*originals)
        return weight if weight.ndim > 2 else weight.double()


@pytest.mark.parametrize(
    ("form", "match"),
    [
        (Flat, r"'0' cannot be put under Flat: .* of shape \(4, 9\) for .* shape \(4, 1, 3, 3\)"),
        (
            Long,
            r"'3' cannot be put under Long: it gives torch.float64 .* for torch.float32",
        ),
    ],
)
def test_forms_of_another_shape_or_type_are_refused(form, match):
    model = convolution_first()
    with pytest.raises(ValueError, match=match):
        reparametrize(model, form())
    assert not attached_parametrizations(model)


def test_layers_without_numbers_are_refused():
    with torch.device("meta"):
        model = convolution_first()
    with pytest.raises(ValueError, match=r"layer '0' is on the meta device.*to_empty"):
        reparametrize(model, EWN())
    assert not attached_parametrizations(model)


def test_sharded_layers_are_refused():
    """FSDP2 shards in configure_model; what it gave out already cannot be reparametrized."""
    dist.init_process_group("gloo", store=dist.HashStore(), rank=0, world_size=1)
    try:
        model = convolution_first()
        mesh = init_device_mesh("cpu", (1,))
        model[3].weight = nn.Parameter(distribute_tensor(model[3].weight.detach(), mesh))
        _refused(model, r"layer '3' is sharded already \(DTensor\)")
    finally:
        dist.destroy_process_group()


def test_patterns_that_match_nothing_are_refused():
    _refused(convolution_first(), r"layers='encoder.\*' matches no layer", layers="encoder.*")
    _refused(convolution_first(), "exclude=.* matches no layer", exclude=nn.Conv3d)
    _refused(convolution_first(), "no layer is left to choose", exclude=["0", "3"])
    _refused(nn.Sequential(nn.ReLU()), "Sequential has no layer to choose")
    with pytest.raises(TypeError, match="layers=3: expected a glob"):
        reparametrize(convolution_first(), EWN(), layers=[3])
    with pytest.raises(TypeError, match="exclude=3: expected a glob"):
        reparametrize(convolution_first(), EWN(), exclude=3)
    with pytest.raises(TypeError, match="expected an instance such as"):
        reparametrize(convolution_first(), EWN)


def test_recurrent_layers_are_left_as_they_are():
    net = nn.Sequential(nn.Linear(3, 4), nn.GRU(4, 5), nn.Linear(5, 2))
    before = [name for name, _ in net[1].named_parameters()]
    selection = reparametrize(net, EWN())
    assert list(selection.chosen) == ["0"] and selection.left["1"] == "a recurrent layer"
    assert [name for name, _ in net[1].named_parameters()] == before
    fold(net)
    assert "1" not in reparametrize(net, EWN(), exclude="1").chosen  # it can be named
    fold(net)
    _refused(net, "choose among '0', '1', '2', recurrent ones apart", layers=nn.GRU)
