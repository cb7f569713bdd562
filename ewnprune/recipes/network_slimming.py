"""Network Slimming: an L1 penalty on the scales of BatchNorms."""

from typing import cast

import torch
from pytorch_lightning import Callback, LightningModule, Trainer
from torch import Tensor
from torch.nn.modules.batchnorm import _BatchNorm

from ewnprune.recipes.penalised import gradients


class NetworkSlimming(Callback):
    """Add ``strength * sum |gamma|`` over the scales of all BatchNorms to the loss.

    A BatchNorm undoes the length of the weights before it, and its scale ``gamma`` is what stands
    for the length of a neuron: scores of neurons see it, folded in. Liu et al. (ICCV 2017),
    https://arxiv.org/abs/1708.06519.

    By the subgradient ``strength * sign(gamma)`` in the optimizer's step, as the authors have it,
    so that published strengths mean the same here. Scales come within a step of 0 and are not
    exactly 0: the ranking sees to the rest, which a proximal step would not better.

    Args:
        strength: the factor, >= 0; the authors have 1e-5 to 1e-4 in long training.

    Raises:
        ValueError: a negative strength; at the start of a fit, no BatchNorm with a scale.
    """

    def __init__(self, strength: float) -> None:
        if not strength >= 0:
            raise ValueError(f"strength={strength}: expected a number >= 0")
        self.strength = strength

    def on_fit_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        norms = [m for m in pl_module.modules() if isinstance(m, _BatchNorm)]
        scales = [m._parameters.get("weight") for m in norms]
        self._scales = [cast(Tensor, scale) for scale in scales if scale is not None]
        if not self._scales:
            raise ValueError(
                "NetworkSlimming works on the scales of BatchNorms, and the model has none that "
                "is a plain parameter: take GroupLasso, or leave the callback out"
            )

    def on_before_optimizer_step(
        self, trainer: Trainer, pl_module: LightningModule, optimizer: torch.optim.Optimizer
    ) -> None:
        found = gradients(trainer, optimizer, "NetworkSlimming")
        for scale in self._scales:
            grad = found.get(id(scale))
            if grad is not None:
                grad.add_(scale.detach().sign(), alpha=self.strength)
