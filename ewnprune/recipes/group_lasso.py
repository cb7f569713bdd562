"""Group lasso on neurons, by proximal steps: the baseline to beat."""

import torch
from torch import Tensor

from ewnprune.recipes.proximal import ProximalPenalty


class GroupLasso(ProximalPenalty):
    """Group lasso on neurons: ``strength * sum_u ||(w_u, b_u)||`` is added to the loss.

    By a proximal step after every optimizer step, which makes whole neurons exactly zero:
    ``(w_u, b_u)`` is multiplied by ``max(0, 1 - step * strength / ||(w_u, b_u)||)``, where
    ``step`` is the learning rate, divided by ``1 - momentum`` where the optimizer has momentum.
    Under weight normalization the factor is that of ``gamma`` or ``exp(alpha)`` and the bias.

    Yuan & Lin (2006), https://doi.org/10.1111/j.1467-9868.2005.00532.x; the step is in Parikh &
    Boyd, "Proximal Algorithms", section 6.5.4, https://doi.org/10.1561/2400000003.

    Args:
        strength: the factor, >= 0.
        layers: which layers, see `select_layers`; by default all but the last.
        exclude: which of them to leave.
        until: fraction of the training in [0, 1] after which there is no penalty, as there is none
            while a pruned network is finetuned.

    Raises:
        ValueError: a number out of range; at the start of a fit, a layer under a parametrization
            other than SWN and EWN.

    >>> GroupLasso(2.0).shortened(torch.tensor([8.0, 2.0, 0.0]), 2.0)
    tensor([0.7500, 0.0000, 0.0000])
    """

    def shortened(self, lengths: Tensor, strength: float) -> Tensor:
        # torch.where: 0 / 0 in a neuron that is zero already
        return torch.where(lengths > strength, 1 - strength / lengths, 0.0)
