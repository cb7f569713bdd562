"""A penalty on the log-norms of EWN: what the loss does not hold decays exponentially.

It is a callback, to be listed before `WeightNormPruning`; on the command line it goes under
``trainer.callbacks`` and is.
"""

import math

import torch
from pytorch_lightning import Callback, LightningModule, Trainer

from ewnprune.callback.ordinary import ordinary_epochs, ordinary_steps, steps_done
from ewnprune.recipes.penalised import gradients
from ewnprune.training.attach import ewn_alphas


class LogNormPenalty(Callback):
    """Add ``strength * sum_u alpha_u``, the sum of the log-norms of EWN layers, to the loss.

    The gradient is a constant on every ``alpha``, so it costs nothing. In weight space it is the
    log-sum penalty ``sum_u log ||w_u||`` (Candes, Wakin & Boyd, https://arxiv.org/abs/0711.1612),
    which pulls a norm down by the same *factor* per step whatever its size: a neuron that the loss
    does not hold decays to nothing exponentially, while large ones are hardly bent, unlike under
    the group lasso. It has no minimum: neurons that are not needed go on shrinking.

    With ``lasso`` the group lasso ``lasso * sum_u ||w_u|| = lasso * sum_u exp(alpha_u)`` comes on
    top. Its gradient ``lasso * exp(alpha_u)`` is felt by large norms and not by small ones, the
    other way round than the log-norms': the one shortens what stays, as weight decay does, the
    other removes what need not stay. Alone it would bring no neuron near zero in reasonable time:
    under EWN ``||w_u||`` then falls as ``1 / time``.

    Both strengths rise linearly over the first ``ramp`` of the training and drop to zero after
    ``until`` of it, so that what is left can settle without a pull. There is no penalty while a
    pruned network is finetuned. Momentum in the optimizer multiplies the pull by
    ``1 / (1 - momentum)``, as it does for any gradient.

    Args:
        strength: the factor, >= 0.
        ramp: fraction of the training in [0, 1].
        until: fraction of the training in [0, 1].
        lasso: the factor of the group lasso, >= 0.

    Raises:
        ValueError: a number out of range; at the start of a fit, no layer under EWN, or a schedule
            where nobody can tell how long the training is.
    """

    def __init__(
        self, strength: float, ramp: float = 0.0, until: float = 1.0, lasso: float = 0.0
    ) -> None:
        for name, value in {"strength": strength, "lasso": lasso}.items():
            if not value >= 0:
                raise ValueError(f"{name}={value}: expected a number >= 0")
        for name, value in {"ramp": ramp, "until": until}.items():
            if not 0 <= value <= 1:
                raise ValueError(f"{name}={value}: expected a fraction of the training in [0, 1]")
        self.strength, self.lasso = strength, lasso
        self.ramp, self.until = ramp, until

    def factor(self, done: float) -> float:
        """The schedule at a fraction ``done`` of the training, in [0, 1].

        >>> penalty = LogNormPenalty(1.0, ramp=0.5, until=0.8)
        >>> [penalty.factor(done) for done in (0, 0.25, 0.5, 0.79, 0.8)]
        [0.0, 0.5, 1.0, 1.0, 0.0]
        """
        if done >= self.until:
            return 0.0
        return min(1.0, done / self.ramp) if self.ramp else 1.0

    def on_fit_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self._alphas = ewn_alphas(pl_module, type(self).__name__)

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self._epochs, self._steps = ordinary_epochs(trainer), math.inf
        if self.ramp or self.until < 1:
            self._steps = ordinary_steps(trainer, "LogNormPenalty with ramp or until")

    def on_before_optimizer_step(
        self, trainer: Trainer, pl_module: LightningModule, optimizer: torch.optim.Optimizer
    ) -> None:
        if trainer.current_epoch >= self._epochs:
            return
        found = gradients(trainer, optimizer, "LogNormPenalty")
        factor = self.factor(steps_done(trainer) / self._steps)
        for alpha in self._alphas:
            grad = found.get(id(alpha))
            if grad is not None:
                grad.add_(factor * self.strength)
                if self.lasso:
                    grad.add_(alpha.detach().exp(), alpha=factor * self.lasso)
