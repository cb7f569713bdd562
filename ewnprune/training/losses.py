"""Losses computed in the log domain, exact however small the loss becomes.

Past a loss of about ``exp(-100)`` an ordinary float32 cross-entropy is exactly zero and so is its
gradient. Here the loss ``L`` itself is never formed: the modules return ``log L``, whose gradient
is ``grad L / L``, the gradient scaled by the current loss. Morwani & Ramaswamy
(https://arxiv.org/abs/2010.12909) train this way down to ``log L = -300``.
"""

from typing import Literal

import torch
from torch import Tensor, nn

from ewnprune.errors import check_choice

Reduction = Literal["none", "mean", "sum"]


def log_softplus(z: Tensor) -> Tensor:
    """``log(log(1 + exp(z)))``, the log of the logistic loss at margin ``-z``, for every ``z``.

    A network with a single output ``f`` and labels ``y`` of -1 and 1 has the log loss
    ``log_softplus(-y * f).logsumexp(0)``, summed over the data.

    >>> log_softplus(torch.tensor([-1e4, 0.0, 1e4]))  # -> z below, log z above
    tensor([-1.0000e+04, -3.6651e-01,  9.2103e+00])
    """
    zero = torch.zeros_like(z)
    below, above = torch.where(z > 0, zero, z), torch.where(z > 0, z, zero)  # both stay finite
    e = below.exp()
    small = e < torch.finfo(z.dtype).eps
    # log1p(e) / e is 0 / 0 once e underflows; its series is exact well before that
    divisor = torch.where(small, 1.0, e)
    quotient = torch.where(small, 1 - e / 2, divisor.log1p() / divisor)
    return torch.where(z > 0, torch.logaddexp(above, zero).log(), below + quotient.log())


class _LogLoss(nn.Module):
    """Checks of the arguments, and the reductions; a subclass says what one sample's loss is."""

    def __init__(self, reduction: Reduction = "mean") -> None:
        super().__init__()
        check_choice("reduction", reduction, Reduction)
        self.reduction = reduction

    def forward(self, logits: Tensor, target: Tensor) -> Tensor:
        """Log of the loss.

        Args:
            logits: ``(N, C)`` or ``(N, C, d1, ...)``, with at least two classes. float16 and
                bfloat16 are computed in float32.
            target: class indices, ``(N,)`` or ``(N, d1, ...)``.

        Returns:
            ``log L``: a scalar, or one number per target for the reduction "none".
        """
        if logits.dim() < 2 or logits.shape[1] < 2:
            raise ValueError(
                f"logits of shape {tuple(logits.shape)}: expected (N, C, ...) with C >= 2; for "
                "one output and labels -1, 1 use log_softplus(-y * f).logsumexp(0)"
            )
        expected = logits.shape[:1] + logits.shape[2:]
        if target.shape != expected or target.is_floating_point():
            raise ValueError(
                f"target of shape {tuple(target.shape)} and {target.dtype}: expected class "
                f"indices of shape {tuple(expected)} for logits of shape {tuple(logits.shape)}"
            )
        if logits.dtype in (torch.float16, torch.bfloat16):
            logits = logits.float()
        index = target.long().unsqueeze(1)
        lead = logits - logits.gather(1, index)
        log_odds = lead.scatter(1, index, -torch.inf).logsumexp(1)
        log_losses = self.of_log_odds(log_odds)
        if self.reduction == "none":
            return log_losses
        log_sum = log_losses.flatten().logsumexp(0)
        return (
            log_sum
            if self.reduction == "sum"
            else log_sum - log_losses.new_tensor(log_losses.numel()).log()
        )

    def of_log_odds(self, log_odds: Tensor) -> Tensor:
        """Log loss of samples with ``log_odds = log sum_{j != y} exp(f_j - f_y)``."""
        raise NotImplementedError

    def extra_repr(self) -> str:
        return f"reduction={self.reduction!r}"


class LogCrossEntropyLoss(_LogLoss):
    """Log of the cross-entropy, ``log log(1 + sum_{j != y} exp(f_j - f_y))`` per sample.

    Equal to ``cross_entropy(logits, target).log()`` where that can be computed, and exact where it
    cannot, in value and gradient. Minimising it divides every gradient by the current loss.

    Args:
        reduction: "mean" and "sum" give the log of the mean and of the summed loss; "none" gives
            the log loss of each sample.

    >>> logits = torch.tensor([[0.0, 2.0], [500.0, 0.0]], requires_grad=True)
    >>> LogCrossEntropyLoss("none")(logits, torch.tensor([1, 0]))
    tensor([  -2.0641, -500.0000], grad_fn=<WhereBackward0>)
    """

    def of_log_odds(self, log_odds: Tensor) -> Tensor:
        return log_softplus(log_odds)


class LogExponentialLoss(_LogLoss):
    """Log of the exponential loss, ``log sum_{j != y} exp(f_j - f_y)`` per sample.

    With two classes this is ``exp(-margin)``, the loss that the theory is written for.

    Args:
        reduction: as in `LogCrossEntropyLoss`.

    >>> LogExponentialLoss("sum")(torch.tensor([[3.0, 0.0], [3.0, 0.0]]), torch.tensor([0, 0]))
    tensor(-2.3069)
    """

    def of_log_odds(self, log_odds: Tensor) -> Tensor:
        return log_odds
