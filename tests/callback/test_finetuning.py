"""Finetuning inside the fit: what was pruned stays zero, and the run resumes bit for bit."""

import math
from contextlib import suppress
from pathlib import Path

import pytest
import pytorch_lightning as pl
import torch
from pytorch_lightning.callbacks import EarlyStopping, LearningRateMonitor, ModelCheckpoint
from pytorch_lightning.callbacks.weight_averaging import EMAWeightAveraging
from pytorch_lightning.loggers import CSVLogger
from torch import nn
from toys import fits
from toys.fits import make_trainer

from ewnprune import (
    EWN,
    EWNSGD,
    SWN,
    Finetune,
    WeightNormPruning,
    attached_parametrizations,
)
from lightning_modules import Classifier
from lightning_modules.loader import ImageLoader

LEVELS = (0, 0.5, 0.8)


def _loader(n=64, seed=0):
    """Batches of 16, which go on in the middle of an epoch."""
    images = torch.randint(256, (n, 2, 3), generator=torch.Generator().manual_seed(seed))
    x = images.flatten(1) / 255 - 0.5
    labels = (x[:, 0] * x[:, 1] > 0).long()
    shuffle = seed == 0
    return ImageLoader(images.byte(), labels, 16, mean=0.5, std=0.25, shuffle=shuffle, seed=seed)


def _validation():
    batches = list(_loader(40, 1))
    return torch.cat([x for x, _ in batches]), torch.cat([y for _, y in batches])


class Net(fits.Net):
    def __init__(self, kind=torch.optim.SGD, **options):
        layers = nn.Linear(6, 20), nn.ReLU(), nn.Linear(20, 12), nn.ReLU(), nn.Linear(12, 2)
        super().__init__(nn.Sequential(*layers))
        self.kind, self.options = kind, options or {"momentum": 0.9, "weight_decay": 0.01}

    def forward(self, x):
        return super().forward(x.flatten(1))

    def configure_optimizers(self):
        optimizer = self.kind(self.parameters(), lr=0.1, **self.options)
        # not estimated_stepping_batches, by which Lightning loses a loader's place in an epoch:
        # https://github.com/Lightning-AI/pytorch-lightning/issues/20550
        schedule = torch.optim.lr_scheduler.OneCycleLR(
            optimizer, 0.2, total_steps=4 * self.trainer.max_epochs, cycle_momentum=False
        )
        return [optimizer], [{"scheduler": schedule, "interval": "step"}]


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


class _Stop(pl.Callback):
    """Ctrl-C at a batch's end, as the command line handles it."""

    def __init__(self, epoch, path):
        self.epoch, self.path = epoch, path

    def on_train_batch_end(self, trainer, pl_module, outputs, batch, batch_idx):
        if trainer.current_epoch == self.epoch and batch_idx == 1:
            trainer.save_checkpoint(self.path)
            raise KeyboardInterrupt


def _fit(folder, model, *callbacks, **options):
    options = {"max_epochs": 3, **options}
    return fits.fit(folder, model, *callbacks, train=_loader(), val=_loader(40, 1), **options)


METHODS = {
    "plain": (None, {}, {}),
    "EWN": (EWN(), {}, {}),
    "SWN": (SWN(), {}, {}),
    "weight space": (EWN(), {"weight_space": True}, {"kind": EWNSGD, "weight_decay": 0.0}),
}


def _callback(method, epochs=0, **options):
    parametrization, more, model_options = METHODS[method]
    made = {"scores": ["norm", "norm_product", "random"], **more, **options}
    if epochs:
        made["finetune"] = Finetune(epochs, 0.5, made.pop("score", None))
    torch.manual_seed(0)
    return WeightNormPruning(parametrization, LEVELS, **made), Net(**model_options)


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


def _rates(steps, peak=0.2):
    optimizer = torch.optim.SGD([nn.Parameter(torch.zeros(1))], 0.1)
    schedule = torch.optim.lr_scheduler.OneCycleLR(
        optimizer, peak, total_steps=steps, cycle_momentum=False
    )
    rates = []
    for step in range(steps):
        rates.append(optimizer.param_groups[0]["lr"])
        optimizer.step()
        if step + 1 < steps:
            schedule.step()
    return rates


def _run(folder, method, epochs=3, ckpt_path=None, stop=None, **options):
    callback, model = _callback(method, epochs=2, score="norm_product", scores=["norm"], **options)
    checkpointing = ModelCheckpoint(folder, save_top_k=-1, filename="{epoch}")
    more = [] if stop is None else [_Stop(stop, folder / "interrupted.ckpt")]
    try:
        trainer = _fit(
            folder, model, callback, checkpointing, *more, max_epochs=epochs, ckpt_path=ckpt_path
        )
    except SystemExit:
        return None
    stored = torch.load(folder / "epoch=4.ckpt", weights_only=True)
    csv = Path(trainer.log_dir, "sparsity_curve.csv").read_bytes()
    return stored, callback.curve, csv


def _assert_same(found, expected):
    (stored, curve, csv), (whole, whole_curve, whole_csv) = found, expected
    assert curve == whole_curve
    assert csv == whole_csv
    assert stored["lr_schedulers"] == whole["lr_schedulers"]
    assert stored["ewnprune"]["finetuning"]["since"] == 3
    for tensors in (
        lambda c: c["state_dict"],
        lambda c: c["ewnprune"]["originals"],
        lambda c: c["ewnprune"]["finetuning"]["masks"],
        lambda c: {
            (k, name): v
            for k, state in c["optimizer_states"][0]["state"].items()
            for name, v in state.items()
            if isinstance(v, torch.Tensor)
        },
    ):
        assert tensors(stored).keys() == tensors(whole).keys()
        for key, value in tensors(whole).items():
            assert torch.equal(tensors(stored)[key], value), key


class _Rates(pl.Callback):
    def __init__(self):
        self.rates, self.planned = [], []

    def on_train_start(self, trainer, pl_module):
        self.planned.append(trainer.estimated_stepping_batches)

    def on_train_batch_start(self, trainer, *_):
        self.rates.append(trainer.optimizers[0].param_groups[0]["lr"])


@pytest.mark.filterwarnings("ignore:The dirpath has changed")
@pytest.mark.slow
def test_the_schedule_of_the_classifier_starts_anew(tmp_path):
    """Alone, finetuned, and finetuned after resuming at an epoch's end and in its middle."""

    def fit(folder, epochs=0, ckpt_path=None, stop=None):
        watch = _Rates()
        model = Classifier(nn.Sequential(nn.Flatten(), *Net().net), num_classes=2)
        callback = WeightNormPruning(EWN(), LEVELS, finetune=Finetune(epochs) if epochs else None)
        more = [_Stop(stop, folder / "interrupted.ckpt")] if stop else []
        checkpointing = ModelCheckpoint(folder, save_top_k=-1, filename="{epoch}")
        with suppress(SystemExit):
            _fit(folder, model, watch, callback, checkpointing, *more, ckpt_path=ckpt_path)
        return watch

    alone = fit(tmp_path / "alone")
    tuned = fit(tmp_path / "tuned", 2)
    assert alone.planned == tuned.planned == [12]  # others see the ordinary epochs until they end
    assert tuned.rates[:12] == alone.rates
    assert tuned.rates[12:] == pytest.approx(_rates(8, 0.1))
    fit(tmp_path / "cut", 2, stop=4)
    for path, done in (("tuned/epoch=1.ckpt", 8), ("tuned/epoch=3.ckpt", 16),
                       ("cut/interrupted.ckpt", 18)):  # fmt: skip
        resumed = fit(tmp_path / "on", 2, ckpt_path=tmp_path / path)
        assert resumed.rates == tuned.rates[done:]


@pytest.mark.filterwarnings("ignore:The dirpath has changed")
@pytest.mark.parametrize("method", ["EWN", pytest.param("weight space", marks=pytest.mark.slow)])
def test_resuming_is_the_uninterrupted_run_bit_for_bit(tmp_path, method):
    """From before finetuning, from where it begins, and from its middle."""
    whole = _run(tmp_path / "whole", method)
    for epoch in (1, 2, 3):
        checkpoint = tmp_path / "whole" / f"epoch={epoch}.ckpt"
        state = torch.load(checkpoint, weights_only=True)["ewnprune"]["finetuning"]
        assert (state is None) == (epoch < 3)
        _assert_same(_run(tmp_path / f"from {epoch}", method, ckpt_path=checkpoint), whole)


def test_an_early_stop_is_not_finetuned_and_says_so(tmp_path, capsys):
    callback, model = _callback("EWN", 2)
    stopping = EarlyStopping("val_loss", patience=1, min_delta=math.inf)
    trainer = _fit(tmp_path, model, callback, stopping, max_epochs=9)
    assert trainer.current_epoch == 1
    assert {point.method for point in callback.curve} == {"EWN"}
    assert "not finetuned, for the fit was stopped in epoch 0" in capsys.readouterr().out
    assert trainer.max_epochs == 9


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


@pytest.mark.filterwarnings("ignore:The dirpath has changed")
def test_interrupted_while_finetuning(tmp_path):
    """As on the command line: a checkpoint at the end of a batch, then KeyboardInterrupt."""
    whole = _run(tmp_path / "whole", "EWN")
    assert _run(tmp_path / "cut", "EWN", stop=4) is None
    checkpoint = tmp_path / "cut" / "interrupted.ckpt"
    state = torch.load(checkpoint, weights_only=True)
    assert state["epoch"] == 4
    assert state["ewnprune"]["finetuning"]["since"] == 3
    _assert_same(_run(tmp_path / "on", "EWN", ckpt_path=checkpoint), whole)
