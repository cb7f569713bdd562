"""Finetuning that goes on from a checkpoint of before it, of its start or middle: the same run."""

from contextlib import suppress
from pathlib import Path

import pytest
import pytorch_lightning as pl
import torch
from pytorch_lightning.callbacks import ModelCheckpoint
from torch import nn
from toys.finetuning import LEVELS, Net
from toys.finetuning import callback_and_model as _callback
from toys.finetuning import fit as _fit
from toys.finetuning import rates_by_hand as _rates
from toys.fits import Stop, assert_same_tensors

from ewnprune import EWN, Finetune, GroupLasso, LogNormPenalty, WeightNormPruning
from lightning_modules import Classifier


def _stop(epoch, folder):
    return Stop(4 * epoch + 2, folder / "interrupted.ckpt")  # in the middle of its four batches


def _run(folder, method, epochs=3, ckpt_path=None, stop=None, beside=(), **options):
    callback, model = _callback(method, epochs=2, score="norm_product", scores=["norm"], **options)
    checkpointing = ModelCheckpoint(folder, save_top_k=-1, filename="{epoch}")
    more = [*beside] if stop is None else [_stop(stop, folder)]
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
    assert_same_tensors(stored, whole, "finetuning", "masks")


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
        more = [_stop(stop, folder)] if stop else []
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
    """From before finetuning, from where it begins, and from its middle; with schedules beside."""
    beside = [GroupLasso(0.01, until=0.9)]
    if method == "EWN":
        beside += [LogNormPenalty(0.05, ramp=0.9, until=0.9)]
    whole = _run(tmp_path / "whole", method, beside=beside)
    for epoch in (1, 2, 3):
        checkpoint = tmp_path / "whole" / f"epoch={epoch}.ckpt"
        state = torch.load(checkpoint, weights_only=True)["ewnprune"]["finetuning"]
        assert (state is None) == (epoch < 3)
        again = _run(tmp_path / f"from {epoch}", method, ckpt_path=checkpoint, beside=beside)
        _assert_same(again, whole)


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
