"""A dense network of the pruned size, trained from scratch: what pruning must beat."""

from typing import Any

import torch
from pytorch_lightning import Callback, LightningModule, Trainer
from torch import nn

from ewnprune.callback.hooks import PruningHooks
from ewnprune.curve.sweep import sparsity_curve
from ewnprune.model.layers import neuron_rows, select_layers
from ewnprune.pruning.removal import remove_neurons


class DenseOfPrunedSize(Callback):
    """Train a network as small as a pruned one from scratch, on the same budget.

    Before anything is trained, neurons are removed at random, and the weights of the layers that
    read them are multiplied by ``sqrt(inputs before / inputs after)``: with an initialization that
    scales with the fan-in, as Kaiming's does, that is the smaller network freshly initialized.
    It wants ``prune.sparsities`` to be ``[0]``: this network is pruned no further. Which layers
    lose neurons is as the `WeightNormPruning` beside it says.

    Args:
        sparsity: fraction of the neurons to be without, in [0, 1).
        seed: of the removal.

    Raises:
        ValueError: in ``setup``, where levels are no fractions of neurons.

    Its state in a checkpoint is the counts of what it has of what the full network has.
    """

    def __init__(self, sparsity: float, seed: int = 0) -> None:
        self.sparsity, self.seed = sparsity, seed
        self._counts: dict[str, tuple[int, int]] = {}

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        if self._counts:
            return  # this very model is validated or tested after the fit
        data: Any = trainer.datamodule  # type: ignore[attr-defined]
        split = {"fit": "train", "validate": "val", "test": "test", "predict": "predict"}[stage]
        loader = getattr(data, f"{split}_dataloader")()
        callbacks: list[Any] = trainer.callbacks  # type: ignore[attr-defined]
        hooks = (callback for callback in callbacks if isinstance(callback, PruningHooks))
        how = next(hooks, PruningHooks(None)).measuring
        if how.inputs or how.level_of != "units":
            raise ValueError(
                "DenseOfPrunedSize has a network without a fraction of its neurons: expected "
                "level_of='units' and no inputs=True of the WeightNormPruning beside it"
            )
        alike: dict[str, Any] = {
            "layers": how.layers,
            "exclude": how.exclude,
            "batch": how.batch,
            "forward": how.forward,
            "seed": self.seed,
        }
        with torch.random.fork_rng(devices=[]):
            batch = next(iter(loader))
        inputs, _ = how.batch(batch)
        (point,) = sparsity_curve(
            pl_module,
            [batch],
            [self.sparsity],
            "random",
            metric=how.metric,
            loss_fn=how.loss_fn,
            **alike,
        )
        for name in ("neurons", "weights", "parameters", "macs"):
            count = getattr(point, name)
            self._counts[name] = (count.left, count.total)
        before = _fan_ins(pl_module)
        small = remove_neurons(pl_module, self.sparsity, inputs, score="random", **alike)
        after = _fan_ins(small)
        for name, fan_in in after.items():
            with torch.no_grad():
                weight: Any = small.get_submodule(name).weight
                weight.mul_((before[name] / fan_in) ** 0.5)
        for name, child in small.named_children():
            setattr(pl_module, name, child)

    def state_dict(self) -> dict[str, Any]:
        return dict(self._counts)


def _fan_ins(model: nn.Module) -> dict[str, int]:
    found = select_layers(model, layers="*").chosen
    return {name: neuron_rows(layer).shape[1] for name, layer in found.items()}
