"""Of which weights a curve in mid-training is: those that validation evaluates."""

import pytest
import pytorch_lightning as pl
import torch
from pytorch_lightning.callbacks.weight_averaging import EMAWeightAveraging
from torch import nn
from toys.validated import LEVELS, Net
from toys.validated import assert_last_is_the_users as _assert_last_is_the_users
from toys.validated import fit as _fit

from ewnprune import EWN, WeightNormPruning


class ScheduleFree(torch.optim.Optimizer):
    """As schedulefree's SGD: trains at y, evaluates at x, and holds z; x = y + (1 - 1/beta)(z - y).

    https://arxiv.org/abs/2405.15682
    """

    def __init__(self, params, lr, beta=0.6):
        super().__init__(params, {"lr": lr, "beta": beta, "k": 0, "training": True})

    @torch.no_grad()
    def _move(self, training):
        for group in self.param_groups:
            if group["training"] == training:
                continue
            group["training"] = training
            weight = 1 - group["beta"] if training else 1 - 1 / group["beta"]
            for p in group["params"]:
                if "z" in self.state[p]:
                    p.lerp_(self.state[p]["z"], weight)

    def eval(self):
        self._move(False)

    def train(self):
        self._move(True)

    @torch.no_grad()
    def step(self, closure=None):
        with torch.enable_grad():
            loss = closure()
        for group in self.param_groups:
            assert group["training"], "a step while the weights of evaluation were in"
            group["k"] += 1
            for p in group["params"]:
                z = self.state[p].setdefault("z", p.clone())
                p.lerp_(z, 1 / group["k"])
                p.add_(p.grad, alpha=group["lr"] * (group["beta"] * (1 - 1 / group["k"]) - 1))
                z.sub_(p.grad, alpha=group["lr"])
        return loss


class FreeNet(Net):
    def __init__(self):
        super().__init__()
        self.net[1] = nn.Identity()  # batch norm's statistics are of the weights trained with
        self.frozen = nn.Dropout(0.5).eval()  # a flag of its own

    def configure_optimizers(self):
        return ScheduleFree(self.parameters(), lr=1.0)

    def on_validation_model_eval(self):
        super().on_validation_model_eval()
        self.optimizers().optimizer.eval()

    def on_validation_model_train(self):
        self.train()
        self.frozen.eval()
        self.optimizers().optimizer.train()


@pytest.mark.filterwarnings("ignore:Found . module.s. in eval mode")
@pytest.mark.parametrize("parametrization", [None, EWN()], ids=["plain", "EWN"])
def test_schedule_free_weights_of_evaluation_are_swept_and_training_goes_on(
    tmp_path, parametrization
):
    runs = []
    for every in (None, 1):
        torch.manual_seed(0)
        model, flags, weights = FreeNet(), [], []

        class Watch(pl.Callback):
            def on_train_batch_end(self, trainer, pl_module, *_):
                flags.append([module.training for module in pl_module.modules()])  # noqa: B023
                weights.append([p.detach().clone() for p in pl_module.parameters()])  # noqa: B023

        callback = WeightNormPruning(parametrization, LEVELS, every_n_epochs=every)
        _fit(tmp_path, model, callback, Watch())
        runs.append((flags, weights))
        _assert_last_is_the_users(callback, model)
    for epoch in range(3):  # the fourth is measured anew: the user gets the weights trained with
        point = callback.curve.where(epoch=epoch, sparsity=0.0).points[0]
        assert point.accuracy == pytest.approx(model.validated[epoch]["val_acc"], abs=1e-6)
        assert point.loss == pytest.approx(model.validated[epoch]["val_loss"], rel=1e-5)
    assert any("other weights had been put in" in str(note) for note in callback.curve.notes)
    (flags, weights), (flags_too, weights_too) = runs
    assert flags == flags_too  # as if no curve had been taken, bit for bit
    for one, other in zip(weights, weights_too, strict=True):
        assert all(map(torch.equal, one, other))


@pytest.mark.filterwarnings("ignore:Found . module.s. in eval mode")
def test_a_sweep_leaves_flags_that_the_modules_hook_would_set(tmp_path):
    """Lightning leaves the flags as the hook does; a curve is not to be noticed at all."""

    class Partly(FreeNet):
        def on_validation_model_train(self):
            super().on_validation_model_train()
            self.net[3].eval()  # as if by mistake

    class Flags(pl.Callback):
        def on_train_epoch_end(self, trainer, pl_module):
            pl_module.net[3].train()  # after validation, before the sweep
            self.before = [module.training for module in pl_module.modules()]

        def on_train_epoch_start(self, trainer, pl_module):
            if trainer.current_epoch:
                assert [module.training for module in pl_module.modules()] == self.before

    _fit(tmp_path, Partly(), WeightNormPruning(EWN(), LEVELS, every_n_epochs=1), Flags())


def test_averages_that_validation_evaluates_are_swept(tmp_path):
    states = []
    for every in (None, 1):
        torch.manual_seed(0)
        model, callback = Net(), WeightNormPruning(EWN(), LEVELS, every_n_epochs=every)
        _fit(tmp_path, model, callback, EMAWeightAveraging(decay=0.8))
        states.append(model.state_dict())
        _assert_last_is_the_users(callback, model)
    for epoch in range(4):
        point = callback.curve.where(epoch=epoch, sparsity=0.0).points[0]
        assert point.accuracy == pytest.approx(model.validated[epoch]["val_acc"], abs=1e-6)
        assert point.loss == pytest.approx(model.validated[epoch]["val_loss"], rel=1e-5)
    assert not [note for note in callback.curve.notes if "put in" in str(note)]
    assert all(torch.equal(states[0][key], value) for key, value in states[1].items())
