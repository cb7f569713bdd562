"""LeNet-300-100 and LeNet-5-Caffe made small in steps: trained, cut, trained on, and cut again.

Each stage trains by Adam under a one-cycle schedule of its own and begins with the weights of the
stage before, without the pixels, filters and neurons of the lowest scores.
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from itertools import islice
from time import process_time
from typing import Any

import pytorch_lightning as pl
import torch
from torch import Tensor, nn

from ewnprune import remove_neurons, remove_with_notes
from lightning_modules import MLP, Classifier, LeNet5, MNISTDataModule

Row = dict[str, Any]
BATCHES = 16  # of training images, that deviations are taken over


@dataclass(frozen=True)
class Stage:
    """The widths to come to, first to last, and for how many epochs to train then."""

    widths: tuple[int, ...]
    epochs: int


@dataclass(frozen=True)
class Plan:
    """How a network becomes small.

    Attributes:
        build: makes it.
        layers: what the widths are of; ``"inputs"`` are pixels.
        stages: the first is the network as it is.
        cost: multiply-adds of the widths, as the papers count them.
    """

    build: Callable[[], nn.Module]
    layers: tuple[str, ...]
    stages: tuple[Stage, ...]
    cost: Callable[..., int]


def lenet300_cost(inputs: int, first: int, second: int) -> int:
    """Products of neighbouring widths.

    >>> lenet300_cost(784, 300, 100), lenet300_cost(97, 71, 33)
    (266200, 9560)
    """
    return inputs * first + first * second + second * 10


def lenet5_cost(c1: int, c2: int, hidden: int) -> int:
    """Multiply-adds with biases.

    >>> lenet5_cost(20, 50, 500)
    2308230
    """
    return 26 * 576 * c1 + (25 * c1 + 1) * 64 * c2 + (16 * c2 + 1) * hidden + (hidden + 1) * 10


PLANS = {
    "lenet300": Plan(
        lambda: MLP(hidden=(300, 100), output_bias=True),
        ("inputs", "fc1", "fc2"),
        (
            Stage((784, 300, 100), 10),
            Stage((320, 72, 40), 25),
            Stage((275, 52, 32), 25),
            Stage((240, 33, 30), 40),
        ),
        lenet300_cost,
    ),
    "lenet5": Plan(
        LeNet5,
        ("conv1", "conv2", "fc1"),
        (
            Stage((20, 50, 500), 3),
            Stage((8, 24, 200), 2),
            Stage((5, 14, 100), 7),
            Stage((4, 12, 90), 7),
            Stage((3, 10, 90), 7),
            Stage((2, 7, 60), 10),
        ),
        lenet5_cost,
    ),
}


class Reader(nn.Module):
    """A network that reads some of the pixels of an image.

    Args:
        network: of these pixels.
        kept: which they are, counted through the image; None where it takes images.
    """

    def __init__(self, network: nn.Module, kept: Tensor | None) -> None:
        super().__init__()
        self.network, self.kept = network, kept

    def read(self, x: Tensor) -> Tensor:
        """What the network takes of images."""
        return x if self.kept is None else x.flatten(1)[:, self.kept]

    def forward(self, x: Tensor) -> Tensor:
        logits: Tensor = self.network(self.read(x))
        return logits


def smaller(reader: Reader, plan: Plan, widths: tuple[int, ...], x: Tensor) -> Reader:
    """The same without the pixels and neurons of the lowest scores.

    Args:
        reader: the network.
        plan: what the widths are of.
        widths: how much of it is to stay.
        x: training images.
    """
    network, kept = reader.network, reader.kept
    example = reader.read(x)
    for layer, width in zip(plan.layers, widths, strict=True):
        if layer == "inputs":
            now = example[0].numel()
            removal = remove_with_notes(network, 1 - width / now, example, inputs=True)
            assert removal.inputs is not None
            inside = torch.tensor(removal.inputs.kept)
            kept = inside if kept is None else kept[inside]
            # a plain layer again, of these pixels alone
            picking: Any = removal.model.get_submodule("fc1")
            plain = nn.Linear(width, picking.out_features)
            plain.load_state_dict(picking.state_dict(), strict=False)
            removal.model.set_submodule("fc1", plain)
            network, example = removal.model, x.flatten(1)[:, kept]
        else:
            of: Any = network.get_submodule(layer)
            level = 1 - width / of.weight.shape[0]
            network = remove_neurons(
                network, level, example, score="norm_with_bias_product", layers=layer
            )
    return Reader(network, kept)


def fit(reader: Reader, data: MNISTDataModule, epochs: int, rate: float) -> None:
    """Train it by Adam, at most at this rate."""
    model = Classifier(reader, lambda parameters: torch.optim.Adam(parameters, rate))
    trainer = pl.Trainer(
        max_epochs=epochs, accelerator="cpu", logger=False, enable_progress_bar=False,
        enable_model_summary=False, enable_checkpointing=False, limit_val_batches=0,
    )  # fmt: skip
    trainer.fit(model, datamodule=data)


def error(model: nn.Module, data: MNISTDataModule, split: str) -> float:
    """How many images are taken for another digit, in %."""
    data.setup("test")
    loader: Any = data.val_dataloader() if split == "val" else data.test_dataloader()
    model.eval()
    with torch.no_grad():
        wrong = [(model(x).argmax(1) != y).float() for x, y in loader]
    model.train()
    return round(100 * torch.cat(wrong).mean().item(), 3)


def training_images(data: MNISTDataModule) -> Tensor:
    """Some of them, to take deviations over."""
    return torch.cat([x for x, _ in islice(data.train_dataloader(), BATCHES)])


def row(
    name: str, training: str, setting: float, widths: tuple[int, ...], epochs: int,
    reader: Reader, data: MNISTDataModule, split: str, begun: float,
) -> Row:  # fmt: skip
    """What is written of one network, measured now."""
    return {
        "network": name, "training": training, "seed": data.seed, "split": split,
        "setting": setting, "widths": "-".join(map(str, widths)),
        "macs": PLANS[name].cost(*widths), "epochs": epochs,
        "error": error(reader, data, split), "cpu_seconds": round(process_time() - begun, 1),
    }  # fmt: skip


def steps(name: str, rate: float, seed: int, split: str) -> Iterator[Row]:
    """All stages of one seed: a row for each."""
    plan, begun, epochs = PLANS[name], process_time(), 0
    pl.seed_everything(seed, verbose=False)
    data = MNISTDataModule(seed=seed, shift=1)
    reader = Reader(plan.build(), None)
    for stage in plan.stages:
        if epochs:
            reader = smaller(reader, plan, stage.widths, training_images(data))
        fit(reader, data, stage.epochs, rate)
        epochs += stage.epochs
        yield row(name, "steps", rate, stage.widths, epochs, reader, data, split, begun)
