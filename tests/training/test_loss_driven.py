"""`LossDrivenTraining`: Lightning's epochs under a rate that the loss drives."""

import copy
import csv
import io
import math
import random

import numpy as np
import pytest
import pytorch_lightning as pl
import torch
from pytorch_lightning.loggers import CSVLogger
from torch import nn
from torch.utils.data import DataLoader, TensorDataset
from toys.fits import make_trainer

from ewnprune import EWN, WeightNormPruning
from ewnprune.recipes.loss_driven import LossDrivenTraining
from ewnprune.training.loss_rate import LossDrivenRate
from ewnprune.training.losses import LogCrossEntropyLoss
from ewnprune.training.optimizers import EWNSGD
from lightning_modules import Classifier


class _Net(LossDrivenTraining, Classifier):
    rate = LossDrivenRate(lr=3.0, factor=1.5)


def _new():
    network = nn.Sequential(nn.Linear(6, 16), nn.ReLU(), nn.Linear(16, 3))
    return _Net(network, lambda p: EWNSGD(p, lr=1.0), scheduler=None, num_classes=3)


def _fit(folder, epochs, ckpt_path=None, net=None, callbacks=()):
    pl.seed_everything(5, verbose=False)
    x = torch.randn(40, 6)
    y = x[:, :3].argmax(1)
    net = _new() if net is None else net
    logger = CSVLogger(folder, version=0)
    trainer = make_trainer(None, *callbacks, max_epochs=epochs, logger=logger)
    loader = DataLoader(TensorDataset(x, y), batch_size=10)
    trainer.fit(net, loader, ckpt_path=ckpt_path)
    text = (folder / "lightning_logs" / "version_0" / "metrics.csv").read_text()
    rows = [r for r in csv.DictReader(io.StringIO(text)) if r["train/lr"]]
    log_loss = LogCrossEntropyLoss()(net(x), y).item()
    return net, trainer, rows, log_loss


# Lightning's advice says nothing about runs as small as these
quiet = pytest.mark.filterwarnings(
    "ignore:.*does not have many workers", "ignore:.*no `val_dataloader`"
)


@quiet
def test_lightning_epochs_are_judged_undone_and_logged(tmp_path):
    _, _, rows, log_loss = _fit(tmp_path, 60)
    assert len(rows) == 60
    current, lr = math.inf, 3.0
    for row in rows:  # the rule, from the log alone
        attempted, accepted = float(row["train/attempted_log_loss"]), float(row["train/accepted"])
        assert accepted == (attempted <= current)
        current = attempted if accepted else current
        lr = lr * 1.5 if accepted else lr / 1.5
        assert float(row["train/log_loss"]) == pytest.approx(current, rel=1e-6)
        assert float(row["train/lr"]) == pytest.approx(lr, rel=1e-5)
    assert 0 < sum(float(row["train/accepted"]) for row in rows) < 60
    assert log_loss == pytest.approx(current, rel=1e-5)  # the weights left are those kept
    assert current < -2


@quiet
def test_lightning_resumes_bit_for_bit(tmp_path):
    straight, *_ = _fit(tmp_path / "a", 12)
    _, trainer, _, _ = _fit(tmp_path / "b", 7)
    trainer.save_checkpoint(tmp_path / "run.ckpt")
    resumed, *_ = _fit(tmp_path / "c", 12, ckpt_path=tmp_path / "run.ckpt")
    assert resumed.controller.state == straight.controller.state
    for a, b in zip(straight.parameters(), resumed.parameters(), strict=True):
        assert torch.equal(a, b)


class _SavesAndRestores(pl.Callback):
    """As a finder of a learning rate does before the first step."""

    def on_fit_start(self, trainer, pl_module):
        path = f"{trainer.logger.save_dir}/found.ckpt"
        trainer.save_checkpoint(path)
        trainer._checkpoint_connector.restore(path)


@quiet
@pytest.mark.parametrize("loaded", ["load_from_checkpoint", "test", "fit before"])
def test_weights_of_another_run_are_where_a_new_one_begins(tmp_path, loaded):
    """By its own loss and rate, which the controller of the other would undo to the end."""
    _, trainer, rows, _ = _fit(tmp_path / "other", 8)
    (net, path), callbacks = (_new(), tmp_path / "other.ckpt"), []
    trainer.save_checkpoint(path)
    if loaded == "load_from_checkpoint":
        kept = {"network": net.network, "optimizer": net.optimizer, "scheduler": None}
        net = _Net.load_from_checkpoint(path, num_classes=3, **kept)
    elif loaded == "test":
        data = DataLoader(TensorDataset(torch.randn(4, 6), torch.zeros(4).long()))
        make_trainer(tmp_path).test(net, data, ckpt_path=path, verbose=False)
    else:
        net, callbacks = trainer.lightning_module, [_SavesAndRestores()]
    _, _, again, _ = _fit(tmp_path / "new", 1, net=net, callbacks=callbacks)
    assert float(rows[-1]["train/lr"]) not in (4.5, 2.0)
    assert float(again[0]["train/lr"]) in (4.5, 2.0)  # one decision from the rate to begin with


@quiet
def test_several_loaders_are_refused(tmp_path):
    data = DataLoader(TensorDataset(torch.randn(4, 6), torch.zeros(4).long()))
    with pytest.raises(ValueError, match=r"2 training loaders in a dict: .* expected one"):
        make_trainer(tmp_path).fit(_new(), {"a": data, "b": data})


@quiet
def test_measuring_leaves_the_workers_that_stay_to_the_training():
    class Counts(_Net):
        batches = ()

        def training_step(self, batch, batch_idx):
            super().training_step(batch, batch_idx)
            self.batches += (self.current_epoch,)

    x = torch.randn(40, 6)
    data = DataLoader(
        TensorDataset(x, x[:, :3].argmax(1)), 10, num_workers=1, persistent_workers=True
    )
    net = Counts(nn.Linear(6, 3), lambda p: torch.optim.SGD(p, 0.1), scheduler=None, num_classes=3)
    make_trainer(None, max_epochs=2).fit(net, data)
    assert net.batches == (0, 0, 0, 0, 1, 1, 1, 1)


@quiet
def test_measuring_is_without_dropout_and_leaves_no_trace():
    """A frozen layer stays in eval mode, and what shuffles the data has drawn nothing."""
    x = torch.randn(40, 6)
    y, seen = x[:, :3].argmax(1), []

    class Watched(_Net):
        def on_train_epoch_end(self):
            self.network[0].eval()
            modes = [module.training for module in self.modules()]
            drawn = torch.get_rng_state()
            seen.append((self.measure(), self.measure()))
            assert torch.equal(torch.get_rng_state(), drawn)
            assert [module.training for module in self.modules()] == modes
            assert self.network[1].training
            evaluated = copy.deepcopy(self.network).eval()
            expected = LogCrossEntropyLoss()(evaluated(x), y).item()
            assert seen[-1] == pytest.approx((expected, expected), rel=1e-6)
            super().on_train_epoch_end()

    network = nn.Sequential(nn.Linear(6, 16), nn.Dropout(), nn.ReLU(), nn.Linear(16, 3))
    net = Watched(network, lambda p: torch.optim.SGD(p, 0.1), scheduler=None, num_classes=3)
    data = DataLoader(TensorDataset(x, y), 10, shuffle=True)
    make_trainer(None, max_epochs=2).fit(net, data)
    assert len(seen) == 2


@quiet
def test_measuring_leaves_every_generator_as_it_was():
    own = torch.Generator().manual_seed(3)

    def states():
        numpy = np.random.get_state(legacy=False)["state"]["pos"]
        tensors = own.get_state().tolist(), torch.get_rng_state().tolist()
        return tensors, random.getstate(), numpy

    class Draws(_Net):
        left = ()

        def log_losses(self, batch):
            torch.rand(1), random.random(), np.random.rand()
            return super().log_losses(batch)

        def measure(self):
            before, measured = states(), super().measure()
            self.left += (states() == before,)
            return measured

    x = torch.randn(40, 6)
    data = DataLoader(TensorDataset(x, x[:, :3].argmax(1)), 10, shuffle=True, generator=own)
    net = Draws(nn.Linear(6, 3), lambda p: torch.optim.SGD(p, 0.1), scheduler=None, num_classes=3)
    make_trainer(None, max_epochs=1).fit(net, data)
    assert net.left == (True, True)


@quiet
@pytest.mark.filterwarnings("ignore:.*no curve")
def test_epoch_controller_works_with_the_callback_in_either_form(tmp_path):
    x = torch.randn(40, 6, generator=torch.Generator().manual_seed(1))
    data = TensorDataset(x, x[:, :3].argmax(1))

    def fit(optimizer, **options):
        torch.manual_seed(0)
        network = nn.Sequential(nn.Linear(6, 16), nn.ReLU(), nn.Linear(16, 3)).double()
        net = _Net(network, optimizer=optimizer, scheduler=None, num_classes=3).double()
        callback = WeightNormPruning(EWN(), sparsities=(0, 0.5), loss_levels=(-0.2, -50), **options)
        trainer = make_trainer(tmp_path, callback, max_epochs=8, precision="64-true")
        trainer.fit(net, DataLoader(data, batch_size=10), DataLoader(data, batch_size=40))
        assert callback.loss_levels.passed == [-0.2]
        return net, callback.curve

    attached, curve = fit(lambda p: torch.optim.SGD(p, lr=1.0))
    direct, other = fit(lambda p: EWNSGD(p, lr=1.0), weight_space=True)
    assert direct.controller.log_loss == pytest.approx(attached.controller.log_loss, rel=1e-9)
    assert attached.controller.log_loss < -0.3
    torch.testing.assert_close(direct.network[0].weight, attached.network[0].weight)
    assert [p.measure() for p in curve.points] == [p.measure() for p in other.points]
