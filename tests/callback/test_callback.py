"""What the callback attaches is trained as by hand, and every fit ends with a plain network."""

import copy

import lightning.pytorch
import numpy as np
import pytest
import pytorch_lightning
import torch
from pytorch_lightning.callbacks import LearningRateFinder
from torch import nn
from toys.data import loader
from toys.fits import BuildsInConfigureModel, BuildsInSetup, Net, Steps, fit
from toys.processes import run_python

import ewnprune.lightning
from ewnprune import EWN, SWN, WeightNormPruning, attached_parametrizations
from ewnprune.callback import WeightNormPruning as Callback

LEVELS = (0, 0.5, 0.9)


class _Watch(pytorch_lightning.Callback):
    """What is attached while training, and which names the optimizer holds."""

    def on_train_start(self, trainer, pl_module):
        self.attached = list(attached_parametrizations(pl_module))
        held = {id(p) for group in trainer.optimizers[0].param_groups for p in group["params"]}
        self.held = {name for name, p in pl_module.named_parameters() if id(p) in held}


@pytest.mark.parametrize("model_class", [Net, BuildsInSetup, BuildsInConfigureModel])
def test_attaches_before_the_optimizer_wherever_layers_are_built(tmp_path, model_class):
    torch.manual_seed(0)
    watch, model = _Watch(), model_class()
    callback = WeightNormPruning(EWN(), LEVELS)
    fit(tmp_path, model, callback, watch)
    assert watch.attached == ["net.0"]
    assert "net.0.parametrizations.weight.original0" in watch.held
    assert "net.0.parametrizations.weight.original1" in watch.held
    assert not attached_parametrizations(model)
    assert "configure_model" not in vars(model)
    assert "on_save_checkpoint" not in vars(model)
    assert [p.sparsity for p in callback.curve.points] == list(LEVELS)


def test_training_moves_the_attached_parameters_as_by_hand(tmp_path):
    """Two epochs under the Trainer are the same two epochs in a bare loop."""
    torch.manual_seed(0)
    model = Net()
    bare = copy.deepcopy(model.net)
    fit(tmp_path, model, WeightNormPruning(EWN(), LEVELS))
    ewnprune.reparametrize(bare, EWN())
    optimizer = torch.optim.SGD(bare.parameters(), lr=0.1, momentum=0.9)
    for _ in range(2):
        for x, y in loader():
            optimizer.zero_grad()
            nn.functional.cross_entropy(bare(x), y).backward()
            optimizer.step()
    ewnprune.fold(bare)
    for key, value in bare.state_dict().items():
        assert torch.equal(model.net.state_dict()[key], value), key


class OtherNet(Steps, lightning.pytorch.LightningModule):
    pass


def test_both_lightning_namespaces(tmp_path):
    curves = []
    for package, model_class, callback_class in (
        (pytorch_lightning, Net, Callback),
        (lightning.pytorch, OtherNet, ewnprune.lightning.WeightNormPruning),
    ):
        torch.manual_seed(0)
        callback, logger = callback_class(SWN(), LEVELS), package.loggers.CSVLogger(tmp_path)
        fit(tmp_path, model_class(), callback, kind=package.Trainer, logger=logger)
        assert len(callback.curve.points) == len(LEVELS)
        curves.append([point.accuracy for point in callback.curve])
    assert curves[0] == curves[1]


def test_several_fits_in_one_process(tmp_path):
    torch.manual_seed(0)
    model = Net()
    for _ in range(3):
        fit(tmp_path, model, WeightNormPruning(EWN(), LEVELS))
        assert list(model.net.state_dict()) == ["0.weight", "0.bias", "2.weight", "2.bias"]


def test_learning_rate_finder_restores_the_originals(tmp_path):
    class Tunable(Net):
        def __init__(self):
            super().__init__()
            self.lr = 0.1

        def configure_optimizers(self):
            return torch.optim.SGD(self.parameters(), lr=self.lr)

    before = {}

    class Snapshot(pytorch_lightning.Callback):
        def on_train_start(self, trainer, pl_module):
            before.update({k: v.clone() for k, v in pl_module.state_dict().items()})

    torch.manual_seed(0)
    model = Tunable()
    expected = copy.deepcopy(model.net)
    ewnprune.reparametrize(expected, EWN())
    finder = LearningRateFinder(num_training_steps=4, early_stop_threshold=None)
    fit(tmp_path, model, WeightNormPruning(EWN(), LEVELS), finder, Snapshot(), max_epochs=1)
    # Snapshot ran last at the start of the true training, after the finder had put things back
    for key, value in expected.state_dict().items():
        assert torch.equal(before[f"net.{key}"], value), key


def test_norm_statistics_are_logged(tmp_path):
    model = Net()
    logged = fit(tmp_path, model, WeightNormPruning(None, LEVELS)).logged_metrics
    norms = model.net[0].weight.detach().double().norm(dim=1).numpy()
    expected = {f"q{at:02}": np.quantile(norms, at / 100) for at in (5, 50, 95)}
    expected["effective"] = (norms**2).sum() ** 2 / (norms**4).sum()
    expected["gini"] = np.abs(norms[:, None] - norms).mean() / (2 * norms.mean())
    for statistic, value in expected.items():
        assert float(logged[f"norms/net.0/{statistic}"]) == pytest.approx(value, rel=1e-5)


@pytest.mark.slow
def test_two_processes_train_and_come_home_folded(tmp_path):
    """ddp_fork, as ddp_spawn, sends the worker's weights back into the main process's plain model.

    They are those that another callback put in when the fit ended, and so is the last curve.
    """
    script = tmp_path / "fork.py"
    script.write_text(_FORK)
    done = run_python("-W", "ignore", script, tmp_path / "first")
    if "terminate called without an active exception" in done.stderr:
        # a thread of torch's own that outlives a worker by chance aborts it, once in many runs
        done = run_python("-W", "ignore", script, tmp_path / "again")
    assert done.returncode == 0, done.stderr[-3000:]
    assert "home and trained" in done.stdout


_FORK = """
import pickle, sys, torch, pytorch_lightning as pl
from toys.data import loader
from toys.fits import Net, fit
from ewnprune import EWN, WeightNormPruning, read_curve

class PutsIn(pl.Callback):
    def on_fit_end(self, trainer, pl_module):
        with torch.no_grad():
            for parameter in pl_module.parameters():
                parameter.add_(0.1)

if __name__ == "__main__":
    torch.manual_seed(0)
    model = Net()
    before = {k: v.clone() for k, v in model.state_dict().items()}
    # what spawning would do to it; a fork spares two processes their imports
    callback = pickle.loads(pickle.dumps(WeightNormPruning(EWN(), (0, 0.5), every_n_epochs=1)))
    fit(sys.argv[1], model, callback, PutsIn(), val=loader(), max_epochs=1, devices=2,
        strategy="ddp_fork")
    curve = read_curve(sys.argv[1] + "/sparsity_curve.json")
    x, y = loader().dataset.tensors
    with torch.no_grad():
        outputs = model(x)
    assert len(curve) == 2 and curve.points[0].total == 64
    assert curve.points[0].correct == int((outputs.argmax(1) == y).sum()), curve.points
    loss = torch.nn.functional.cross_entropy(outputs, y).item()
    assert abs(curve.points[0].loss - loss) < 1e-5, (curve.points, loss)
    after = model.state_dict()
    assert list(after) == list(before), list(after)
    assert all(not torch.equal(after[k], before[k]) for k in before)
    print("home and trained")
"""
