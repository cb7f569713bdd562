"""What NestedTraining puts into a network is there where it is to be, and nowhere else."""

from types import SimpleNamespace

import pytest
import pytorch_lightning as pl
import torch
from torch import nn
from toys.data import loader, points
from toys.fits import ByItself, Net, TrainsOnly, fit, make_trainer, mlp

from ewnprune import EWN, WeightNormPruning
from ewnprune.recipes import nested
from ewnprune.recipes.nested import NestedTraining


def _normed():
    layers = [nn.Linear(6, 24), nn.BatchNorm1d(24), nn.ReLU(), nn.Linear(24, 8), nn.BatchNorm1d(8)]
    return nn.Sequential(*layers, nn.ReLU(), nn.Linear(8, 2))


def _trained(build, compiles, share=0.5, **options):
    pl.seed_everything(1)
    model = TrainsOnly(build())
    if compiles:
        model.net = torch.compile(model.net, backend="eager")
    # as a finder of the learning rate does, or a fit before
    model.training_step(next(iter(loader())), 0).backward()
    model.zero_grad()
    make_trainer(None, NestedTraining(share, (0.5, 0.9), **options), max_epochs=3).fit(
        model, loader()
    )
    return [parameter.detach() for parameter in model.parameters()]


@pytest.mark.filterwarnings("ignore:The .grad attribute")  # of dynamo, behind a graph break
@pytest.mark.parametrize("options", [{}, {"share": "every", "inner_gradient": 0.5}])
@pytest.mark.parametrize("build", [mlp, _normed])
def test_a_network_that_was_compiled_before_is_nested(build, options):
    torch.compiler.reset()
    with torch._dynamo.config.patch(fail_on_recompile_limit_hit=True):  # draws differ each time
        compiled = _trained(build, True, **options)
    for found, expected in zip(compiled, _trained(build, False, **options), strict=True):
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


def test_running_statistics_are_those_of_the_whole_network_alone():
    """Where every image sees every network, as without: the learning rate is 0."""
    found = []
    for callbacks in ([NestedTraining("every", (0.5, 0.9), inner_gradient=0.5)], []):
        torch.manual_seed(0)
        net = _normed()
        model = TrainsOnly(net, lambda parameters: torch.optim.SGD(parameters, lr=0.0))
        make_trainer(None, *callbacks, max_epochs=2).fit(model, loader())
        found.append(net)
    for each, plain in zip(found[0].buffers(), found[1].buffers(), strict=True):
        # variances of n and of 3 n images, each over their number less one
        torch.testing.assert_close(each, plain, rtol=0.03, atol=1e-6)
    torch.testing.assert_close(found[0][1].running_mean, found[1][1].running_mean)
    torch.testing.assert_close(found[0][4].running_var, found[1][4].running_var)


class Sees(TrainsOnly):
    def training_step(self, batch, batch_idx):
        self.given = self(batch[0])
        return nn.functional.cross_entropy(self.given, batch[1])


@pytest.mark.parametrize("precision", ["32-true", "bf16-mixed"])
@pytest.mark.parametrize("share", ["every", 0.7])
def test_inner_gradients_change_no_output(share, precision):
    given = []
    for inner in (1.0, 0.3):
        pl.seed_everything(1, verbose=False)
        conv = [nn.Conv2d(1, 6, 3), nn.BatchNorm2d(6), nn.ReLU(), nn.Conv2d(6, 4, 3), nn.ReLU()]
        net = nn.Sequential(nn.Unflatten(1, (1, 6)), nn.Unflatten(2, (6, 1)), nn.Upsample((6, 6)))
        net = nn.Sequential(net, *conv, nn.Flatten(), nn.Linear(16, 8), nn.ReLU(), nn.Linear(8, 2))
        model = Sees(net)
        nested = NestedTraining(share, (0.5, 0.7), inner_gradient=inner)
        make_trainer(None, nested, max_steps=1, precision=precision).fit(model, loader())
        given.append(model.given.detach())
    assert len(given[0]) == (3 if share == "every" else 1) * len(next(iter(loader()))[0])
    torch.testing.assert_close(*given, rtol=0, atol=0)


class OptimizesByItself(ByItself):
    validation_step = pl.LightningModule.validation_step


def test_every_network_trains_under_manual_optimization_too():
    found = []
    for kind in (OptimizesByItself, TrainsOnly):
        pl.seed_everything(0, verbose=False)
        model = kind()
        nested = NestedTraining("every", (0.5, 0.9), inner_gradient=0.5)
        make_trainer(None, nested, WeightNormPruning(EWN(), (0,))).fit(model, loader())
        assert "training_step" not in vars(model)
        found.append(model)
    for by_itself, automatic in zip(*(m.parameters() for m in found), strict=True):
        torch.testing.assert_close(by_itself, automatic)
