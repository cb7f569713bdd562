"""Class scores: whether outputs are some, how many are right, and their loss."""

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional


def class_scores(outputs: Any) -> Any:
    """The ``logits`` of a mapping (transformers' ``ModelOutput``); other outputs as they are.

    >>> class_scores({"logits": torch.ones(1, 2), "hidden_states": None})
    tensor([[1., 1.]])
    """
    logits = outputs.get("logits") if isinstance(outputs, Mapping) else None
    return outputs if logits is None else logits


def classifies(outputs: Any, targets: Any) -> bool:
    """Whether outputs are class scores ``(B, C, ...)`` and targets class indices ``(B, ...)``."""
    outputs = class_scores(outputs)
    return (
        isinstance(outputs, Tensor)
        and isinstance(targets, Tensor)
        and outputs.is_floating_point()
        and not (targets.is_floating_point() or targets.is_complex() or targets.dtype == torch.bool)
        and outputs.ndim == targets.ndim + 1
        and outputs.shape[:1] + outputs.shape[2:] == targets.shape
        and outputs.shape[1] > 1  # of one score nothing is the highest
    )


def are_probabilities(outputs: Tensor) -> bool:
    """Whether class scores ``(B, C, ...)`` lie in [0, 1] and sum to 1, as a softmax gives them.

    >>> are_probabilities(torch.tensor([[0.2, 0.8], [1.0, 0.0]]))
    True
    >>> are_probabilities(torch.tensor([[0.2, 0.8], [1.5, -0.5]]))
    False
    """
    tolerance = max(1e-4, 4 * torch.finfo(outputs.dtype).eps)
    sums = outputs.double().sum(1) if outputs.device.type != "mps" else outputs.float().sum(1)
    within = (outputs >= 0) & (outputs <= 1 + tolerance)
    return bool(within.all() and ((sums - 1).abs() <= tolerance).all())


def count_correct(outputs: Tensor, targets: Tensor) -> Tensor:
    """How many targets ``(B, ...)`` each of ``(V, B, C, ...)`` class scores gets right.

    A prediction with a NaN among its scores is wrong. Of equal scores the first class counts, as
    in ``torch.max``.
    """
    highest, predicted = outputs.max(dim=2)  # NaN if any is
    return ((predicted == targets) & ~highest.isnan()).flatten(1).sum(1)


def cross_entropy(outputs: Tensor, targets: Tensor) -> Tensor:
    """Loss of each sample, ``(V, samples)``, in at least float32: the loss where none is given."""
    precise = outputs if outputs.dtype == torch.float64 else outputs.float()
    repeated = targets.long().expand(len(outputs), *targets.shape)
    losses = functional.cross_entropy(
        precise.flatten(0, 1), repeated.flatten(0, 1), reduction="none"
    )
    return losses.view(len(outputs), -1)
