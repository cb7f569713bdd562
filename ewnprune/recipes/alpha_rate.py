"""A learning rate of its own for the log-norms of EWN.

It is a callback, to be listed before `WeightNormPruning`; on the command line it goes under
``trainer.callbacks`` and is.
"""

import torch
from pytorch_lightning import LightningModule, Trainer

from ewnprune.recipes.each_step import EachStep
from ewnprune.training.attach import ewn_alphas


class AlphaLearningRate(EachStep):
    """Train the log-norms of EWN layers at ``rate`` times the learning rate of the rest.

    What an optimizer step does to ``alpha`` is multiplied by ``rate`` afterwards. That is the same
    as a parameter group with ``rate`` times the learning rate, for every optimizer whose step is
    proportional to it (all of torch.optim but LBFGS), and it needs no parameter groups: schedules
    and ``configure_optimizers`` stay as they are.

    In weight space the radial learning rate becomes ``rate * ||w||^2`` against ``||w||^2`` along
    the sphere (https://arxiv.org/abs/2010.12909, theorem 1): norms separate faster than directions
    turn.

    Args:
        rate: > 0.
        max_change: the most that ``alpha`` changes in one step; the norm changes by a factor of
            ``exp(max_change)`` at most. High rates from small norms diverge without.

    Raises:
        ValueError: a number out of range; at the start of a fit, no layer under EWN.
    """

    def __init__(self, rate: float, max_change: float = 0.5) -> None:
        for name, value in {"rate": rate, "max_change": max_change}.items():
            if not value > 0:
                raise ValueError(f"{name}={value}: expected a number > 0")
        self.rate, self.max_change = rate, max_change

    def on_fit_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self._alphas = ewn_alphas(pl_module, type(self).__name__)

    def before_step(self, trainer: Trainer, optimizer: torch.optim.Optimizer) -> None:
        self._before_it = [alpha.detach().clone() for alpha in self._alphas]

    @torch.no_grad()
    def after_step(self, trainer: Trainer, optimizer: torch.optim.Optimizer) -> None:
        for alpha, before in zip(self._alphas, self._before_it, strict=True):
            change = (alpha - before).mul_(self.rate)
            alpha.copy_(before + change.clamp_(-self.max_change, self.max_change))
