"""Torch-Pruning's sparse learning and group norms (DepGraph), through the library, on MNIST.

Fang et al. (CVPR 2023), https://arxiv.org/abs/2301.12900: while it trains, ``GroupNormPruner`` adds
``reg * gamma_g * w`` to the gradients of each group, in and out, with ``gamma_g`` from 1 for the
group of the largest norm to 16 for that of the smallest. Then groups of the smallest norms go, the
same share of each layer, at once and without finetuning.

    python -m benchmarks.depgraph --network CNN --epochs 2 --reg 1e-4 1e-3

prints the test accuracy at each level. ``python -m benchmarks.kin`` has it beside other methods.
"""

import argparse
import copy
import warnings
from collections.abc import Iterable
from functools import partial
from typing import Any

import pytorch_lightning as pl
import torch
from torch import Tensor, nn

from benchmarks.machine import describe
from lightning_modules import CNN, MLP, Classifier, MNISTDataModule

LEVELS = (0.0, 0.5, 0.8, 0.9, 0.95, 0.98)
EXAMPLE = torch.zeros(1, 1, 28, 28)


def make_pruner(network: nn.Module, **options: Any) -> Any:
    """The library's pruner of a network, all but whose last layer loses outputs."""
    import torch_pruning

    linear = [module for module in network.modules() if isinstance(module, nn.Linear)]
    importance = torch_pruning.importance.GroupMagnitudeImportance(p=2)
    ignored = {"ignored_layers": [linear[-1]]}
    return torch_pruning.pruner.GroupNormPruner(network, EXAMPLE, importance, **ignored, **options)


class SparseLearning(pl.Callback):
    """What the library adds to the gradients, with ``gamma`` from 1 to 16 as it has it.

    Args:
        reg: the factor.
    """

    def __init__(self, reg: float) -> None:
        self.reg = reg

    def on_fit_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        self._pruner = make_pruner(pl_module.network, reg=self.reg)  # type: ignore[arg-type]
        pl_module.train()  # which the library's tracing ends

    def on_before_optimizer_step(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, optimizer: torch.optim.Optimizer
    ) -> None:
        self._pruner.regularize(pl_module.network)


@torch.no_grad()
def accuracy(network: nn.Module, batches: Iterable[tuple[Tensor, Tensor]]) -> float:
    """Fraction of the samples that the network classifies right."""
    network.eval()
    found = [(network(x).argmax(1) == y).float() for x, y in batches]
    return float(torch.cat(found).mean())


def pruned_accuracies(
    network: nn.Module, level: float, *data: Iterable[tuple[Tensor, Tensor]]
) -> list[float]:
    """Accuracies on each data set of the network that the library prunes to a level."""
    smaller = copy.deepcopy(network)
    if level:
        make_pruner(smaller, pruning_ratio=level).step()
    return [accuracy(smaller, batches) for batches in data]


def train(
    network: nn.Module, epochs: int, seed: int, *callbacks: pl.Callback, rate: float = 0.1
) -> tuple[Classifier, MNISTDataModule]:
    """A trained classifier on the CPU, and its data, set up for test data too."""
    optimizer = partial(torch.optim.SGD, lr=rate, momentum=0.9)
    model, data = Classifier(network, optimizer), MNISTDataModule(seed=seed)
    trainer = pl.Trainer(
        max_epochs=epochs, accelerator="cpu", logger=False, enable_progress_bar=False,
        enable_model_summary=False, enable_checkpointing=False, limit_val_batches=0,
        callbacks=list(callbacks),
    )  # fmt: skip
    trainer.fit(model, datamodule=data)
    data.setup("test")
    return model, data


def main() -> None:
    """Train with each factor, and print a table."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--network", choices=["MLP", "CNN"], default="MLP")
    parser.add_argument("--epochs", type=int, default=2)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--reg", type=float, nargs="+", default=[1e-4, 3e-4, 1e-3, 3e-3])
    args = parser.parse_args()
    torch.set_num_threads(1)
    warnings.simplefilter("ignore")
    print(describe())
    print("| reg |", *(f"{100 * level:g} % |" for level in LEVELS))
    print("| --- |", *("--- |" for _ in LEVELS))
    for reg in args.reg:
        pl.seed_everything(args.seed, verbose=False)
        network = {"MLP": MLP, "CNN": CNN}[args.network]()
        model, data = train(network, args.epochs, args.seed, SparseLearning(reg))
        test = [*data.test_dataloader()]
        rates = [pruned_accuracies(model.network, level, test)[0] for level in LEVELS]
        print(f"| {reg:g} |", *(f"{100 * rate:.1f} |" for rate in rates), flush=True)


if __name__ == "__main__":
    main()
