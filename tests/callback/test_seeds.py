"""What is drawn goes by the seed of the run, and not by the 0 of a run without one."""

import pytest
import pytorch_lightning as pl
import torch
from toys import finetuning, gradual

from ewnprune import Gradual
from ewnprune.callback.holding import pruning_masks
from ewnprune.pruning.choice import Choice


def _finetuned(folder):
    callback, model = finetuning.callback_and_model("plain", 1, scores=["random"])
    finetuning.fit(folder, model, callback, max_epochs=1)
    return callback.curve, callback.finetuning.pruned


def _gradual(folder):
    callback, model = gradual.made("plain", Gradual(0.5, 0.0, 1e-9), scores=["random"])
    gradual.fit(folder, model, callback, max_epochs=1)
    return callback.curve, callback.gradual.pruned


@pytest.mark.parametrize(
    ("fit", "network"), [(_finetuned, finetuning.Net), (_gradual, gradual.Net)]
)
def test_what_goes_at_random_goes_by_the_seed_of_the_run(tmp_path, fit, network):
    """It is the same whatever the weights are, and so that of a network that has not trained."""
    masks = [
        pruning_masks(network(), 0.5, torch.ones(1, 6), score="random", choice=Choice(seed=seed))
        for seed in (3, None)
    ]
    pl.seed_everything(3, verbose=False)
    curve, pruned = fit(tmp_path)
    assert pruned["masks"].keys() == masks[0].keys()
    for name, keep in masks[0].items():
        assert torch.equal(pruned["masks"][name], keep), name
    assert not torch.equal(*(found["net.0.weight"] for found in masks))
    assert {point.seed for point in curve} == {3}
