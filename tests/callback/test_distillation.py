"""Soft targets beside labels, in a module's own training step."""

from contextlib import nullcontext
from types import SimpleNamespace

import numpy as np
import pytest
import pytorch_lightning as pl
import torch
from pytorch_lightning.cli import LightningArgumentParser
from torch import nn
from torch.nn import functional
from torch.utils.data import DataLoader, TensorDataset
from toys import fits
from toys.three_classes import data as _data
from toys.three_classes import fit as _fit
from toys.three_classes import mlp as _mlp
from toys.three_classes import sgd as _sgd

from ewnprune import EWN, Distillation, Finetune, NestedTraining, WeightNormPruning
from ewnprune.callback.distillation import Distilling, soft_losses, where_to_distill
from ewnprune.callback.teacher import Teacher
from ewnprune.model.tracing import call
from ewnprune.recipes.nested import draw_levels
from lightning_modules import Classifier


def _softmax(x):
    e = np.exp(x - x.max(axis=1, keepdims=True))
    return e / e.sum(axis=1, keepdims=True)


def _by_formula(own, given, temperature):
    p, q = _softmax(given / temperature), _softmax(own / temperature)
    return temperature**2 * (p * np.log(p / q)).sum(axis=1)


@pytest.mark.parametrize("temperature", [0.5, 1, 4])
@pytest.mark.parametrize("shape", [(6, 5), (3, 4, 2, 7)])
def test_the_loss_is_the_formula(temperature, shape):
    rng = np.random.default_rng(0)
    own, given = rng.normal(size=shape), rng.normal(size=shape)
    expected = _by_formula(own, given, temperature)
    expected = expected.reshape(len(own), -1).mean(axis=1)
    found = soft_losses(torch.from_numpy(own), torch.from_numpy(given), temperature)
    np.testing.assert_allclose(found, expected, rtol=1e-10)
    half = soft_losses(*(torch.from_numpy(x).bfloat16() for x in (own, given)), temperature)
    assert half.dtype == torch.float32
    np.testing.assert_allclose(half, expected, rtol=0.1, atol=0.02)


class Plain(fits.TrainsOnly):
    """Calls a part of itself, not itself."""

    def training_step(self, batch, _):
        return functional.cross_entropy(self.net(batch[0]), batch[1])


class Logs(fits.TrainsOnly):
    def training_step(self, batch, batch_idx):
        return {"loss": super().training_step(batch, batch_idx), "more": 1}


def _stays(net, sparsity):
    """By hand: the neurons of both layers that stay, by norm with bias times outgoing norm."""
    kept = []
    for layer, reader in ((net[0], net[2]), (net[2], net[4])):
        score = (layer.weight.square().sum(1) + layer.bias.square()).sqrt()
        score = score * reader.weight.norm(dim=0)
        kept.append(score.argsort()[round(sparsity * len(score)) :].sort().values)
    return kept


def _run_pruned(net, x, sparsity):
    a, b = _stays(net, sparsity)
    x = functional.linear(x, net[0].weight[a], net[0].bias[a]).relu()
    x = functional.linear(x, net[2].weight[b][:, a], net[2].bias[b]).relu()
    return functional.linear(x, net[4].weight[:, b], net[4].bias)


@pytest.mark.parametrize("kind", [fits.TrainsOnly, Plain, Logs])
@pytest.mark.parametrize("weight", [0.3, 1.0])
def test_pruned_networks_learn_from_the_whole_one(kind, weight):
    """Six steps against a loop with the loss written out, image by image."""
    pl.seed_everything(3)
    model, twin = kind(_mlp().double(), _sgd), _mlp().double()
    twin.load_state_dict(model.net.state_dict())
    _fit(None, model, NestedTraining(0.6, [0.5], distill=Distillation(3.0, weight)))
    optimizer = _sgd(twin.parameters())
    for epoch in range(2):
        for number, (x, y) in enumerate(_data()):
            draws = draw_levels(len(x), 0.6, 1, (3, epoch, number, 0))
            whole = twin(x)
            pruned = _run_pruned(twin, x, 0.5)
            target = (whole.detach() / 3).softmax(1)
            soft = 9 * (target * (target.log() - (pruned / 3).log_softmax(1))).sum(1)
            hard = [functional.cross_entropy(out, y, reduction="none") for out in (whole, pruned)]
            each = torch.where(draws > 0, (1 - weight) * hard[1] + weight * soft, hard[0])
            optimizer.zero_grad()
            each.mean().backward()
            optimizer.step()
    for found, expected in zip(model.net.parameters(), twin.parameters(), strict=True):
        torch.testing.assert_close(found, expected)
    assert "training_step" not in vars(model)
    assert not any(m._forward_pre_hooks or m._forward_hooks for m in model.modules())


def test_the_teacher_gets_no_gradient():
    """All images see the pruned network: neurons that it lacks stay where they are."""
    pl.seed_everything(3)
    model = fits.TrainsOnly(_mlp().double(), lambda p: torch.optim.SGD(p, lr=0.1))
    before = [p.detach().clone() for p in model.net.parameters()]
    a, _ = _stays(model.net, 0.5)
    nested = NestedTraining(1.0, [0.5], distill=Distillation(2.0, 1.0))
    _fit(None, model, nested, max_steps=1)
    moved = (model.net[0].weight - before[0]).abs().amax(1) > 0
    assert moved.nonzero().flatten().tolist() == a.tolist()


def test_a_weight_of_zero_and_no_pruned_image_are_training_as_usual(tmp_path):
    states = []
    for share, distill in ((0.6, None), (0.6, Distillation(4.0, 0.0))):
        pl.seed_everything(1)
        model = fits.TrainsOnly(_mlp().double(), _sgd)
        _fit(None, model, NestedTraining(share, [0.5], distill=distill))
        states.append(model.state_dict())
    for share, distill in ((0.0, None), (0.0, Distillation(4.0, 0.5))):
        pl.seed_everything(1)
        model = fits.TrainsOnly(_mlp().double(), _sgd)
        _fit(None, model, NestedTraining(share, [0.5], distill=distill))
        states.append(model.state_dict())
    for finetune in (Finetune(1, 0.5), Finetune(1, 0.5, distill=Distillation(4.0, 0.0))):
        pl.seed_everything(1)
        model = fits.Net(_mlp().double(), _sgd)
        _fit(tmp_path, model, WeightNormPruning(EWN(), finetune=finetune), val=_data())
        states.append(model.state_dict())
    for one, other in zip(states[::2], states[1::2], strict=True):
        assert all(torch.equal(one[key], other[key]) for key in one)


def test_a_classifier_with_low_precision_and_accumulated_gradients(tmp_path):
    pl.seed_everything(0)
    images = torch.rand(32, 1, 5, 5)
    data = DataLoader(TensorDataset(images, torch.arange(32) % 3), 8)
    model = Classifier(nn.Sequential(nn.Flatten(), nn.Linear(25, 6), nn.ReLU(), nn.Linear(6, 3)),
                       num_classes=3)  # fmt: skip
    before = model.network[1].weight.detach().clone()
    finetune = Finetune(1, 0.5, distill=Distillation())
    nested = NestedTraining(0.5, [0.5], distill=Distillation())
    pruning = WeightNormPruning(EWN(), (0, 0.5), finetune=finetune)
    trainer = fits.make_trainer(tmp_path, nested, pruning, precision="bf16-mixed",
                                max_epochs=1, accumulate_grad_batches=2)  # fmt: skip
    trainer.fit(model, data, data)
    assert trainer.current_epoch == 2
    assert (model.network[1].weight != before).any()  # autocast kept no weight without gradients
    assert "training_step" not in vars(model)  # two were around it


class ByItself(fits.TrainsOnly):
    automatic_optimization = False


class Scaled(fits.TrainsOnly):
    def forward(self, x):
        return self.net(x) * 2


class Twice(fits.TrainsOnly):
    def training_step(self, batch, _):
        return (self(batch[0]) + self(batch[0])).square().mean()


class Gives(fits.TrainsOnly):
    def forward(self, x):
        return {"logits": self.net(x)}


@pytest.mark.parametrize(
    ("kind", "message"),
    [
        (ByItself, "optimizes by itself"),
        (Twice, "calls net.4 2 times, on \\[8, 8\\] images of a batch of 8"),
        (Gives, "expected logits"),
    ],
)
def test_what_cannot_be_distilled_is_refused(kind, message):
    model = kind(_mlp().double(), _sgd)
    with pytest.raises(ValueError, match=message):
        _fit(None, model, NestedTraining(1.0, [0.5], distill=Distillation()))
    assert "training_step" not in vars(model)


def test_outputs_are_seen_where_a_module_makes_them():
    x = torch.zeros(4, 5, dtype=torch.float64)
    model = Scaled(_mlp().double(), _sgd)
    assert where_to_distill(model, call, x) == ""  # the module itself
    assert where_to_distill(model, lambda m, x: m.net(x), x) == "net.4"
    with pytest.raises(ValueError, match="made outside of the network's modules"):
        where_to_distill(model, lambda m, x: m.net(x) / 2, x)
    own = Distilling(Distillation(), model, "")
    own.let_go()
    assert "training_step" not in vars(model)


def test_the_batch_is_left_to_the_step():
    def shifted(model, inputs):
        inputs -= 1
        return model.net(inputs)

    model, x = Scaled(_mlp().double(), _sgd), torch.ones(4, 5, dtype=torch.float64)
    measuring = SimpleNamespace(forward=shifted, batch=lambda batch: batch)
    trainer = SimpleNamespace(precision_plugin=SimpleNamespace(forward_context=nullcontext))
    assert where_to_distill(model, shifted, x) == "net.4"
    teacher = Teacher(Distillation(), measuring, model)
    teacher.before_batch(trainer, model, (x, None), "net.4")
    teacher.let_go()
    assert x.eq(1).all()


@pytest.mark.parametrize("how", ["in place", "a part", "a method"])
def test_a_compiled_network_is_refused(how):
    model = Scaled(_mlp().double(), _sgd)
    if how == "in place":
        model.compile(backend="eager")
    elif how == "a method":
        model.training_step = torch.compile(model.training_step, backend="eager")
    else:
        model.net = torch.compile(model.net, backend="eager")
    name = "net" if how == "a part" else "Scaled"
    with pytest.raises(ValueError, match=f"torch.compile runs '{name}'"):
        where_to_distill(model, call, torch.zeros(4, 5, dtype=torch.float64))


def test_bad_numbers_and_the_command_line():
    with pytest.raises(ValueError, match="temperature=0: expected a number > 0"):
        Distillation(0)
    with pytest.raises(ValueError, match=r"weight=1.5: expected a fraction"):
        Distillation(1, 1.5)
    with pytest.raises(ValueError, match="expected Distillation"):
        NestedTraining(0.5, distill=2)
    with pytest.raises(ValueError, match="expected Distillation"):
        Finetune(1, distill=2)
    parser = LightningArgumentParser(exit_on_error=False)
    parser.add_lightning_class_args(WeightNormPruning, "prune")
    words = ["--prune.parametrization=null", "--prune.finetune.epochs=1"]
    words += ["--prune.finetune.distill.temperature=2.5"]
    made = parser.instantiate_classes(parser.parse_args(words)).prune
    assert made.finetuning.options == Finetune(1, distill=Distillation(2.5, 0.5))
