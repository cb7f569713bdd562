"""Loss levels: what happens when the training loss passes them."""

import math
from pathlib import Path
from types import SimpleNamespace

import pytest
import pytorch_lightning
import torch
from pytorch_lightning.callbacks import (
    ModelCheckpoint,
)
from toys.fits import Net, fit

from ewnprune import EWN, WeightNormPruning
from ewnprune.callback.loss_levels import LossLevels

LEVELS = (0, 0.5, 0.9)


class LogsLoss(Net):
    def training_step(self, batch, _):
        loss = super().training_step(batch, _)
        self.log("train/loss", loss, on_step=False, on_epoch=True)
        return loss


class _WatchLoss(pytorch_lightning.Callback):
    def on_train_start(self, trainer, pl_module):
        self.losses = []

    def on_train_epoch_end(self, trainer, pl_module):
        self.losses.append(float(trainer.callback_metrics["train/loss"]))


def test_loss_levels_sweep_checkpoint_and_stop(tmp_path):
    torch.manual_seed(0)
    levels = (-0.7, -0.8, -1.0)
    callback = WeightNormPruning(
        EWN(), LEVELS, loss_levels=levels, at_level=("sweep", "checkpoint", "stop")
    )
    watch = _WatchLoss()
    trainer = fit(tmp_path, LogsLoss(), callback, watch, max_epochs=200)
    assert callback.loss_levels.passed == sorted(levels, reverse=True)
    assert 2 < trainer.current_epoch < 200
    losses = watch.losses
    expected = sorted({next(i for i, x in enumerate(losses) if math.log(x) <= v) for v in levels})
    assert sorted({point.epoch for point in callback.curve}) == expected
    assert len(losses) == expected[-1] + 1  # it stopped there
    for level in levels:
        stored = torch.load(
            f"{trainer.log_dir}/checkpoints/log_loss_{level:g}.ckpt", weights_only=True
        )
        assert stored["ewnprune"]["passed_levels"][-1] <= level


@pytest.mark.filterwarnings("ignore:The dirpath has changed")
def test_passed_levels_are_not_passed_again_after_resuming(tmp_path):
    torch.manual_seed(0)
    options = {"loss_levels": (-0.7,), "at_level": ("checkpoint",)}
    model, checkpointing = LogsLoss(), ModelCheckpoint(tmp_path)
    callback = WeightNormPruning(EWN(), LEVELS, **options)
    fit(tmp_path, model, callback, checkpointing, max_epochs=30)
    assert callback.loss_levels.passed == [-0.7]
    again = WeightNormPruning(EWN(), LEVELS, **options)
    path = checkpointing.best_model_path
    trainer = fit(tmp_path / "again", LogsLoss(), again, ckpt_path=path, max_epochs=31)
    assert again.loss_levels.passed == [-0.7]
    assert not Path(trainer.log_dir, "checkpoints", "log_loss_-0.7.ckpt").exists()


def test_checkpoints_of_another_run_in_the_folder_stay(tmp_path):
    trainer = SimpleNamespace(
        callback_metrics={"train/log_loss": -3.0},
        strategy=SimpleNamespace(broadcast=lambda value: value),
        is_global_zero=False,
        log_dir=tmp_path,
        save_checkpoint=lambda path: (path.parent.mkdir(exist_ok=True), path.touch(exist_ok=False)),
    )
    for _ in range(2):
        LossLevels((-1,), ("checkpoint",)).end_epoch(trainer)
    found = {path.name for path in (tmp_path / "checkpoints").iterdir()}
    assert found == {"log_loss_-1.ckpt", "log_loss_-1_1.ckpt"}


def test_a_run_resumed_with_other_levels_stops_at_the_lowest_of_these():
    levels = LossLevels((-10, -50), ("stop",))
    levels.load_state_dict({"passed_levels": [-10.0, -100.0]})  # as many as there are now
    assert not levels.done()
    assert levels.pass_(-60.0) == [-50.0]
    assert levels.done()


def test_loss_levels_need_a_logged_loss(tmp_path):
    with pytest.raises(ValueError, match="log 'train/log_loss' or 'train/loss'"):
        fit(tmp_path, Net(), WeightNormPruning(EWN(), LEVELS, loss_levels=(-1,)))
    for actions in (("halt",), "sweep", None):
        with pytest.raises(ValueError, match=r"at_level=.*: expected some of sweep"):
            WeightNormPruning(EWN(), LEVELS, loss_levels=(-1,), at_level=actions)
    for levels in ((-math.inf,), -1, ["-1"]):
        with pytest.raises(ValueError, match=r"loss_levels=.*: expected finite"):
            WeightNormPruning(EWN(), LEVELS, loss_levels=levels)
