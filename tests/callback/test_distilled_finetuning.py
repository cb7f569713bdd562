"""Finetuning with soft targets: of the network before, also in a run that is resumed."""

import pytest
import pytorch_lightning as pl
import torch
from pytorch_lightning.callbacks import ModelCheckpoint
from torch.nn import functional
from toys import fits
from toys.three_classes import data as _data
from toys.three_classes import fit as _fit
from toys.three_classes import mlp as _mlp
from toys.three_classes import sgd as _sgd

from ewnprune import EWN, Distillation, Finetune, NestedTraining, WeightNormPruning
from ewnprune.callback import distillation
from ewnprune.callback.distillation import soft_losses


class _Batches(pl.Callback):
    """The network before each batch."""

    def __init__(self):
        self.nets = []

    def on_train_batch_start(self, trainer, pl_module, *_):
        self.nets.append({k: v.clone() for k, v in pl_module.net.state_dict().items()})


@pytest.mark.parametrize("weight", [0.3, 1.0])
def test_finetuning_learns_from_the_network_before(tmp_path, weight):
    """Plain SGD: each of its steps is one on the loss written out."""
    pl.seed_everything(2)
    watch = _Batches()
    model = fits.Net(_mlp().double(), lambda p: torch.optim.SGD(p, lr=0.1))
    finetune = Finetune(2, 0.5, "norm_with_bias_product", Distillation(2.0, weight))
    pruning = WeightNormPruning(None, (0, 0.5), finetune=finetune)
    _fit(tmp_path, model, watch, pruning, val=_data(), max_epochs=1)
    teacher, masks = _mlp().double(), pruning.finetuning.pruned["masks"]
    # the step before the first of finetuning ends in the teacher's weights
    batches = [*_data()]
    teacher.load_state_dict(_step(watch.nets[2], batches[2], None, 0.0, {}))
    after = [*watch.nets[4:], model.net.state_dict()]
    for number, (before, found) in enumerate(zip(watch.nets[4:], after[1:], strict=True)):
        expected = _step(before, batches[(number + 1) % 3], teacher, weight, masks)
        for key, value in expected.items():
            torch.testing.assert_close(found[key], value)


def _step(state, batch, teacher, weight, masks):
    net, (x, y) = _mlp().double(), batch
    net.load_state_dict(state)
    outputs = net(x)
    loss = (1 - weight) * functional.cross_entropy(outputs, y)
    if teacher is not None:
        target = (teacher(x).detach() / 2).softmax(1)
        divergence = functional.kl_div((outputs / 2).log_softmax(1), target, reduction="batchmean")
        loss = loss + weight * 4 * divergence
    loss.backward()
    with torch.no_grad():
        for name, p in net.named_parameters():
            p -= 0.1 * p.grad
            if f"net.{name}" in masks:
                p *= masks[f"net.{name}"]
    return net.state_dict()


@pytest.mark.filterwarnings("ignore:The dirpath has changed", "ignore:You're resuming from")
def test_finetuning_with_a_teacher_resumes_bit_for_bit(tmp_path):
    class Breaks(pl.Callback):
        def on_train_batch_start(self, trainer, pl_module, batch, batch_idx):
            if (trainer.current_epoch, batch_idx) == (2, 1):
                raise RuntimeError("broken")

    def run(folder, ckpt_path=None, weight=0.5, breaks=False):
        pl.seed_everything(4)
        model = fits.Net(_mlp().double(), _sgd)
        keep = ModelCheckpoint(folder, save_top_k=-1, filename="{epoch}", save_on_exception=breaks)
        more = [Breaks()] if breaks else []
        finetune = Finetune(3, 0.5, distill=Distillation(2.0, weight))
        pruning = WeightNormPruning(EWN(), (0, 0.5), finetune=finetune)
        trainer = fits.make_trainer(folder, pruning, keep, *more, max_epochs=1)
        trainer.fit(model, _data(), _data(), ckpt_path=ckpt_path)
        return model.state_dict()

    whole = run(tmp_path / "whole")
    for epoch in (0, 1, 2):
        path = tmp_path / "whole" / f"epoch={epoch}.ckpt"
        stored = torch.load(path, weights_only=True)["ewnprune"]
        assert ("teacher" in stored) == (epoch > 0)
        again = run(tmp_path / str(epoch), path)
        assert all(torch.equal(again[key], whole[key]) for key in whole)
    with pytest.raises(ValueError, match="resume it with the finetune= that it had"):
        run(tmp_path / "other", path, 0.0)
    # what others save when the fit has broken off, and what was saved without
    with pytest.raises(RuntimeError, match="broken"):
        run(tmp_path / "cut", breaks=True)
    cut = torch.load(tmp_path / "cut" / "epoch=2.ckpt", weights_only=True)
    teacher = cut["ewnprune"].pop("teacher")
    assert all(torch.equal(value, stored["teacher"][key]) for key, value in teacher.items())
    torch.save(cut, tmp_path / "without.ckpt")
    with pytest.raises(ValueError, match="the checkpoint is without the network before pruning"):
        run(tmp_path / "other", tmp_path / "without.ckpt")


@pytest.mark.parametrize("how", ["nested", "finetuned"])
def test_an_optimizer_that_evaluates_a_loss_again_learns_the_same_each_time(
    tmp_path, monkeypatch, how
):
    counts = {"steps": 0, "soft": 0}

    def counted(*args):
        counts["soft"] += 1
        return soft_losses(*args)

    learns = how == "finetuned"  # from its second epoch on

    class Counts(fits.Net):  # which validates by its training step
        def training_step(self, batch, batch_idx):
            counts["steps"] += self.trainer.training and self.trainer.current_epoch >= learns
            return super().training_step(batch, batch_idx)

    monkeypatch.setattr(distillation, "soft_losses", counted)
    model = Counts(_mlp().double(), lambda p: torch.optim.LBFGS(p, lr=0.1, max_iter=3))
    callback = {
        "nested": NestedTraining(1.0, [0.5], distill=Distillation()),
        "finetuned": WeightNormPruning(None, finetune=Finetune(1, 0.5, distill=Distillation())),
    }[how]
    _fit(tmp_path, model, callback, val=_data(), max_epochs=1)
    assert counts["soft"] == counts["steps"] > 3
