"""The log-sum penalty on the norms of neurons, by proximal steps: for plain layers, and others."""

import torch
from torch import Tensor

from ewnprune.model.layers import LayerPatterns
from ewnprune.recipes.proximal import ProximalPenalty


class LogSumPenalty(ProximalPenalty):
    """``strength * sum_u log(||(w_u, b_u)|| + epsilon)`` is added to the loss.

    The penalty of `LogNormPenalty`, for layers that have no ``alpha`` (Candes, Wakin & Boyd,
    https://arxiv.org/abs/0711.1612): it pulls at short neurons, by ``strength / (r + epsilon)``,
    and lets long ones be. ``epsilon`` bounds the pull; the penalty has its least at 0 then.

    By a proximal step, which makes whole neurons exactly zero. With ``t = step * strength`` the
    length ``r`` becomes

        ``x = (r - epsilon + sqrt((r + epsilon)^2 - 4 t)) / 2``

    where that is a number > 0 and costs less than 0 does,
    ``(x - r)^2 / 2 + t log(x + epsilon) < r^2 / 2 + t log(epsilon)``, and 0 elsewhere: the larger
    root of the derivative, with a threshold (Gong et al. (2013), "A General Iterative Shrinkage
    and Thresholding Algorithm", https://proceedings.mlr.press/v28/gong13a.html). The step does not
    measure lengths by what EWN makes of them: ``r`` falls by ``t / r``, that of a neuron under EWN
    with `LogNormPenalty` by ``t r``.

    Args:
        strength: the factor, >= 0.
        layers: which layers, see `select_layers`; by default all but the last.
        exclude: which of them to leave.
        until: fraction of the training in [0, 1] after which there is no penalty, as there is none
            while a pruned network is finetuned.
        epsilon: > 0, small against the length of a neuron that is to stay.

    Raises:
        ValueError: a number out of range; at the start of a fit, a layer under a parametrization
            other than SWN and EWN.

    >>> LogSumPenalty(1.0).shortened(torch.tensor([10.0, 1.0, 0.0]), 0.5)
    tensor([0.9950, 0.0000, 0.0000])
    """

    def __init__(
        self,
        strength: float,
        layers: LayerPatterns | None = None,
        exclude: LayerPatterns | None = None,
        until: float = 1.0,
        epsilon: float = 1e-3,
    ) -> None:
        super().__init__(strength, layers, exclude, until)
        if not epsilon > 0:
            raise ValueError(f"epsilon={epsilon}: expected a number > 0")
        self.epsilon = epsilon

    def shortened(self, lengths: Tensor, strength: float) -> Tensor:
        sums = lengths + self.epsilon
        root = (sums.square() - 4 * strength).clamp_min(0).sqrt()
        change = 2 * strength / (sums + root)  # r - x, without the difference of near numbers
        new = (lengths - change).clamp_min(0)
        saved = (lengths.square() - change.square()) / 2
        kept = (sums.square() >= 4 * strength) & (
            strength * torch.log1p(new / self.epsilon) < saved
        )
        return torch.where(kept, new / lengths, 0.0)
