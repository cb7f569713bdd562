"""Fits that are finetuned at their end, and the learning rates of their schedule written out."""

import torch
from torch import nn

from ewnprune import EWN, EWNSGD, SWN, Finetune, WeightNormPruning
from toys import fits
from toys.data import images

LEVELS = (0, 0.5, 0.8)


def loader(n=64, seed=0):
    return images(n, seed, batch_size=16)


class Net(fits.Net):
    def __init__(self, kind=torch.optim.SGD, **options):
        layers = nn.Linear(6, 20), nn.ReLU(), nn.Linear(20, 12), nn.ReLU(), nn.Linear(12, 2)
        super().__init__(nn.Sequential(*layers))
        self.kind, self.options = kind, options or {"momentum": 0.9, "weight_decay": 0.01}

    def forward(self, x):
        return super().forward(x.flatten(1))

    def configure_optimizers(self):
        optimizer = self.kind(self.parameters(), lr=0.1, **self.options)
        # not estimated_stepping_batches, by which Lightning loses a loader's place in an epoch:
        # https://github.com/Lightning-AI/pytorch-lightning/issues/20550
        schedule = torch.optim.lr_scheduler.OneCycleLR(
            optimizer, 0.2, total_steps=4 * self.trainer.max_epochs, cycle_momentum=False
        )
        return [optimizer], [{"scheduler": schedule, "interval": "step"}]


METHODS = {
    "plain": (None, {}, {}),
    "EWN": (EWN(), {}, {}),
    "SWN": (SWN(), {}, {}),
    "weight space": (EWN(), {"weight_space": True}, {"kind": EWNSGD, "weight_decay": 0.0}),
}


def callback_and_model(method, epochs=0, **options):
    parametrization, more, model_options = METHODS[method]
    made = {"scores": ["norm", "norm_product", "random"], **more, **options}
    if epochs:
        made["finetune"] = Finetune(epochs, 0.5, made.pop("score", None))
    torch.manual_seed(0)
    return WeightNormPruning(parametrization, LEVELS, **made), Net(**model_options)


def fit(folder, model, *callbacks, **options):
    options = {"max_epochs": 3, **options}
    return fits.fit(folder, model, *callbacks, train=loader(), val=loader(40, 1), **options)


def rates_by_hand(steps, peak=0.2):
    optimizer = torch.optim.SGD([nn.Parameter(torch.zeros(1))], 0.1)
    schedule = torch.optim.lr_scheduler.OneCycleLR(
        optimizer, peak, total_steps=steps, cycle_momentum=False
    )
    rates = []
    for step in range(steps):
        rates.append(optimizer.param_groups[0]["lr"])
        optimizer.step()
        if step + 1 < steps:
            schedule.step()
    return rates
