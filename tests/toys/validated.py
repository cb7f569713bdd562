"""Fits of which is known what validation found, and a look at the weights that their user gets."""

import pytest
import torch
from torch import nn
from torchmetrics.functional import accuracy

from toys import fits
from toys.data import loader, points

LEVELS = (0, 0.5, 0.9)


class Net(fits.Net):
    """Takes down what validation found in each epoch."""

    def __init__(self):
        layers = nn.Linear(6, 20), nn.BatchNorm1d(20), nn.ReLU(), nn.Dropout(0.2), nn.Linear(20, 2)
        super().__init__(nn.Sequential(*layers))
        self.validated = {}

    def validation_step(self, batch, _):
        self.log("val_acc", accuracy(self(batch[0]), batch[1], "multiclass", num_classes=2))
        super().validation_step(batch, _)

    def on_validation_epoch_end(self):
        metrics = self.trainer.callback_metrics
        self.validated[self.trainer.current_epoch] = {k: v.item() for k, v in metrics.items()}

    def configure_optimizers(self):
        return torch.optim.SGD(self.parameters(), lr=0.2, momentum=0.9)


def fit(folder, model, *callbacks, **options):
    return fits.fit(folder, model, *callbacks, val=loader(96, 1, 96), max_epochs=4, **options)


def assert_last_is_the_users(callback, model):
    """The last curve, against the model that the user has in hand after the fit."""
    x, y = points(96, 1).tensors
    last = callback.curve.where(epoch=callback.curve.points[-1].epoch)
    assert [point.sparsity for point in last] == list(LEVELS)
    with torch.no_grad():
        outputs = model.eval()(x)
    assert last.points[0].correct == (outputs.argmax(1) == y).sum().item()
    expected = nn.functional.cross_entropy(outputs, y).item()
    assert last.points[0].loss == pytest.approx(expected, rel=1e-5)
