"""Hyperbolic aware minimization: a multiplicative step on weights, or on norms of neurons."""

from typing import Any

import torch
from pytorch_lightning import LightningModule, Trainer
from torch import Tensor, nn

from ewnprune.callback.refusals import refuse_scaled_gradients
from ewnprune.model.cells import to_weight
from ewnprune.model.layers import LayerPatterns, layer_weight, neuron_rows
from ewnprune.recipes.each_step import EachStep
from ewnprune.recipes.penalised import plain_layers


class HAM(EachStep):
    """After each optimizer step ``w`` is multiplied by ``exp(-lr (alpha sign(w) g + beta))``.

    ``g`` is the gradient that the step followed. ``sign(w) g`` is the derivative of the loss with
    respect to ``|w|``: the step is a descent on ``log |w|`` with the rate ``lr * alpha``, beside
    the optimizer's on ``w``, and ``beta`` pulls every ``|w|`` down by the same factor. Jacobs,
    Gadhikar, Rubio-Madrigal & Burkholz (ICLR 2026), https://arxiv.org/abs/2506.02630; their
    ``alpha`` is 200 and ``beta`` 1e-3. They bound gradients and weights besides, which is not here.

    With ``per_neuron`` each neuron's weights are multiplied by
    ``exp(-lr (alpha w.g / ||w|| + beta))``, which is not in the paper: the same step with the norm
    of a neuron in the place of a weight's size, since ``w.g / ||w||`` is the derivative with
    respect to ``||w||``. It adds up what single weights have, so that its ``alpha`` is to be
    smaller, by about the square root of the number of inputs. EWN with `LogNormPenalty` has this
    step with ``||w||`` for ``alpha`` (docs/theory.md).

    Biases are left as they are. Momentum changes neither factor.

    Args:
        alpha: the rate of the multiplicative step, against that of the optimizer, >= 0.
        beta: the pull, >= 0.
        per_neuron: whether to take norms of neurons in place of single weights.
        layers: which layers, see `select_layers`; by default all but the last.
        exclude: which of them to leave.

    Raises:
        ValueError: a negative number; at the start of a fit, a layer whose weight is no plain
            parameter.
    """

    def __init__(
        self,
        alpha: float = 200.0,
        beta: float = 1e-3,
        per_neuron: bool = False,
        layers: LayerPatterns | None = None,
        exclude: LayerPatterns | None = None,
    ) -> None:
        for name, value in {"alpha": alpha, "beta": beta}.items():
            if not value >= 0:
                raise ValueError(f"{name}={value}: expected a number >= 0")
        self.alpha, self.beta, self.per_neuron = alpha, beta, per_neuron
        self.layers, self.exclude = layers, exclude

    def on_fit_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self._chosen = plain_layers(pl_module, self.layers, self.exclude, "HAM")

    def on_train_batch_start(self, trainer: Trainer, *_: Any) -> None:
        for optimizer in trainer.optimizers:  # a step that it skips would be taken here
            refuse_scaled_gradients(trainer, optimizer, "HAM")
        super().on_train_batch_start(trainer)

    def after_step(self, trainer: Trainer, optimizer: torch.optim.Optimizer) -> None:
        rates = {id(p): float(g["lr"]) for g in optimizer.param_groups for p in g["params"]}
        for layer in self._chosen.values():
            weight = layer_weight(layer)
            if id(weight) in rates and weight.grad is not None:
                take_step(layer, rates[id(weight)], self.alpha, self.beta, self.per_neuron)


@torch.no_grad()
def take_step(layer: nn.Module, lr: float, alpha: float, beta: float, per_neuron: bool) -> None:
    """The multiplicative step on the weights of a layer that has a gradient.

    >>> layer = nn.Linear(2, 1, bias=False)
    >>> _ = layer.weight.data.copy_(torch.tensor([[3.0, -4.0]]))
    >>> layer.weight.grad = torch.tensor([[5.0, 0.0]])
    >>> take_step(layer, lr=0.1, alpha=1.0, beta=0.0, per_neuron=False)
    >>> layer.weight.data  # 3 exp(-0.5)
    tensor([[ 1.8196, -4.0000]])
    """
    weight = layer_weight(layer)
    grad: Tensor = weight.grad  # type: ignore[assignment]
    if not per_neuron:
        weight.mul_(weight.sign().mul_(grad).mul_(alpha).add_(beta).mul_(-lr).exp_())
        return
    rows, slopes = neuron_rows(layer), neuron_rows(layer, grad)
    norms = torch.linalg.vector_norm(rows, dim=1)
    # 0 in a neuron without weights, which has no direction
    radial = (rows * slopes).sum(1) / torch.where(norms > 0, norms, 1.0)
    factor = (-lr * (alpha * radial + beta)).exp()
    weight.mul_(to_weight(layer, factor.unsqueeze(1).expand_as(rows)))
