"""Finetuning inside the fit: what was pruned stays zero, and what cannot be tuned is refused."""

import math

import pytest
import pytorch_lightning as pl
import torch
from pytorch_lightning.callbacks import (
    BackboneFinetuning,
    EarlyStopping,
    LearningRateFinder,
    LearningRateMonitor,
    ModelCheckpoint,
)
from pytorch_lightning.callbacks.weight_averaging import EMAWeightAveraging
from pytorch_lightning.loggers import CSVLogger
from toys.finetuning import LEVELS, METHODS, Net
from toys.finetuning import callback_and_model as _callback
from toys.finetuning import fit as _fit
from toys.finetuning import loader as _loader
from toys.finetuning import rates_by_hand as _rates
from toys.fits import make_trainer

from ewnprune import (
    EWN,
    SWN,
    Finetune,
    WeightNormPruning,
    attached_parametrizations,
)


def _validation():
    batches = list(_loader(40, 1))
    return torch.cat([x for x, _ in batches]), torch.cat([y for _, y in batches])


class _Watch(pl.Callback):
    """What is zero after each step, and the learning rates."""

    def __init__(self):
        self.zeros, self.rates = [], []

    def on_train_batch_start(self, trainer, *_):
        self.rates.append(trainer.optimizers[0].param_groups[0]["lr"])

    def on_before_zero_grad(self, trainer, pl_module, optimizer):
        self._look(pl_module)

    def on_train_batch_end(self, trainer, pl_module, *_):
        self._look(pl_module)

    def _look(self, pl_module):
        first, second = pl_module.net[0], pl_module.net[2]
        rows = ~first.weight.detach().any(dim=1)
        columns = ~second.weight.detach().any(dim=0)
        self.zeros.append((rows, rows & columns & (first.bias == 0)))


@pytest.mark.parametrize("method", METHODS)
def test_one_shot_comes_first_and_what_was_pruned_stays_zero(tmp_path, method):
    callback, model = _callback(method)
    _fit(tmp_path / "alone", model, callback)
    alone = callback.curve
    callback, model = _callback(method, 2)
    watch = _Watch()
    trainer = _fit(
        tmp_path, model, callback, watch, LearningRateMonitor(), logger=CSVLogger(tmp_path)
    )
    assert trainer.current_epoch == 5
    assert trainer.max_epochs == 3  # as it was
    for key, value in trainer.callback_metrics.items():  # what monitors went by goes on
        if key.startswith("prune_finetuned/"):
            assert trainer.callback_metrics[key.replace("prune_finetuned/", "prune/")] == value
    name = callback.method
    one_shot = callback.curve.where(method=name)
    assert one_shot.points == alone.points
    assert callback.curve.points[: len(one_shot)] == one_shot.points
    tuned = callback.curve.where(method=f"{name}, finetuned at 0.5")
    assert len(callback.curve) == len(one_shot) + len(tuned) == 18
    assert {point.epoch for point in tuned} == {4}
    # twice per step from the first finetuning step on: half of each layer, with bias and outgoing
    rows, _ = watch.zeros[-1]
    assert rows.sum() == 10
    for found, whole in watch.zeros[-2 * 2 * 4 + 1 :]:
        assert torch.equal(found, rows)
        assert torch.equal(whole, rows)
    assert torch.equal(model.net[0].weight == 0, rows[:, None].expand(20, 6))
    assert model.net[2].weight.detach().any(dim=1).sum() == 6
    # the level asked for removes nothing more, by the score it was pruned by
    for score in ("norm", "random"):
        levels = tuned.where(score=score).points
        assert levels[0].correct == levels[1].correct
        assert [p.neurons.left for p in levels] == [16, 16, 6]  # of 32: what is there, not asked
    x, y = _validation()
    assert levels[0].correct == (model.eval()(x).argmax(1) == y).sum().item()
    assert not attached_parametrizations(model)
    assert not any(p._backward_hooks for p in model.parameters())
    # the schedule runs once over 12 steps, and again over 8
    assert watch.rates == pytest.approx(_rates(12) + _rates(8))


def test_an_early_stop_is_not_finetuned_and_says_so(tmp_path, capsys):
    callback, model = _callback("EWN", 2)
    stopping = EarlyStopping("val_loss", patience=1, min_delta=math.inf)
    trainer = _fit(tmp_path, model, callback, stopping, max_epochs=9)
    assert trainer.current_epoch == 1
    assert {point.method for point in callback.curve} == {"EWN"}
    assert "not finetuned, for the fit was stopped in epoch 0" in capsys.readouterr().out
    assert trainer.max_epochs == 9
    _fit(tmp_path, model, callback, fast_dev_run=True)
    assert "the fit was stopped when its 1 epochs were over" in capsys.readouterr().out
    stopping = EarlyStopping("val_loss", patience=3, min_delta=math.inf)
    _fit(tmp_path, model, callback, stopping, max_epochs=2)
    assert "finetuned for 1 of 2 epochs, for the fit was stopped" in capsys.readouterr().out


@pytest.mark.filterwarnings("ignore:Be aware that when using .ckpt_path.", "ignore:The dirpath has")
def test_several_fits_and_an_evaluation(tmp_path, capsys):
    (callback, model), keep = _callback("SWN", 1), ModelCheckpoint(tmp_path)
    for _ in range(2):
        trainer = _fit(tmp_path, model, callback, keep, max_epochs=1)
        assert trainer.current_epoch == 2
        assert "finetuned at 0.5" in capsys.readouterr().out
    again = WeightNormPruning(SWN(), LEVELS, scores=["norm"])
    tester = make_trainer(tmp_path, again)
    tester.validate(Net(), _loader(40, 1), ckpt_path=keep.best_model_path, verbose=False)
    assert {point.method for point in again.curve} == {"SWN, finetuned at 0.5"}
    tuned = callback.curve.where(method="SWN, finetuned at 0.5")
    assert [p.correct for p in again.curve] == [p.correct for p in tuned.where(score="norm")]
    # another model, or weights of before, of which the callback is not told
    for one in (again, callback):
        torch.manual_seed(1)
        tester = make_trainer(tmp_path, one)
        tester.validate(Net(), _loader(40, 1), verbose=False)
        assert {point.method for point in one.curve} == {"SWN"}
        assert not any(key.startswith("prune_finetuned") for key in tester.callback_metrics)
    assert again.curve.points == callback.curve.where(score="norm").points
    make_trainer(tmp_path, callback).validate(model, _loader(40, 1), verbose=False)
    assert callback.curve.points[0].method == "SWN, finetuned at 0.5"
    tester = make_trainer(tmp_path, callback, max_epochs=7)
    with pytest.raises(RuntimeError, match="out of luck"):
        tester.validate(_Fails(), _loader(40, 1), verbose=False)
    assert tester.max_epochs == 7  # those of the fit before were others


class _Fails(Net):
    def validation_step(self, batch, _):
        raise RuntimeError("out of luck")


@pytest.mark.filterwarnings("ignore:The dirpath has changed")
def test_a_rate_that_is_searched_for_in_its_midst_does_not_end_it(tmp_path):
    class Searches(LearningRateFinder):
        def on_fit_start(self, *_):
            pass

        def on_train_epoch_start(self, trainer, pl_module):
            if trainer.current_epoch == 3:
                self.lr_find(trainer, pl_module)

    class Found(Net):
        lr = 0.1

    callback, model = _callback("plain", 3)[0], Found()
    finder = Searches(num_training_steps=4, early_stop_threshold=None)
    trainer = _fit(tmp_path, model, callback, finder, max_epochs=2)
    assert trainer.current_epoch == 5
    assert {point.epoch for point in callback.curve} == {1, 4}


class LossDrivenTraining(Net):
    pass


@pytest.mark.filterwarnings("ignore:The dirpath has changed", "ignore:.max_epochs. was not set")
def test_what_cannot_be_finetuned_is_refused(tmp_path):
    for options, message in (
        ({"epochs": 0}, "epochs=0: expected a number of epochs"),
        ({"epochs": 1, "sparsity": 1}, "sparsity=1: expected a fraction"),
        ({"epochs": 1, "score": "nrom"}, "nrom"),
        ({"epochs": 1, "score": ["norm", "random"]}, "expected one score"),
    ):
        with pytest.raises(ValueError, match=message):
            Finetune(**options)
    with pytest.raises(ValueError, match=r"finetune=2: expected Finetune\(epochs"):
        WeightNormPruning(EWN(), LEVELS, finetune=2)
    callback, model = _callback("EWN", 1)
    with pytest.raises(ValueError, match="give the Trainer max_epochs"):
        _fit(tmp_path, model, callback, max_epochs=-1, max_steps=5)
    with pytest.raises(ValueError, match="finetune beside EMAWeightAveraging"):
        _fit(tmp_path, model, callback, EMAWeightAveraging())
    with pytest.raises(ValueError, match="finetune beside BackboneFinetuning, which changes"):
        _fit(tmp_path, model, callback, BackboneFinetuning())
    with pytest.raises(ValueError, match="LossDrivenTraining, which may undo"):
        _fit(tmp_path, LossDrivenTraining(), callback)
    with pytest.raises(ValueError, match="needs validation data"):
        _fit(tmp_path, Net(), callback, limit_val_batches=0)
    checkpointing = ModelCheckpoint(tmp_path)
    _fit(tmp_path, Net(), callback, checkpointing, max_epochs=1)
    path = checkpointing.best_model_path
    for options in ({}, {"finetune": Finetune(1, 0.8)}):
        other = WeightNormPruning(EWN(), LEVELS, scores=["norm"], **options)
        with pytest.raises(ValueError, match=r"finetuning at sparsity 0\.5 by norm: resume it"):
            _fit(tmp_path, Net(), other, max_epochs=1, ckpt_path=path)
