"""Modules as users write them: what they keep, and how they are called."""

from threading import Lock

import pytest
import pytorch_lightning as pl
import torch
from jsonargparse import ArgumentError, ArgumentParser
from torch import nn
from torch.utils.data import DataLoader
from toys.data import points
from toys.fits import Net, fit

from ewnprune import EWN, Finetune, WeightNormPruning, sparsity_curve
from ewnprune.pruning.score_names import SCORE

LEVELS = (0, 0.5, 0.8)


def _fit(folder, model, callback, data):
    return fit(
        folder, model, callback, train=DataLoader(data(64, 0), 16), val=DataLoader(data(40, 1), 16)
    )


class Keeps(Net):
    """Things that cannot be copied, and that no network needs twice."""

    def __init__(self, path):
        super().__init__()
        self.lock, self.log_file, self.last_loss = Lock(), open(path, "w"), None  # noqa: SIM115

    def training_step(self, batch, _):
        with self.lock:
            self.last_loss = super().training_step(batch, _)  # with its graph
            self.log_file.write("step\n")
        return self.last_loss

    def validation_step(self, batch, _):
        assert self.last_loss is None or self.last_loss.grad_fn is not None


@pytest.mark.parametrize("finetune", [None, Finetune(1, 0.5)], ids=["one shot", "finetuned"])
def test_a_module_that_keeps_what_cannot_be_copied(tmp_path, finetune):
    model, callback = Keeps(tmp_path / "log"), WeightNormPruning(EWN(), LEVELS, finetune=finetune)
    kept = model.lock, model.log_file
    fit(tmp_path, model, callback)
    model.log_file.close()
    assert (model.lock, model.log_file) == kept
    _assert_dense(callback.curve.points[-3], model)
    assert {p.epoch for p in callback.curve} == ({1} if finetune is None else {1, 2})


def test_networks_of_such_a_module_are_built_too(tmp_path):
    class KeepsAndHasNoForward(Keeps):
        forward = pl.LightningModule.forward

        def training_step(self, batch, _):
            self.last_loss = nn.functional.cross_entropy(self.net(batch[0]), batch[1])
            return self.last_loss

    model = KeepsAndHasNoForward(tmp_path / "log")
    callback = WeightNormPruning(EWN(), (0, 0.5), realize="remove", forward=through_net)
    fit(tmp_path, model, callback)
    model.log_file.close()
    _assert_dense(callback.curve.points[0], model)
    assert [point.neurons.left for point in callback.curve] == [10, 5]
    assert callback.curve.points[1].metrics["bytes"] < callback.curve.points[0].metrics["bytes"]


def _assert_dense(point, model):
    x, y = points(40, 1).tensors
    assert point.correct == (model.net(x).argmax(1) == y).sum().item()


class NoForward(Net):
    forward = pl.LightningModule.forward

    def training_step(self, batch, _):
        return nn.functional.cross_entropy(self.net(batch[0]), batch[1])


class TwoInputs(Net):
    def forward(self, a, b):
        return self.net(torch.cat([a, b], 1))

    def training_step(self, batch, _):
        (a, b), y = batch
        return nn.functional.cross_entropy(self(a, b), y)


class ByName(Net):
    def forward(self, x):
        return self.net(x["features"])

    def training_step(self, batch, _):
        return nn.functional.cross_entropy(self(batch), batch["y"])


def _pairs(n, seed):
    x, y = points(n, seed).tensors
    return [((a[:2], a[2:]), b) for a, b in zip(x, y, strict=True)]


def _dicts(n, seed):
    x, y = points(n, seed).tensors
    return [{"features": a, "y": b} for a, b in zip(x, y, strict=True)]


def through_net(model, x):
    return model.net(x)


def two_inputs(model, inputs):
    return model(inputs[0], inputs[1])


def whole_batch(batch):
    return batch, batch["y"]


def half_loss(outputs, targets):
    return nn.functional.cross_entropy(outputs, targets) / 2


CALLS = {
    "no forward": (NoForward, points, {"forward": through_net}),
    "two inputs": (TwoInputs, _pairs, {"forward": two_inputs}),
    "a dict": (ByName, _dicts, {"batch": whole_batch}),
}


@pytest.mark.parametrize("kind", CALLS)
def test_models_that_are_called_in_other_ways(tmp_path, kind):
    """Each is the same network: the curve and the finetuning too are those of the plain call."""
    make, data, options = CALLS[kind]
    finetune = Finetune(1, 0.5)
    found = []
    for module, loaded, more in ((Net, points, {}), (make, data, options)):
        torch.manual_seed(0)
        callback = WeightNormPruning(EWN(), LEVELS, finetune=finetune, loss_fn=half_loss, **more)
        model = module()
        _fit(tmp_path, model, callback, loaded)
        found.append([(p.method, p.sparsity, p.correct, p.loss, p.neurons) for p in callback.curve])
    assert found[0] == found[1]
    x, y = points(40, 1).tensors
    expected = [p.loss for p in sparsity_curve(model.net, [(x, y)], LEVELS, SCORE)]
    assert [2 * row[3] for row in found[0][-3:]] == pytest.approx(
        [expected[0], expected[0], expected[2]], rel=1e-5
    )


@pytest.mark.parametrize(
    ("make", "data", "message"),
    [
        (NoForward, points, r"NoForward cannot be called .*NotImplementedError.*: give .*forward="),
        (TwoInputs, _pairs, r"TwoInputs cannot be called .*TypeError.*'b'.*: give .*forward="),
        (ByName, _dicts, r"a batch of the loader is a dict of 2: .* give batch="),
    ],
)
def test_the_argument_that_helps_is_named_before_the_training(tmp_path, make, data, message):
    model = make()
    with pytest.raises(ValueError, match=message) as caught:
        _fit(tmp_path, model, WeightNormPruning(EWN(), LEVELS), data)
    assert "\n" not in str(caught.value)
    assert model.trainer.global_step == 0


def test_functions_and_finetuning_are_named_on_the_command_line(tmp_path, monkeypatch):
    (tmp_path / "functions_of_mine.py").write_text(
        "def call(model, x): return model(x)\n"
        "def loss(outputs, targets): return outputs.sum()\n"
        "def batch(raw): return raw\n"
    )
    monkeypatch.syspath_prepend(tmp_path)
    parser = ArgumentParser(exit_on_error=False)
    parser.add_class_arguments(WeightNormPruning, "prune")
    words = [f"--prune.{key}=functions_of_mine.{name}" for key, name in
             (("forward", "call"), ("loss_fn", "loss"), ("batch", "batch"))]  # fmt: skip
    words += ["--prune.parametrization=ewnprune.EWN", "--prune.finetune.epochs=2"]
    words += ["--prune.finetune.score=random"]
    parsed = parser.parse_args(words)
    measuring = parser.instantiate_classes(parsed).prune.measuring
    names = [f.__name__ for f in (measuring.forward, measuring.loss_fn, measuring.batch)]
    assert names == ["call", "loss", "batch"]
    text = parser.dump(parsed)  # as in a run's config.yaml
    again = parser.instantiate_classes(parser.parse_string(text)).prune
    assert again.finetuning.options == Finetune(2, 0.9, "random")
    assert again.measuring.forward is measuring.forward
    with pytest.raises(ArgumentError, match="epochs"):
        parser.instantiate_classes(parser.parse_args([*words, "--prune.finetune.epochs=many"]))
