"""Averages that callbacks keep are plain where the model is, and go on bit for bit."""

import pytest
import torch
from pytorch_lightning.callbacks import ModelCheckpoint, StochasticWeightAveraging
from pytorch_lightning.callbacks.weight_averaging import EMAWeightAveraging
from toys.data import loader
from toys.fits import Net, fit, make_trainer

from ewnprune import EWN, WeightNormPruning
from ewnprune.callback.averages import unfold_averages

AVERAGING = {
    "SWA": lambda: StochasticWeightAveraging(0.01, 1),
    "EMA": lambda: EMAWeightAveraging(decay=0.9),
}


@pytest.mark.filterwarnings(
    "ignore:The dirpath has changed",
    "ignore:You're using the WeightAveraging callback, but loading",
    "ignore:SWA is initializing after",
    "ignore:Be aware that when using",
)
@pytest.mark.parametrize("kind", AVERAGING)
def test_checkpoints_with_averages_are_plain_and_resume_bit_for_bit(tmp_path, kind):
    def run(folder, ckpt_path=None):
        torch.manual_seed(0)
        model, keep = Net(), ModelCheckpoint(tmp_path / folder, "{epoch}", save_top_k=-1)
        callbacks = WeightNormPruning(EWN(), (0,)), AVERAGING[kind](), keep
        trainer = fit(tmp_path, model, *callbacks, max_epochs=3, ckpt_path=ckpt_path)
        return model, trainer

    model, trainer = run("whole")
    whole = {key: value.clone() for key, value in model.state_dict().items()}
    middle = tmp_path / "whole" / "epoch=1.ckpt"
    again, _ = run("resumed", middle)
    for key, value in whole.items():
        assert torch.equal(again.state_dict()[key], value), key

    (found,) = trainer.validate(model, loader(40, 1), verbose=False)
    evaluations = []
    for which, best in ((trainer, "best"), (make_trainer(tmp_path, AVERAGING[kind]()), middle)):
        evaluations += which.test(model, loader(40, 1), ckpt_path=str(best), verbose=False)
    assert found["val_loss"] > 0 and all(one["test_loss"] > 0 for one in evaluations)
    stored = torch.load(middle, weights_only=True)
    for state in (
        stored["state_dict"],
        stored.get("current_model_state", whole),
        stored["callbacks"].get("StochasticWeightAveraging", {}).get("average_model_state", whole),
    ):
        assert state.keys() == whole.keys()


def test_a_folder_of_shards_has_no_state_dict_to_unfold():
    """Its strategy has loaded the weights when callbacks are asked; the rest is in one file."""
    checkpoint = {"callbacks": {}, "epoch": 1}
    unfold_averages(checkpoint, {"0.parametrizations.weight.original0": torch.ones(1)}, {})
    assert checkpoint == {"callbacks": {}, "epoch": 1}
