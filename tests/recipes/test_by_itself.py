"""Modules that optimize by themselves, and step in a batch as often as they like."""

import csv
from copy import deepcopy

import pytest
import pytorch_lightning as pl
import torch
from torch import nn
from toys.data import loader
from toys.fits import ByItself, Net, fit, sgd
from toys.gradual import by_hand

from ewnprune import (
    EWN,
    AlphaLearningRate,
    AsymptoticRelations,
    Gradual,
    GroupLasso,
    LogNormPenalty,
    WeightNormPruning,
    fold,
    reparametrize,
)
from ewnprune.recipes.proximal import shorten

KINDS = [{}, {"steps": 3}, {"every": 4}, {"optimizers": 2}]


class _Watch(pl.Callback):
    """How many neurons are gone after each batch."""

    def __init__(self):
        self.gone = []

    def on_train_batch_end(self, trainer, pl_module, *_):
        self.gone.append(int((~pl_module.net[0].weight.detach().any(dim=1)).sum()))


class _Penalty(LogNormPenalty):
    """Takes down at what fractions of the training it is asked."""

    def __init__(self, **options):
        super().__init__(1e-3, **options)
        self.asked = []

    def factor(self, done):
        self.asked.append(done)
        return super().factor(done)


@pytest.mark.parametrize("kind", KINDS, ids=str)
def test_times_of_schedules_are_fractions_of_the_batches(tmp_path, kind):
    penalty, watch, lasso = _Penalty(until=0.8), _Watch(), GroupLasso(1e-3, until=0.5)
    callback = WeightNormPruning(EWN(), (0, 0.5), gradual=Gradual(0.6, 0.25, 0.75, 1))
    fit(tmp_path, ByItself(**kind), penalty, lasso, callback, watch, max_epochs=8)
    assert watch.gone == [round(by_hand(batch, 0.6, 8, 24, 1) * 10) for batch in range(32)]
    steps = kind.get("steps", 1) * kind.get("optimizers", 1)
    batches = [batch for batch in range(32) if (batch + 1) % kind.get("every", 1) == 0]
    assert penalty.asked == [batch / 32 for batch in batches for _ in range(steps)]


@pytest.mark.filterwarnings("ignore:.max_epochs. was not set")
def test_a_training_that_max_steps_ends_is_counted_in_steps(tmp_path):
    penalty = _Penalty(ramp=0.5)
    options = {"max_steps": 12, "max_epochs": -1}
    fit(tmp_path, ByItself(steps=3), penalty, WeightNormPruning(EWN(), (0, 0.5)), **options)
    assert penalty.asked == [step / 12 for step in range(12)]
    for option in (penalty, GroupLasso(1e-3, until=0.5)):
        model, callback = ByItself(), WeightNormPruning(EWN(), (0, 0.5))
        with pytest.raises(ValueError, match="with manual optimization: max_steps=12 counts"):
            fit(tmp_path, model, option, callback, max_steps=12)


@pytest.mark.parametrize("kind", KINDS, ids=str)
def test_what_follows_a_step_follows_each_of_them(tmp_path, kind):
    """A proximal step, and a faster alpha, as in a bare loop."""
    model = ByItself(**kind)
    net = deepcopy(model.net)
    callbacks = AlphaLearningRate(3.0), GroupLasso(0.01), WeightNormPruning(EWN(), (0, 0.5))
    fit(tmp_path, model, *callbacks, max_epochs=1)
    reparametrize(net, EWN())
    optimizer, alpha = sgd(net.parameters()), net[0].parametrizations.weight.original0
    for batch, (x, y) in enumerate(loader()):
        for _ in range(kind.get("steps", 1)):
            nn.functional.cross_entropy(net(x), y).backward()
            if (batch + 1) % kind.get("every", 1) == 0:
                before = alpha.detach().clone()
                optimizer.step()
                with torch.no_grad():
                    alpha.copy_(before + 3 * (alpha - before))
                shorten(net[0], lambda r: GroupLasso(1).shortened(r, 0.1 / (1 - 0.9) * 0.01))
                optimizer.zero_grad()
    fold(net)
    for name, value in net.state_dict().items():
        torch.testing.assert_close(model.net.state_dict()[name], value)


def test_a_step_that_is_skipped_is_followed_by_none(tmp_path):
    """As a GradScaler skips one whose gradients overflow; the closure has run then."""

    class Skips(Net):
        def optimizer_step(self, epoch, batch_idx, optimizer, closure):
            if batch_idx == 0:
                optimizer.step(closure)
            else:
                closure()

    def trained(*callbacks):
        torch.manual_seed(0)
        model = Skips()
        fit(tmp_path, model, *callbacks, max_epochs=1)
        return model.net

    expected, found = trained(), trained(GroupLasso(0.01))
    shorten(expected[0], lambda r: GroupLasso(1).shortened(r, 0.1 / (1 - 0.9) * 0.01))
    for name, value in expected.state_dict().items():
        torch.testing.assert_close(found.state_dict()[name], value)


def test_relations_are_of_the_layers_that_the_step_trains(tmp_path):
    relations = AsymptoticRelations(2, layers=["net.0", "net.2"])
    fit(tmp_path, ByItself(optimizers=2), relations, max_epochs=1)
    with (tmp_path / "relations.csv").open() as file:
        found = {(int(row["step"]), row["layer"]) for row in csv.DictReader(file)}
    # two steps a batch, in the first batch and the third
    assert found == {(0, "net.0"), (1, "net.2"), (4, "net.0"), (5, "net.2")}
