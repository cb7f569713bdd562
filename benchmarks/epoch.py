"""One epoch of EWN as ``ewnprune fit`` trains it: the floor, the habit, what Lightning takes.

    python -m benchmarks.epoch                # whole epochs: 430 training and 40 validation batches
    python -m benchmarks.epoch --batches 100  # part of one

The floor is a bare loop over tensors in memory with the same arithmetic; the habit is a torchvision
``DataLoader`` with transforms per image under the same Trainer. In between one thing after another
is switched off. An epoch is what lies between the Trainer's ``on_train_start`` and
``on_train_end``, validation and checkpoint included. All run in turns, in CPU time; the table shows
ratios to the floor of the same round.
"""

import argparse
import contextlib
import logging
import os
import tempfile
import time
import warnings
from collections.abc import Callable, Sequence
from functools import partial
from statistics import median
from typing import Any

import pytorch_lightning as pl
import torch
from pytorch_lightning.loggers import CSVLogger
from torch import Tensor, nn
from torch.utils.data import DataLoader, Subset
from torchvision import datasets, transforms

from benchmarks.machine import describe
from ewnprune import EWN, WeightNormPruning, reparametrize
from ewnprune.callback.progress import ThrottledProgressBar
from lightning_modules import MLP, Classifier, MNISTDataModule, OneCycle
from lightning_modules.files import cache_dir


class Clock(pl.Callback):
    """CPU time from the first training batch to the end of the epoch."""

    seconds = 0.0

    def on_train_start(self, *_: Any) -> None:
        self.seconds = -time.process_time()

    def on_train_end(self, *_: Any) -> None:
        self.seconds += time.process_time()


class Silent(Classifier):
    """The same steps with nothing measured or logged."""

    def training_step(self, batch: tuple[Tensor, Tensor], batch_idx: int) -> Tensor:
        return self.loss(self(batch[0]), batch[1])

    def validation_step(self, batch: tuple[Tensor, Tensor], batch_idx: int) -> None:
        self.loss(self(batch[0]), batch[1])


def habit(batch_size: int) -> dict[str, DataLoader[Any]]:
    """What most tutorials do, with the same split of the same images."""
    pixels = transforms.Compose([transforms.ToTensor(), transforms.Normalize((0.1307,), (0.3081,))])
    images = datasets.MNIST(str(cache_dir()), train=True, transform=pixels)
    parts = Subset(images, range(55_000)), Subset(images, range(55_000, 60_000))
    return {
        "train_dataloaders": DataLoader(parts[0], batch_size, shuffle=True),
        "val_dataloaders": DataLoader(parts[1], batch_size),
    }


def trained(
    batches: float,
    module: Callable[[], pl.LightningModule] = lambda: Classifier(MLP()),
    usual: bool = False,
    more: Sequence[pl.Callback] = (),
    **settings: Any,
) -> float:
    """CPU seconds of one epoch under the Trainer."""
    pl.seed_everything(0, verbose=False)
    clock, data = Clock(), MNISTDataModule()
    with tempfile.TemporaryDirectory() as folder, contextlib.ExitStack() as stack:
        # a terminal is not what is measured
        quiet = stack.enter_context(open(os.devnull, "w"))
        stack.enter_context(contextlib.redirect_stdout(quiet))
        stack.enter_context(contextlib.redirect_stderr(quiet))
        trainer = pl.Trainer(
            max_epochs=1, accelerator="cpu", limit_train_batches=batches,
            limit_val_batches=batches if isinstance(batches, float) else max(1, batches // 11),
            num_sanity_val_steps=0, callbacks=[clock, WeightNormPruning(EWN(), (0,)), *more],
            **{"logger": CSVLogger(folder), "default_root_dir": folder, **settings},
        )  # fmt: skip
        trainer.fit(module(), **(habit(data.batch_size) if usual else {"datamodule": data}))
    return clock.seconds


def bare(batches: float) -> float:
    """CPU seconds of the same arithmetic in a loop that does nothing else."""
    pl.seed_everything(0, verbose=False)
    data = MNISTDataModule()
    data.prepare_data()
    data.setup()
    network, loss = MLP(), nn.CrossEntropyLoss()
    reparametrize(network, EWN())
    optimizer = torch.optim.SGD(network.parameters(), lr=0.1, momentum=0.9)
    schedule = OneCycle(optimizer)
    schedule.total_steps = 430
    mean, std = 0.1307, 0.3081
    train, val = data.train_dataloader(), data.val_dataloader()
    assert train.labels is not None and not isinstance(val, list) and val.labels is not None
    steps = len(train) if isinstance(batches, float) else batches
    checks = len(val) if isinstance(batches, float) else max(1, batches // 11)

    def batch(images: Tensor, labels: Tensor, index: Tensor) -> tuple[Tensor, Tensor]:
        return images[index].unsqueeze(1).float().div_(255).sub_(mean).div_(std), labels[index]

    start = time.process_time()
    for index in torch.randperm(len(train.images)).split(128)[:steps]:
        x, y = batch(train.images, train.labels, index)
        optimizer.zero_grad()
        loss(network(x), y).backward()
        optimizer.step()
        schedule.step()
    with torch.inference_mode():
        correct, total = torch.tensor(0), torch.tensor(0.0)
        for index in torch.arange(len(val.images)).split(128)[:checks]:
            x, y = batch(val.images, val.labels, index)
            outputs = network(x)
            correct += (outputs.argmax(1) == y).sum()
            total += loss(outputs, y) * len(y)
    return time.process_time() - start


OFF: dict[str, Any] = {"enable_progress_bar": False, "enable_model_summary": False}
RUNS: dict[str, Callable[[float], float]] = {
    "bare loop (the floor)": bare,
    "Lightning's own progress bar": trained,
    "ewnprune's progress bar": lambda batches: trained(batches, more=[ThrottledProgressBar()]),
    "... no progress bar": partial(trained, **OFF),
    "... and no logger": partial(trained, **OFF, logger=False),
    "... and no checkpoint": partial(trained, **OFF, logger=False, enable_checkpointing=False),
    "... and no metrics": partial(
        trained,
        module=lambda: Silent(MLP()),
        **OFF,
        logger=False,
        enable_checkpointing=False,
    ),
    "torchvision DataLoader (the habit)": partial(trained, usual=True),
}


def main() -> None:
    """Measure, and print the table."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--batches", type=int, help="part of an epoch; by default all of it")
    parser.add_argument("--rounds", type=int, default=5)
    args = parser.parse_args()
    torch.set_num_threads(1)
    warnings.simplefilter("ignore")
    logging.getLogger("pytorch_lightning").setLevel(logging.ERROR)
    batches = args.batches or 1.0
    seconds: dict[str, list[float]] = {name: [] for name in RUNS}
    bare(2), trained(2)
    for _ in range(args.rounds):
        for name, run in RUNS.items():
            seconds[name].append(run(batches))
    floor, usual = seconds["bare loop (the floor)"], seconds["torchvision DataLoader (the habit)"]
    print(f"\n{args.batches or 430} batches, {args.rounds} rounds. {describe()}\n")
    print("| what | CPU s | of the floor: min | median | max | of the habit: median |")
    print("| --- | --- | --- | --- | --- | --- |")
    for name, values in seconds.items():
        ratios = [a / b for a, b in zip(values, floor, strict=True)]
        of_usual = median(a / b for a, b in zip(values, usual, strict=True))
        cells = " | ".join(f"{f(ratios):.3f}" for f in (min, median, max))
        print(f"| {name} | {median(values):.2f} | {cells} | {of_usual:.3f} |")


if __name__ == "__main__":
    main()
