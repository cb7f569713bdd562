"""Weight decay on all factors of D-Gating: a penalty on the norms of its neurons."""

from typing import cast

import torch
from pytorch_lightning import Callback, LightningModule, Trainer
from torch import Tensor

from ewnprune.recipes.penalised import gradients
from ewnprune.training.attach import attached_parametrizations
from ewnprune.training.d_gating import DGating


class FactorDecay(Callback):
    """Add ``strength / D * (||omega||^2 + sum_d gamma_d^2)`` of each neuron under D-Gating.

    At the least over the factors of the same weights that is ``strength * sum_u ||w_u||^(2/D)``,
    so that ``strength`` means for ``D = 2`` what it does in `GroupLasso` (whose group has the
    neuron's bias too). Descent on the factors comes near zero and does not reach it: it takes no
    proximal step. Kolb et al. (NeurIPS 2025), https://arxiv.org/abs/2509.23898.

    It is the optimizer's own weight decay of ``2 * strength / D``, on the factors alone, and needs
    no parameter groups. What the optimizer decays itself comes on top.

    Args:
        strength: the factor, >= 0.

    Raises:
        ValueError: a negative strength; at the start of a fit, no layer under `DGating`.
    """

    def __init__(self, strength: float) -> None:
        if not strength >= 0:
            raise ValueError(f"strength={strength}: expected a number >= 0")
        self.strength = strength

    def on_fit_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self._factors = [
            (cast(Tensor, factor), parametrization.depth)
            for name, parametrization in attached_parametrizations(pl_module).items()
            if isinstance(parametrization, DGating)
            for factor in pl_module.get_submodule(f"{name}.parametrizations.weight").parameters()
        ]
        if not self._factors:
            raise ValueError(
                "FactorDecay works on the factors of D-Gating, and no layer is under it: set "
                "prune.parametrization to DGating, or leave the callback out"
            )

    def on_before_optimizer_step(
        self, trainer: Trainer, pl_module: LightningModule, optimizer: torch.optim.Optimizer
    ) -> None:
        found = gradients(trainer, optimizer, "FactorDecay")
        for factor, depth in self._factors:
            grad = found.get(id(factor))
            if grad is not None:
                grad.add_(factor.detach(), alpha=2 * self.strength / depth)
