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

    No scores are none.

    >>> are_probabilities(torch.tensor([[0.2, 0.8], [1.0, 0.0]]))
    True
    >>> are_probabilities(torch.tensor([[0.2, 0.8], [1.5, -0.5]]))
    False
    """
    tolerance = max(1e-4, 4 * torch.finfo(outputs.dtype).eps)
    sums = outputs.double().sum(1) if outputs.device.type != "mps" else outputs.float().sum(1)
    within = (outputs >= 0) & (outputs <= 1 + tolerance)
    return bool(outputs.numel() and within.all() and ((sums - 1).abs() <= tolerance).all())


IGNORED = -100
"""What torch's cross-entropy leaves out by default."""


def class_targets(targets: Tensor, classes: int, loss_fn: Any = None) -> Tensor:
    """Class indices as int64, with `IGNORED` for targets that are no class and are left out.

    Those are negative ones, and 255, by which most data for segmentation mark pixels without a
    class; what the loss ignores; and where the user gives a loss, all that is no class.

    Args:
        targets: class indices, of any integer type.
        classes: how many classes there are.
        loss_fn: the user's loss, with torch's ``ignore_index`` or without; or None.

    >>> class_targets(torch.tensor([2, 255, 0, -1]), 3).tolist()
    [2, -100, 0, -100]
    """
    targets = targets.long()
    ignored = (targets < 0) | ((targets == 255) & (classes <= 255))
    if loss_fn is not None:
        ignored |= (targets >= classes) | (targets == getattr(loss_fn, "ignore_index", IGNORED))
    return targets.masked_fill(ignored, IGNORED)


def refuse_no_classes(targets: Tensor, classes: int) -> None:
    """Refuse targets above the classes, which cross-entropy ends at without a word of theirs.

    Args:
        targets: those of `class_targets`.
        classes: how many classes there are.

    Raises:
        ValueError: names the first.
    """
    wrong = targets[targets >= classes]
    if len(wrong):
        raise ValueError(
            f"target {int(wrong[0])} is none of the model's {classes} classes: expected 0 to "
            f"{classes - 1}, and 255 or below 0 for what has none"
        )


def count_correct(outputs: Tensor, targets: Tensor) -> Tensor:
    """How many targets ``(B, ...)`` each of ``(V, B, C, ...)`` class scores gets right.

    Those that are left out are of no class that could be predicted. A prediction with a NaN among
    its scores is wrong. Of equal scores the first class counts, as in ``torch.max``.
    """
    highest, predicted = outputs.max(dim=2)  # NaN if any is
    return ((predicted == targets) & ~highest.isnan()).flatten(1).sum(1)


def cross_entropy(outputs: Tensor, targets: Tensor) -> Tensor:
    """Loss of each sample, ``(V, samples)``, in at least float32: the loss where none is given.

    Of targets that are left out it is 0.
    """
    precise = outputs if outputs.dtype == torch.float64 else outputs.float()
    repeated = targets.expand(len(outputs), *targets.shape)
    losses = functional.cross_entropy(
        precise.flatten(0, 1), repeated.flatten(0, 1), reduction="none", ignore_index=IGNORED
    )
    return losses.view(len(outputs), -1)
