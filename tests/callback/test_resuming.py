"""Checkpoints are plain, and a run that goes on from one is the uninterrupted run."""

from pathlib import Path

import pytest
import torch
from pytorch_lightning.callbacks import (
    ModelCheckpoint,
)
from toys.data import loader
from toys.fits import Net, fit, make_trainer, mlp

from ewnprune import EWN, SWN, DGating, WeightNormPruning, reparametrize
from ewnprune.callback.checkpoint import fold_checkpoint, restore_originals

LEVELS = (0, 0.5, 0.9)


@pytest.mark.parametrize("weights_only", [False, True])
@pytest.mark.parametrize("parametrization", [EWN, SWN])
def test_checkpoints_are_plain(tmp_path, weights_only, parametrization):
    torch.manual_seed(0)
    model = Net()
    checkpointing = ModelCheckpoint(tmp_path, save_weights_only=weights_only)
    fit(tmp_path, model, WeightNormPruning(parametrization(), LEVELS), checkpointing)
    path = checkpointing.best_model_path
    stored = torch.load(path, weights_only=True)
    assert list(stored["state_dict"]) == [f"net.{key}" for key in model.net.state_dict()]
    fresh = Net.load_from_checkpoint(path)
    for key, value in model.state_dict().items():
        assert torch.equal(fresh.state_dict()[key], value), key
    plain = mlp()
    plain.load_state_dict({k.removeprefix("net."): v for k, v in stored["state_dict"].items()})


@pytest.mark.filterwarnings("ignore:The dirpath has changed")
@pytest.mark.parametrize("parametrization", [EWN(), SWN(), DGating(3), None], ids=str)
def test_resuming_is_the_uninterrupted_run_bit_for_bit(tmp_path, parametrization):
    def run(folder, epochs, ckpt_path=None):
        torch.manual_seed(0)
        model = Net()
        callback = WeightNormPruning(parametrization, LEVELS, scores=["norm", "norm_change"])
        checkpointing = ModelCheckpoint(tmp_path / folder)
        options = {"max_epochs": epochs, "ckpt_path": ckpt_path}
        fit(tmp_path / folder, model, callback, checkpointing, **options)
        stored = torch.load(checkpointing.best_model_path, weights_only=True)
        return callback.curve, stored, checkpointing.best_model_path

    curve, whole, _ = run("whole", 4)
    _, _, half = run("half", 2)
    resumed_curve, resumed, _ = run("resumed", 4, ckpt_path=half)
    assert resumed_curve == curve
    assert bool(whole["ewnprune"]["originals"]) == (parametrization is not None)
    for tensors in (
        lambda c: c["state_dict"],
        lambda c: c["ewnprune"]["originals"],
        lambda c: c["ewnprune"]["initial_norms"],
        lambda c: {k: v["momentum_buffer"] for k, v in c["optimizer_states"][0]["state"].items()},
    ):
        assert tensors(whole).keys() == tensors(resumed).keys()
        for key, value in tensors(whole).items():
            assert torch.equal(tensors(resumed)[key], value), key


def test_resuming_with_another_method_is_refused(tmp_path):
    checkpointing = ModelCheckpoint(tmp_path)
    fit(tmp_path, Net(), WeightNormPruning(EWN(), LEVELS), checkpointing)
    path = checkpointing.best_model_path
    with pytest.raises(ValueError, match=r"trained with EWN on 'net.0', and this run has SWN"):
        fit(tmp_path, Net(), WeightNormPruning(SWN(), LEVELS), ckpt_path=path, max_epochs=3)


def test_resuming_with_other_options_of_the_method_is_refused():
    first, second = Net(), Net()
    reparametrize(first, DGating(2))
    reparametrize(second, DGating(3))
    checkpoint = {"state_dict": first.state_dict()}
    fold_checkpoint(first, checkpoint, {})
    with pytest.raises(ValueError, match=r"other options .* than this run's DGating\(depth=3"):
        restore_originals(second, checkpoint)


@pytest.mark.filterwarnings("ignore:The dirpath has changed")
def test_testing_with_and_without_the_callback(tmp_path):
    torch.manual_seed(0)
    model, checkpointing = Net(), ModelCheckpoint(tmp_path)
    trainer = fit(tmp_path, model, WeightNormPruning(EWN(), LEVELS), checkpointing)
    test = loader(50, 2)
    best = trainer.test(model, test, ckpt_path="best", verbose=False)
    for callbacks in ([], [callback := WeightNormPruning(EWN(), LEVELS)]):
        fresh = make_trainer(tmp_path, *callbacks, enable_checkpointing=True)
        again = fresh.test(Net(), test, ckpt_path=checkpointing.best_model_path, verbose=False)
        assert again == best
    assert {p.split for p in callback.curve.points} == {"test"}
    assert callback.curve.points[0].total == 50


@pytest.mark.filterwarnings("ignore:The dirpath has changed")
def test_a_resumed_run_keeps_the_curves_of_before(tmp_path):
    def run(folder, epochs, ckpt_path=None):
        torch.manual_seed(0)
        callback = WeightNormPruning(EWN(), LEVELS, every_n_epochs=1)
        checkpointing = ModelCheckpoint(tmp_path / folder)
        options = {"max_epochs": epochs, "ckpt_path": ckpt_path}
        trainer = fit(tmp_path / folder, Net(), callback, checkpointing, **options)
        files = [
            Path(trainer.log_dir, f"sparsity_curve.{kind}").read_bytes() for kind in ("csv", "json")
        ]
        return callback.curve, files, checkpointing.best_model_path

    whole, files, _ = run("whole", 4)
    _, _, half = run("half", 2)
    resumed, again, _ = run("resumed", 4, half)
    assert resumed == whole
    assert [p.epoch for p in resumed.where(sparsity=0.0)] == [0, 1, 2, 3]
    assert again == files
