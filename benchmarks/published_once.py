"""LeNet-300-100 and LeNet-5-Caffe made small by one training, without finetuning.

The recipe under EWN: a faster ``alpha``, half of the images seeing neurons pruned, and a penalty on
log-norms that is off in the last fifth. The first layer of LeNet-300-100 has lengths of its pixels,
not of its neurons. The control has neither EWN nor a faster ``alpha``: the penalty is the group
lasso of plain neurons, and in LeNet-300-100 of pixels' lengths as well, which are SWN's.

Filters and neurons are cut to widths that are given, by their scores. What the training leaves
decides on the pixels: those stay whose score is above a hundredth of the largest, up to the number
given. Then two of the LeNet-300-100s train on, plainly, by Adam.
"""

from collections.abc import Iterator
from time import process_time
from typing import Any

import pytorch_lightning as pl
import torch
from torch import nn

from benchmarks.published_steps import PLANS, Reader, Row, fit, row, smaller, training_images
from ewnprune import (
    EWN,
    SWN,
    AlphaLearningRate,
    GroupLasso,
    LogNormPenalty,
    NestedTraining,
    WeightNormPruning,
)
from lightning_modules import Classifier, MNISTDataModule

EPOCHS, EPOCHS_ON = 30, 70
RATE = 4e-3  # that of training in steps
# pixels first, which are at most so many
WIDTHS: dict[str, tuple[tuple[int, ...], ...]] = {
    "lenet300": ((145, 72, 40), (145, 52, 32), (118, 60, 35), (145, 33, 30)),
    "lenet5": ((5, 14, 80), (4, 12, 60), (3, 10, 90)),
}
TRAIN_ON = WIDTHS["lenet300"][1:3]  # 9,524 and 9,530 multiply-adds
NESTED = {"lenet300": (0.5, 0.7, 0.8, 0.88), "lenet5": (0.5, 0.7, 0.78, 0.85)}


def callbacks(name: str, training: str, strength: float) -> list[pl.Callback]:
    """What makes a network small: under EWN where it trains ``once``, or its control."""
    nested = NestedTraining(0.5, NESTED[name])
    if training == "once":
        attached = WeightNormPruning(EWN(inputs=name == "lenet300"), (0,))
        return [AlphaLearningRate(rate=10), nested, LogNormPenalty(strength, until=0.8), attached]
    if name == "lenet300":
        attached = WeightNormPruning(SWN(dim=1), (0,), layers="network.fc1")
    else:
        attached = WeightNormPruning(None, (0,))
    return [GroupLasso(strength, until=0.8), nested, attached]


def train(name: str, training: str, strength: float, data: MNISTDataModule) -> nn.Module:
    """A network trained, plain again."""
    pl.seed_everything(data.seed, verbose=False)
    network = PLANS[name].build()
    trainer = pl.Trainer(
        max_epochs=EPOCHS, accelerator="cpu", logger=False, enable_progress_bar=False,
        enable_model_summary=False, enable_checkpointing=False, limit_val_batches=0,
        callbacks=callbacks(name, training, strength),
    )  # fmt: skip
    trainer.fit(Classifier(network), datamodule=data)
    return network


def pixels_held(network: Any, x: torch.Tensor) -> int:
    """How many pixels the first layer reads by more than a hundredth of what it reads most."""
    scores = network.fc1.weight.detach().norm(dim=0) * x.flatten(1).std(dim=0)
    return int((scores > 0.01 * scores.max()).sum())


def once(name: str, training: str, strength: float, seed: int, split: str) -> Iterator[Row]:
    """One training of one seed: a row for each of the widths, and for each that trains on."""
    begun = process_time()
    data = MNISTDataModule(seed=seed, shift=1)
    network = train(name, training, strength, data)
    x = training_images(data)
    for given in WIDTHS[name]:
        widths = given
        if name == "lenet300":
            widths = (min(given[0], pixels_held(network, x)), *given[1:])
        reader = smaller(Reader(network, None), PLANS[name], widths, x)
        yield row(name, training, strength, widths, EPOCHS, reader, data, split, begun)
        if given in TRAIN_ON:
            fit(reader, data, EPOCHS_ON, RATE)
            how, epochs = f"{training}_and_on", EPOCHS + EPOCHS_ON
            yield row(name, how, strength, widths, epochs, reader, data, split, begun)
