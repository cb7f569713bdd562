"""One step of nested training of ResNet-20, beside plain training: what the callbacks cost.

    python -m benchmarks.nested_step                     # CPU time, one thread
    python -m benchmarks.nested_step --batch 4           # hardly any arithmetic: what is left
    python -m benchmarks.nested_step --accelerator gpu   # by the clock

Each training is a fit of some steps on random images, in bfloat16 as in `benchmarks.resnet20`; the
trainings take turns, and the first steps of a turn, which trace the network, do not count. The
table shows the least, middle and largest ratio to plain training in the same round.
"""

import argparse
import time
from contextlib import redirect_stdout
from io import StringIO
from statistics import median
from typing import Any

import pytorch_lightning as pl
import torch

from benchmarks.machine import describe, one_quiet_thread
from benchmarks.resnet20 import METHODS
from lightning_modules import Classifier, ResNet20
from lightning_modules.in_memory import Images, InMemoryImages

TRAININGS = ("plain", "nested_one_level", "nested", "recipe")
WARM_UP = 5


class RandomImages(InMemoryImages):
    """So many batches of random images."""

    mean, std = (0.5,) * 3, (0.25,) * 3

    def __init__(self, batch_size: int, batches: int) -> None:
        super().__init__(batch_size, val_size=0, seed=0, shift=4, flip=True)
        self.batches = batches

    def read(self) -> tuple[Images, Images]:
        """The training images twice."""
        count = self.batch_size * self.batches
        pixels = torch.randint(256, (count, 3, 32, 32), dtype=torch.uint8)
        images = Images(pixels, torch.randint(10, (count,)))
        return images, images


class Stopwatch(pl.Callback):
    """The time from one step to the end: that of the process, or the clock's on a GPU."""

    def __init__(self) -> None:
        self.begun = self.seconds = 0.0

    def on_train_batch_end(self, trainer: pl.Trainer, *_: Any) -> None:
        if trainer.global_step == WARM_UP:
            self.begun = self._now(trainer)
        self.seconds = self._now(trainer) - self.begun if trainer.is_last_batch else 0.0

    def _now(self, trainer: pl.Trainer) -> float:
        if trainer.strategy.root_device.type != "cuda":
            return time.process_time()
        torch.cuda.synchronize()
        return time.perf_counter()


def milliseconds(training: str, batch: int, steps: int, accelerator: str) -> float:
    """What a step of a training takes."""
    pl.seed_everything(0, verbose=False)
    network = ResNet20().to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    watch = Stopwatch()
    trainer = pl.Trainer(
        max_epochs=1, accelerator=accelerator, devices=1, precision="bf16-mixed", logger=False,
        enable_model_summary=False, enable_progress_bar=False, enable_checkpointing=False,
        limit_val_batches=0, callbacks=[*METHODS[training](), watch],
    )  # fmt: skip
    with redirect_stdout(StringIO()):  # which layers are nested, each time
        trainer.fit(Classifier(network), datamodule=RandomImages(batch, steps))
    return 1000 * watch.seconds / (steps - WARM_UP)


def main() -> None:
    """Measure, and print the table."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--batch", type=int, default=128)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--steps", type=int, default=25, help="in a turn")
    parser.add_argument("--accelerator", default="cpu", help="the Trainer's")
    args = parser.parse_args()
    if args.steps <= WARM_UP:
        parser.error(f"--steps {args.steps}: expected more than the {WARM_UP} that do not count")
    one_quiet_thread()
    times = [
        {name: milliseconds(name, args.batch, args.steps, args.accelerator) for name in TRAININGS}
        for _ in range(args.rounds)
    ]
    print(f"ResNet-20, batch {args.batch}, bf16, {args.rounds} rounds, {args.accelerator}.")
    print(f"{describe()}\n\n| training | ms | of plain: min | median | max |")
    print("| --- | --- | --- | --- | --- |")
    for name in TRAININGS:
        of = [t[name] / t["plain"] for t in times]
        middle = median(t[name] for t in times)
        print(f"| `{name}` | {middle:.1f} | {min(of):.2f} | {median(of):.2f} | {max(of):.2f} |")


if __name__ == "__main__":
    main()
