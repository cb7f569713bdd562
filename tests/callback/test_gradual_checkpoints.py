"""Checkpoints of a fit that prunes while it trains: resumed bit for bit, and evaluated."""

from contextlib import suppress
from pathlib import Path

import pytest
import torch
from pytorch_lightning.callbacks import ModelCheckpoint
from toys.fits import Stop, assert_same_tensors, make_trainer
from toys.gradual import LEVELS, Net
from toys.gradual import by_hand as _by_hand
from toys.gradual import fit as _fit
from toys.gradual import loader as _loader
from toys.gradual import made as _made

from ewnprune import SWN, Gradual, WeightNormPruning


def _run(folder, method, ckpt_path=None, stop=None, **options):
    callback, model = _made(method, Gradual(0.8, 0.25, 0.75, 3), **options)
    checkpointing = ModelCheckpoint(folder, save_top_k=-1, filename="{epoch}")
    more = [] if stop is None else [Stop(stop, folder / "interrupted.ckpt")]
    with suppress(SystemExit):
        trainer = _fit(folder, model, callback, checkpointing, *more, ckpt_path=ckpt_path)
        neurons = Path(trainer.log_dir, "gradual_neurons.csv").read_text()
        return torch.load(folder / "epoch=3.ckpt", weights_only=True), callback.curve, neurons


@pytest.mark.filterwarnings("ignore:The dirpath has changed")
@pytest.mark.parametrize("method", ["EWN", "Adam", "weight space"])
def test_resuming_is_the_uninterrupted_run_bit_for_bit(tmp_path, method):
    """From before the first pruning, between two, in the middle of an epoch, and after the last."""
    stored, curve, neurons = _run(tmp_path / "whole", method)
    assert _run(tmp_path / "cut", method, stop=13) is None
    state = torch.load(tmp_path / "cut" / "interrupted.ckpt", weights_only=True)
    assert state["global_step"] == 13 and 0 < state["ewnprune"]["gradual"]["sparsity"] < 0.8
    checkpoints = [f"whole/epoch={epoch}.ckpt" for epoch in (0, 1, 2)]
    for number, path in enumerate([*checkpoints, "cut/interrupted.ckpt"]):
        again, curve_again, neurons_again = _run(
            tmp_path / str(number), method, ckpt_path=tmp_path / path
        )
        assert curve_again == curve
        assert neurons_again == neurons
        assert_same_tensors(again, stored, "gradual", "masks", "gone")


@pytest.mark.filterwarnings("ignore:The dirpath has changed", "ignore:Be aware that when using")
def test_an_evaluation_of_its_checkpoint_and_curves_on_the_way(tmp_path):
    callback, model = _made("SWN", Gradual(0.8, 0.25, 0.75, 3), every_n_epochs=2)
    keep = ModelCheckpoint(tmp_path)
    _fit(tmp_path, model, callback, keep)
    on_the_way = callback.curve.where(epoch=1, score="norm").points
    level = _by_hand(15, 0.8, 8, 24, 3)
    left = 30 - round(level * 20) - round(level * 10)
    assert [p.neurons.left for p in on_the_way if p.sparsity < level] == [left] * 2
    again = WeightNormPruning(SWN(), LEVELS, scores=["norm"])
    tester = make_trainer(tmp_path, again)
    tester.validate(Net(), _loader(40, 1), ckpt_path=keep.best_model_path, verbose=False)
    last = callback.curve.where(epoch=3, score="norm")
    assert {p.method for p in again.curve} == {"SWN, gradually to 0.8"}
    assert [p.correct for p in again.curve] == [p.correct for p in last]
    make_trainer(tmp_path, again).validate(Net(), _loader(40, 1), verbose=False)
    assert {p.method for p in again.curve} == {"SWN"}  # another model, which was not pruned
