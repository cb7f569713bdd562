"""Fits of a network on five numbers a sample, in float64, to three classes."""

import torch
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

from toys import fits


def mlp():
    return nn.Sequential(nn.Linear(5, 8), nn.ReLU(), nn.Linear(8, 6), nn.ReLU(), nn.Linear(6, 3))


def data(n=24):
    x = torch.randn(n, 5, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    return DataLoader(TensorDataset(x, torch.arange(n) % 3), 8)


def sgd(parameters):
    return torch.optim.SGD(parameters, lr=0.3, momentum=0.5)


def fit(folder, model, *callbacks, val=None, **options):
    fits.make_trainer(folder, *callbacks, **options).fit(model, data(), val)
