"""Group lasso on neurons, by proximal steps: the baseline to beat."""

from typing import Any

import torch
from pytorch_lightning import Callback, LightningModule, Trainer
from torch.nn.utils import parametrize

from ewnprune.model.cells import to_weight
from ewnprune.model.layers import LayerPatterns, neuron_rows, select_layers


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

    >>> layer = torch.nn.Linear(2, 2, bias=False)
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
