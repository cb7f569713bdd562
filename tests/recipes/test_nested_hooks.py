"""What NestedTraining puts into a network is there where it is to be, and nowhere else."""

from types import SimpleNamespace

import pytest
import pytorch_lightning as pl
import torch
from torch import nn
from toys.data import loader, points
from toys.fits import Net, TrainsOnly, fit, make_trainer, mlp

from ewnprune import EWN, WeightNormPruning
from ewnprune.recipes import nested
from ewnprune.recipes.nested import NestedTraining


def _normed():
    layers = [nn.Linear(6, 24), nn.BatchNorm1d(24), nn.ReLU(), nn.Linear(24, 8), nn.BatchNorm1d(8)]
    return nn.Sequential(*layers, nn.ReLU(), nn.Linear(8, 2))


def _trained(build, compiles):
    pl.seed_everything(1)
    model = TrainsOnly(build())
    if compiles:
        model.net = torch.compile(model.net, backend="eager")
    # as a finder of the learning rate does, or a fit before
    model.training_step(next(iter(loader())), 0).backward()
    model.zero_grad()
    make_trainer(None, NestedTraining(0.5, (0.5, 0.9)), max_epochs=3).fit(model, loader())
    return [parameter.detach() for parameter in model.parameters()]


@pytest.mark.filterwarnings("ignore:The .grad attribute")  # of dynamo, behind a graph break
@pytest.mark.parametrize("build", [mlp, _normed])
def test_a_network_that_was_compiled_before_is_nested(build):
    torch.compiler.reset()
    with torch._dynamo.config.patch(fail_on_recompile_limit_hit=True):  # draws differ each time
        compiled = _trained(build, True)
    for found, expected in zip(compiled, _trained(build, False), strict=True):
        torch.testing.assert_close(found, expected)


def test_each_process_and_batch_draws_for_itself(monkeypatch):
    pl.seed_everything(3, verbose=False)
    seeds, training = [], NestedTraining(0.5)
    monkeypatch.setattr(nested, "draw_levels", lambda *of: seeds.append(of[-1]) or torch.zeros(1))
    training._found = ()  # the groups were looked for
    for rank, epoch, number in ((0, 0, 0), (1, 2, 5)):
        trainer = SimpleNamespace(current_epoch=epoch, global_rank=rank)
        training.on_train_batch_start(trainer, None, next(iter(loader())), number)
    assert seeds == [(3, 0, 0, 0), (3, 2, 5, 1)]


class Skips(Net):
    def on_train_batch_start(self, batch, batch_idx):
        return -1 if batch_idx == 2 else None


def test_the_curve_of_an_epoch_that_was_skipped_is_of_the_whole_network(tmp_path):
    torch.manual_seed(0)
    model, pruning = Skips(), WeightNormPruning(EWN(), (0,), every_n_epochs=1)
    fit(tmp_path, model, NestedTraining(1.0, (0.9,)), pruning, max_epochs=1)
    x, y = points(40, 1).tensors
    assert pruning.curve.points[0].correct == (model(x).argmax(1) == y).sum()
