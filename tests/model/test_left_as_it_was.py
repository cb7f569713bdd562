"""`evaluating` puts back what was written behind the version counter's back, and TorchScript."""

import warnings

import pytest
import torch
from torch import nn
from torch.ao.quantization import FusedMovingAvgObsFakeQuantize

from ewnprune import mask_neurons, remove_neurons, sparsity_curve
from ewnprune.model.preserve import evaluating

X, Y = torch.randn(8, 4), torch.arange(8) % 3


class _Writes(nn.Module):
    """Counts its calls in a buffer and in a plain tensor, as a library does that is not torch."""

    def __init__(self):
        super().__init__()
        self.register_buffer("calls", torch.tensor([0.0, torch.nan]))
        self.kept = torch.zeros(2)

    def forward(self, x):
        self.calls.numpy()[0] += 1
        self.kept.numpy()[1] += 1
        return x


def _with(middle):
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(4, 8), middle, nn.ReLU(), nn.Linear(8, 3))


def _state(model):
    return {name: value.clone() for name, value in model.state_dict().items()}


def _assert_same(state, before):
    torch.testing.assert_close(state, before, rtol=0, atol=0, equal_nan=True)


def test_what_is_written_without_a_new_version_is_put_back():
    model = _with(_Writes())
    before, version = _state(model), model[1].calls._version
    with evaluating(model):
        model(X)
        assert model[1].calls[0] == model[1].kept[1] == 1
        assert model[1].calls._version == version
    _assert_same(_state(model), before)
    assert not model[1].kept.any()


def test_bits_are_compared_and_not_values():
    model = nn.Module()
    model.register_buffer("zero", torch.tensor(-0.0))
    with evaluating(model):
        model.zero.numpy().fill(0.0)
    assert torch.signbit(model.zero)


def test_a_sweep_leaves_the_observers_of_quantization_aware_training():
    model = _with(FusedMovingAvgObsFakeQuantize())
    model(X)
    before = _state(model)
    sparsity_curve(model, [(3 * X, Y)], (0, 0.5))
    _assert_same(_state(model), before)
    model(3 * X)
    largest = "1.activation_post_process.max_val"  # they observe still
    assert not torch.equal(model.state_dict()[largest], before[largest])


def _convolutions():
    torch.manual_seed(0)
    return nn.Sequential(
        nn.Conv2d(1, 6, 3), nn.BatchNorm2d(6), nn.ReLU(), nn.Conv2d(6, 4, 3), nn.BatchNorm2d(4),
        nn.ReLU(), nn.Flatten(), nn.Linear(16, 3),
    )  # fmt: skip


@pytest.mark.parametrize("made_inside", [False, True])
@pytest.mark.parametrize("asked_inside", [False, True])
def test_inference_mode_gives_what_is_given_outside(made_inside, asked_inside):
    model, x = _convolutions(), torch.randn(8, 1, 6, 6)
    expected = sparsity_curve(model, [(x, Y)], (0, 0.5))
    small = remove_neurons(model, 0.5, x)
    if made_inside:
        with torch.inference_mode():
            model, x = _convolutions(), x.clone()
        assert model[1].running_mean.is_inference()
    with torch.inference_mode(asked_inside):
        curve = sparsity_curve(model, [(x, Y)], (0, 0.5))
        built = sparsity_curve(model, [(x, Y)], (0, 0.5), realize="remove", latency_seconds=0.01)
        _assert_same(remove_neurons(model, 0.5, x).state_dict(), small.state_dict())
        _assert_same(remove_neurons(model, 0.5, x, heads="whole").state_dict(), small.state_dict())
        assert curve.points == expected.points
        assert [point.loss for point in built] == [point.loss for point in expected]
        masks = mask_neurons(model, 0.5, x)
    assert not model[0].weight[~masks["0"]].any()


def _scripted(how):
    inner = nn.Sequential(nn.Linear(8, 8), nn.BatchNorm1d(8), nn.ReLU())
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # that torch.jit is on its way out
        made = torch.jit.trace(inner, torch.randn(3, 8)) if how == "trace" else None
        made = torch.jit.script(inner) if made is None else made
    return nn.Sequential(nn.Linear(4, 8), made, nn.Linear(8, 6), nn.ReLU(), nn.Linear(6, 3))


@pytest.mark.parametrize("how", ["trace", "script"])
def test_a_part_made_by_torch_jit_is_left_as_it_is(how):
    model = _scripted(how)
    before, parameters = _state(model), [p.data_ptr() for p in model.parameters()]
    curve = sparsity_curve(model, [(X, Y)], (0, 0.5))
    notes = {str(note).partition(":")[0]: note.kind for note in curve.notes}
    assert notes["0"] == "masked" and notes["2"] == "removed"
    _assert_same(_state(model), before)
    assert [p.data_ptr() for p in model.parameters()] == parameters
    assert all(p.requires_grad for p in model.parameters())
    assert model.training and model[1].training
    with pytest.raises(ValueError, match=r"'0' \(.*made by torch.jit") as error:
        remove_neurons(model, 0.5, X)
    assert len(str(error.value)) <= 300
    small = remove_neurons(model, 0.5, X, exclude="0")
    assert small[2].out_features == 3


def test_casts_are_not_kept_and_no_kernels_are_tried_meanwhile(monkeypatch):
    monkeypatch.setattr(torch.backends.cudnn, "benchmark", True)
    with torch.autocast("cpu", torch.bfloat16):
        with evaluating(nn.Linear(2, 2)):
            assert not torch.is_autocast_cache_enabled() and not torch.backends.cudnn.benchmark
        assert torch.is_autocast_cache_enabled() and torch.backends.cudnn.benchmark
