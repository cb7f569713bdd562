"""Under the callback, steps in weight space are the same training as attached parameters."""

import pytest
import torch
from pytorch_lightning.callbacks import (
    ModelCheckpoint,
)
from torch import nn
from toys.fits import Net, fit

import ewnprune.lightning
from ewnprune import EWN, EWNSGD, SWN, WeightNormPruning

LEVELS = (0, 0.5, 0.9)


class AnySGD(Net):
    def __init__(self, kind):
        super().__init__()
        self.kind = kind

    def configure_optimizers(self):
        optimizer = self.kind(self.parameters(), lr=0.2)
        return [optimizer], [torch.optim.lr_scheduler.StepLR(optimizer, 1, 0.5)]


@pytest.mark.parametrize(
    ("parametrization", "optimizer"), [(EWN(), ewnprune.EWNSGD), (SWN(), ewnprune.SWNSGD)]
)
def test_weight_space_is_the_same_training(tmp_path, parametrization, optimizer):
    curves, states = [], []
    for options in ({"kind": torch.optim.SGD}, {"kind": optimizer}):
        torch.manual_seed(0)
        model, checkpointing = AnySGD(**options), ModelCheckpoint(tmp_path)
        space = options["kind"] is not torch.optim.SGD
        callback = WeightNormPruning(parametrization, LEVELS, weight_space=space)
        fit(tmp_path, model, callback, checkpointing, max_epochs=4)
        curves.append([(p.score, p.sparsity, p.correct) for p in callback.curve])
        states.append(model.state_dict())
    torch.testing.assert_close(*states, rtol=1e-4, atol=1e-6)
    assert curves[0] == curves[1]
    stored = torch.load(checkpointing.best_model_path, weights_only=True)
    assert stored["ewnprune"]["originals"] == {}
    assert "configure_optimizers" not in vars(model)


def test_filtered_parameters_and_a_second_group_train_in_weight_space(tmp_path):
    """What configure_optimizers does with self.parameters() is its own affair."""

    class Grouped(Net):
        def __init__(self, how):
            super().__init__()
            self.net.append(nn.Linear(2, 2))
            self.net[2].requires_grad_(False)
            self.how = how

        def configure_optimizers(self):
            return EWNSGD(self.how(self), lr=0.1)

    states = []
    for how in (
        lambda m: m.parameters(),
        lambda m: [p for p in m.parameters() if p.requires_grad],
        lambda m: [
            {"params": m.net[0].parameters()},
            {"params": m.net[2:].parameters(), "lr": 0.1},
        ],
        lambda m: m.named_parameters(),
    ):
        torch.manual_seed(0)
        model = Grouped(how)
        fit(tmp_path, model, WeightNormPruning(EWN(), LEVELS, weight_space=True))
        states.append(model.state_dict())
        assert not any(vars(parameter) for parameter in model.parameters())  # no mark is left
    for state in states[1:]:
        assert all(torch.equal(states[0][key], value) for key, value in state.items())


def test_an_optimizer_of_weight_space_made_too_early_is_refused(tmp_path):
    class Early(Net):
        def __init__(self):
            super().__init__()
            self.early = EWNSGD(self.parameters(), lr=0.1)

        def configure_optimizers(self):
            return self.early

    with pytest.raises(ValueError, match=r"EWNSGD was made before the layers were chosen"):
        fit(tmp_path, Early(), WeightNormPruning(EWN(), LEVELS, weight_space=True))
