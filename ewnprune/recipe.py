"""Options that bring EWN's rich-get-richer dynamics into an ordinary budget.

They are callbacks, none of them on by default, to be listed before `WeightNormPruning`; on the
command line they go under ``trainer.callbacks`` and are.
"""

import math
from typing import Any

import torch
from pytorch_lightning import Callback, LightningModule, Trainer
from torch import Tensor

from ewnprune.layers import LayerPatterns, layer_weight, select_layers
from ewnprune.parametrizations import EWN
from ewnprune.reparametrize import attached_parametrizations


class InitialNorms(Callback):
    """Multiply the weights of the chosen layers by a factor before training.

    Under EWN the learning rate that a neuron sees is proportional to its squared norm
    (https://arxiv.org/abs/2010.12909, corollary 1): from small norms the first neurons to grow run
    away from the others, as in the small-initialization ("rich") regime of plain training. The
    initial function changes: the layer's part of it is multiplied by the factor.

    Args:
        factor: > 0.
        layers: which layers, see `select_layers`; by default all but the last.
        exclude: which of them to leave.

    Raises:
        ValueError: a factor that is not positive; at the start of a fit, layers that are not
            there, or reparametrized already (list this callback before WeightNormPruning).
    """

    def __init__(
        self,
        factor: float,
        layers: LayerPatterns | None = None,
        exclude: LayerPatterns | None = None,
    ) -> None:
        if not (factor > 0 and math.isfinite(factor)):
            raise ValueError(f"factor={factor}: expected a number > 0, such as 0.1")
        self.factor, self.layers, self.exclude = factor, layers, exclude

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        if stage != "fit":
            return
        # weights of a checkpoint, if there is one, are loaded after this and win
        for name, layer in select_layers(pl_module, self.layers, self.exclude).chosen.items():
            if name in attached_parametrizations(pl_module):
                raise ValueError(
                    f"InitialNorms: layer {name!r} is reparametrized already: list InitialNorms "
                    "before WeightNormPruning in the Trainer's callbacks"
                )
            with torch.no_grad():
                layer_weight(layer).mul_(self.factor)


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
    ``until`` of it, so that what is left can settle without a pull. Momentum in the optimizer
    multiplies the pull by ``1 / (1 - momentum)``, as it does for any gradient.

    Args:
        strength: the factor, >= 0.
        ramp: fraction of the training in [0, 1].
        until: fraction of the training in [0, 1].
        lasso: the factor of the group lasso, >= 0.

    Raises:
        ValueError: a number out of range; at the start of a fit, no layer under EWN.
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
        self._steps = trainer.estimated_stepping_batches
        if math.isinf(self._steps) and (self.ramp or self.until < 1):
            raise ValueError(
                "LogNormPenalty with ramp or until needs to know the length of the training: set "
                "max_epochs or max_steps"
            )

    def on_before_optimizer_step(
        self, trainer: Trainer, pl_module: LightningModule, optimizer: torch.optim.Optimizer
    ) -> None:
        # after mixed precision has unscaled the gradients, once per step whatever is accumulated
        held = {id(p) for group in optimizer.param_groups for p in group["params"]}
        factor = self.factor(trainer.global_step / self._steps)
        for alpha in self._alphas:
            if id(alpha) in held and alpha.grad is not None:
                alpha.grad.add_(factor * self.strength)
                if self.lasso:
                    alpha.grad.add_(alpha.detach().exp(), alpha=factor * self.lasso)


class AlphaLearningRate(Callback):
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
        self._before: list[Tensor] = []

    def on_fit_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self._alphas = ewn_alphas(pl_module, type(self).__name__)

    def on_before_optimizer_step(
        self, trainer: Trainer, pl_module: LightningModule, optimizer: torch.optim.Optimizer
    ) -> None:
        if not self._before:  # several optimizers may step in one batch
            self._before = [alpha.detach().clone() for alpha in self._alphas]

    @torch.no_grad()
    def on_train_batch_end(self, *_: Any) -> None:
        if self._before:
            for alpha, before in zip(self._alphas, self._before, strict=True):
                change = (alpha - before).mul_(self.rate)
                alpha.copy_(before + change.clamp_(-self.max_change, self.max_change))
            self._before = []


def ewn_alphas(model: torch.nn.Module, asking: str) -> list[Tensor]:
    """The log-norms of all EWN layers: each a parameter with one entry per neuron.

    Raises:
        ValueError: there is no such layer.
    """
    names = [k for k, p in attached_parametrizations(model).items() if isinstance(p, EWN)]
    if not names:
        raise ValueError(
            f"{asking} works on the log-norms of EWN, and no layer is under it: set "
            "prune.parametrization to EWN, or leave the callback out"
        )
    return [model.get_parameter(f"{name}.parametrizations.weight.original0") for name in names]
