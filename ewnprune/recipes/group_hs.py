"""Group-HS of DeepHoyer: a penalty on how evenly the norms of a layer's neurons are spread."""

import torch
from pytorch_lightning import Callback, LightningModule, Trainer
from torch import Tensor

from ewnprune.model.cells import to_weight
from ewnprune.model.layers import LayerPatterns, layer_weight, neuron_rows
from ewnprune.recipes.penalised import gradients, plain_layers


class GroupHS(Callback):
    """Add ``strength * (sum_u ||w_u||)^2 / sum_u ||w_u||^2`` of each layer to the loss.

    It is the Hoyer-square measure of the norms: the layer's number of neurons where all are of one
    length, 1 where one holds everything. It does not change when all norms are scaled: short
    neurons are shortened and long ones lengthened, about
    ``sum ||w_u||^2 / sum ||w_u||``. Yang, Wen & Li (ICLR 2020), https://arxiv.org/abs/1908.09979,
    who have groups of inputs beside these and set short weights to zero after training.

    Its gradient is added to that of the loss:
    ``2 strength (S / Q) (1 - (S / Q) ||w_u||) w_u / ||w_u||`` with ``S = sum_u ||w_u||`` and
    ``Q = sum_u ||w_u||^2``, and 0 where ``w_u`` is 0.

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

    def on_fit_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self._chosen = plain_layers(pl_module, self.layers, self.exclude, "GroupHS")

    def on_before_optimizer_step(
        self, trainer: Trainer, pl_module: LightningModule, optimizer: torch.optim.Optimizer
    ) -> None:
        found = gradients(trainer, optimizer, "GroupHS")
        for layer in self._chosen.values():
            weight = layer_weight(layer)
            grad = found.get(id(weight))
            if grad is not None:
                rows = neuron_rows(layer).detach()
                grad.add_(to_weight(layer, hoyer_gradient(rows)), alpha=self.strength)


def hoyer_gradient(rows: Tensor) -> Tensor:
    """Gradient of ``(sum_u ||w_u||)^2 / sum_u ||w_u||^2`` with respect to the rows ``w_u``.

    >>> hoyer_gradient(torch.tensor([[1.0], [2.0], [0.0]])).T
    tensor([[ 0.4800, -0.2400,  0.0000]])
    """
    norms = torch.linalg.vector_norm(rows, dim=1, keepdim=True)
    positive = torch.where(norms > 0, norms, 1.0)
    ratio = norms.sum() / norms.square().sum().clamp_min(torch.finfo(norms.dtype).tiny)
    gradient: Tensor = rows * (2 * ratio * (1 / positive - ratio))
    return gradient
