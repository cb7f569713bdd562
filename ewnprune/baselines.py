"""What a method must beat: group lasso, a dense network of the pruned size, random scores."""

import json
from pathlib import Path
from typing import Any

import torch
from pytorch_lightning import Callback, LightningModule, Trainer
from torch import Tensor, nn
from torch.nn.utils import parametrize

from ewnprune.layers import LayerPatterns, neuron_rows, select_layers
from ewnprune.masking import to_weight
from ewnprune.removal import remove_neurons
from ewnprune.scores import Neurons, norm
from ewnprune.sweep import inputs_and_targets, sparsity_curve

COUNTS_FILE = "dense_of_pruned_size.json"


class GroupLasso(Callback):
    """Group lasso on neurons: ``strength * sum_u ||(w_u, b_u)||`` is added to the loss.

    By a proximal step after every optimizer step, which makes whole neurons exactly zero:
    ``(w_u, b_u)`` is multiplied by ``max(0, 1 - step * strength / ||(w_u, b_u)||)``, where
    ``step`` is the learning rate, divided by ``1 - momentum`` where the optimizer has momentum, so
    that ``strength`` means the same with and without.

    Yuan & Lin (2006), https://doi.org/10.1111/j.1467-9868.2005.00532.x; the step is in Parikh &
    Boyd, "Proximal Algorithms", section 6.5.4, https://doi.org/10.1561/2400000003.

    Args:
        strength: the factor, >= 0.
        layers: which layers, see `select_layers`; by default all but the last.
        exclude: which of them to leave.

    Raises:
        ValueError: a negative strength; at the start of a fit, a layer whose weight is no plain
            parameter.
    """

    def __init__(
        self,
        strength: float,
        layers: LayerPatterns | None = None,
        exclude: LayerPatterns | None = None,
    ) -> None:
        if not strength >= 0:
            raise ValueError(f"strength={strength}: expected a number >= 0")
        self.strength, self.layers, self.exclude = strength, layers, exclude
        self._steps: dict[int, float] = {}

    def on_fit_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self._chosen = select_layers(pl_module, self.layers, self.exclude).chosen
        for name, layer in self._chosen.items():
            if parametrize.is_parametrized(layer, "weight"):
                raise ValueError(
                    f"GroupLasso on layer {name!r}, which is reparametrized: it works on plain "
                    "weights; set prune.parametrization to null"
                )

    def on_before_optimizer_step(
        self, trainer: Trainer, pl_module: LightningModule, optimizer: torch.optim.Optimizer
    ) -> None:
        # schedules have moved on by the end of the batch
        for group in optimizer.param_groups:
            step = float(group["lr"]) / (1 - group.get("momentum", 0.0))
            self._steps |= {id(parameter): step for parameter in group["params"]}

    def on_train_batch_end(self, *_: Any) -> None:
        # a batch whose gradients are accumulated ends without a step, and leaves none here
        for layer in self._chosen.values():
            if id(layer.weight) in self._steps:
                shrink_neurons(layer, self._steps[id(layer.weight)] * self.strength)
        self._steps.clear()


@torch.no_grad()
def shrink_neurons(layer: Any, threshold: float) -> None:
    """Shorten every neuron's weights and bias, as one vector, by ``threshold``; to 0 if shorter.

    >>> layer = nn.Linear(2, 2, bias=False)
    >>> _ = layer.weight.data.copy_(torch.tensor([[3.0, 4.0], [0.3, 0.4]]))
    >>> shrink_neurons(layer, 1.0)
    >>> layer.weight.data
    tensor([[2.4000, 3.2000],
            [0.0000, 0.0000]])
    """
    rows = neuron_rows(layer)
    lengths = torch.linalg.vector_norm(rows, dim=1)
    if layer.bias is not None:
        lengths = lengths.hypot(layer.bias)
    # torch.where: 0 / 0 in a neuron that is zero already
    kept = torch.where(lengths > threshold, 1 - threshold / lengths, 0.0)
    factor = kept.unsqueeze(1).expand_as(rows)
    if rows.data_ptr() == layer.weight.data_ptr():  # a view of the weight, as it mostly is
        rows.mul_(factor)
    else:
        layer.weight.mul_(to_weight(layer, factor))
    if layer.bias is not None:
        layer.bias.mul_(kept)


class DenseOfPrunedSize(Callback):
    """Train a network as small as a pruned one from scratch, on the same budget.

    Before anything is trained, neurons are removed at random, and the weights of the layers that
    read them are multiplied by ``sqrt(inputs before / inputs after)``: with an initialization that
    scales with the fan-in, as Kaiming's does, that is the smaller network freshly initialized.
    It wants ``prune.sparsities`` to be ``[0]``: this network is pruned no further.

    Args:
        sparsity: fraction of the neurons to be without, in [0, 1).
        seed: of the removal.

    The counts of what it has of what the full network has go to ``dense_of_pruned_size.json`` in
    the run's folder.
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
        with torch.random.fork_rng(devices=[]):
            batch = next(iter(loader))
        inputs, _ = inputs_and_targets(batch)
        curve = sparsity_curve(pl_module, [batch], [self.sparsity], "random", seed=self.seed)
        (point,) = curve.points
        for name in ("neurons", "weights", "parameters", "macs"):
            count = getattr(point, name)
            self._counts[name] = (count.left, count.total)
        before = _fan_ins(pl_module)
        small = remove_neurons(pl_module, self.sparsity, inputs, score="random", seed=self.seed)
        after = _fan_ins(small)
        for name, fan_in in after.items():
            with torch.no_grad():
                weight: Any = small.get_submodule(name).weight
                weight.mul_((before[name] / fan_in) ** 0.5)
        for name, child in small.named_children():
            setattr(pl_module, name, child)

    def on_fit_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        folder = trainer.log_dir  # asks all processes
        if folder and trainer.is_global_zero and not trainer.fast_dev_run:  # type: ignore[attr-defined]
            Path(folder).mkdir(parents=True, exist_ok=True)
            text = json.dumps({"sparsity": self.sparsity, "counts": self._counts})
            (Path(folder) / COUNTS_FILE).write_text(text, encoding="utf-8")


def _fan_ins(model: nn.Module) -> dict[str, int]:
    found = select_layers(model, layers="*").chosen
    return {name: neuron_rows(layer).shape[1] for name, layer in found.items()}


def norm_shuffled(neurons: Neurons) -> Tensor:
    """The norms, dealt to the neurons of the layer at random.

    With scope ``"global"`` this removes as many neurons of each layer as `norm` does, but which
    ones is left to chance: random pruning with the same layer-wise ratios. Su et al. (2020),
    https://arxiv.org/abs/2009.11094.
    """
    values = norm(neurons)
    generator = torch.Generator().manual_seed(neurons.seed)
    order = torch.randperm(len(values), generator=generator)
    return values[order.to(values.device)]
