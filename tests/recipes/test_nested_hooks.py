"""NestedTraining where torch.compile has made code of the network before its hooks are there."""

import pytorch_lightning as pl
import torch
from toys.data import loader
from toys.fits import TrainsOnly, make_trainer, mlp

from ewnprune.recipes.nested import NestedTraining


def _trained(compiles):
    pl.seed_everything(1)
    model = TrainsOnly(mlp())
    if compiles:
        model.net = torch.compile(model.net, backend="eager")
        # as a finder of the learning rate does, or a fit before
        model.training_step(next(iter(loader())), 0).backward()
        model.zero_grad()
    make_trainer(None, NestedTraining(1.0, (0.9,)), max_epochs=1).fit(model, loader())
    return [parameter.detach() for parameter in model.parameters()]


def test_a_network_that_was_compiled_before_is_nested():
    torch.compiler.reset()
    for found, expected in zip(_trained(True), _trained(False), strict=True):
        torch.testing.assert_close(found, expected)
