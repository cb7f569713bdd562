"""Fits that prune while they train, and the schedule of that written out."""

import torch
from torch import nn

from ewnprune import EWN, EWNSGD, SWN, WeightNormPruning
from toys import fits
from toys.data import images

LEVELS = (0, 0.5, 0.8, 0.95)


def loader(n=64, seed=0):
    return images(n, seed, batch_size=8)


class Net(fits.Net):
    def __init__(self, kind=torch.optim.SGD, **options):
        layers = nn.Linear(6, 20), nn.ReLU(), nn.Linear(20, 10), nn.ReLU(), nn.Linear(10, 2)
        super().__init__(nn.Sequential(*layers))
        self.kind, self.options = kind, options or {"momentum": 0.9, "weight_decay": 0.05}

    def forward(self, x):
        return super().forward(x.flatten(1))

    def configure_optimizers(self):
        return self.kind(self.parameters(), lr=0.05, **self.options)


METHODS = {
    "plain": (None, {}, {}),
    "EWN": (EWN(), {}, {}),
    "SWN": (SWN(), {}, {}),
    "Adam": (EWN(), {}, {"kind": torch.optim.Adam, "weight_decay": 0.1}),
    "AdamW": (None, {}, {"kind": torch.optim.AdamW, "amsgrad": True}),
    "weight space": (EWN(), {"weight_space": True}, {"kind": EWNSGD, "weight_decay": 0.0}),
}


def made(method, gradual, **options):
    parametrization, more, model_options = METHODS[method]
    made = {"scores": ["norm", "norm_product"], **more, **options}
    torch.manual_seed(0)
    return WeightNormPruning(parametrization, LEVELS, gradual=gradual, **made), Net(**model_options)


def fit(folder, model, *callbacks, **options):
    options = {"max_epochs": 4, **options}
    return fits.fit(folder, model, *callbacks, train=loader(), val=loader(40, 1), **options)


def by_hand(step, to, first, last, every):
    """Zhu & Gupta (2017), equation 1, from 0, at the last pruning until a step."""
    if step < first:
        return 0.0
    times = [*range(first, last, every), last]
    t = max(time for time in times if time <= step)
    return to + (0 - to) * (1 - (t - first) / (last - first)) ** 3
