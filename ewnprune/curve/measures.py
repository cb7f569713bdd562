"""What is measured while many networks are evaluated on the same batches."""

from collections.abc import Callable, Iterable, Mapping
from typing import Any

import torch
from torch import Tensor
from torchmetrics import Metric, MetricCollection

from ewnprune.curve.classes import (
    IGNORED,
    are_probabilities,
    class_scores,
    class_targets,
    classifies,
    count_correct,
    cross_entropy,
    refuse_no_classes,
)
from ewnprune.curve.tally import Tally
from ewnprune.model.tensors import samples, tensors_in

Loss = Callable[[Any, Any], Tensor]
_AT_ONCE = 2**22  # class scores held back to be evaluated together: 16 MB


class Measures:
    """Measures of several networks, added up batch by batch.

    Args:
        networks: how many networks.
        metric: further measures, or None.
        loss_fn: the loss; None is cross-entropy for classification, and no loss for other tasks.
        outputs: outputs of the first batch.
        targets: its targets.

    Raises:
        ValueError: metric or loss do not fit the outputs and targets, or nothing is to measure.

    Attributes:
        unmeasured: what is not measured, and why: measures, and when all is done targets.
    """

    def __init__(
        self,
        networks: int,
        metric: Metric | MetricCollection | None,
        loss_fn: Loss | None,
        outputs: Any,
        targets: Any,
    ) -> None:
        if loss_fn is not None and not callable(loss_fn):
            raise TypeError(f"loss_fn={loss_fn!r}: expected a function of outputs and targets")
        self.classifies = classifies(outputs, targets)
        self.classes = class_scores(outputs).shape[1] if self.classifies else 0
        self.loss_fn = loss_fn
        self.entropy = self.classifies and loss_fn is None
        self.unmeasured: list[str] = []
        if self.entropy and are_probabilities(class_scores(outputs)):
            self.entropy = False
            self.unmeasured.append(
                "loss: not measured, since the outputs are probabilities, of which cross-entropy "
                "would take the softmax once more: give loss_fn="
            )
        if metric is None and loss_fn is None and not self.classifies:
            raise ValueError(
                f"no measure fits outputs {_shape(outputs)} and targets {_shape(targets)}: "
                "expected class scores (B, C, ...), C > 1, and integer classes (B, ...); for "
                "another task give metric= or loss_fn="
            )
        if self.entropy:
            refuse_no_classes(class_targets(targets, self.classes), self.classes)
        device = next(tensor.device for tensor in tensors_in(outputs))
        if metric is not None:
            if not isinstance(metric, Metric | MetricCollection):
                raise TypeError(f"metric={metric!r}: expected a torchmetrics Metric or collection")
            metric = _each_by_itself(metric.clone()).to(device)
            metric.reset()
            check_metric(metric, class_scores(outputs), targets)
        self.metrics = [] if metric is None else [metric.clone() for _ in range(networks)]
        self.tally = Tally(networks, device)
        self._waiting: list[Tensor] = []
        self._correct: list[Tensor] = []
        self._losses: list[Tensor] = []

    def add_batch(self, outputs_of_networks: Iterable[Any], targets: Any) -> None:
        """Add the outputs of all networks, in order, on one batch.

        Raises:
            ValueError: a target is none of the classes, or the loss is no loss.
        """
        count, total, classes = 0, torch.tensor(0, device="cpu"), targets
        if self.classifies:
            classes = class_targets(targets, self.classes, self.loss_fn)
            total = (classes != IGNORED).sum()
            if self.entropy:
                refuse_no_classes(classes, self.classes)
        for network, outputs in enumerate(outputs_of_networks):
            scores = class_scores(outputs)
            if self.classifies:
                count = targets.numel()
                self._waiting.append(scores)
                if len(self._waiting) * scores.numel() > _AT_ONCE:
                    self._count(classes)
            else:
                count = batch_size(targets, outputs)
                total = torch.tensor(count, device="cpu")
            if self.loss_fn is not None:
                loss = self.loss_fn(outputs, targets)
                summed = sum_loss(loss, count, self.tally.loss.dtype, total)
                self._losses.append(summed.view(1))
            if self.metrics:
                self.metrics[network].update(scores, targets)
        self._count(classes)
        nothing = torch.zeros_like(self.tally.correct)
        correct = torch.cat(self._correct) if self._correct else nothing
        losses = torch.cat(self._losses) if self._losses else nothing
        self.tally.update(correct, losses, total, count)
        self._correct, self._losses = [], []

    def _count(self, targets: Tensor) -> None:
        """Evaluate the outputs that wait, together: small operations cost mostly their calls."""
        if self._waiting:
            outputs = torch.stack(self._waiting)
            self._correct.append(count_correct(outputs, targets))
            if self.entropy:
                losses = cross_entropy(outputs, targets)
                self._losses.append(losses.sum(1, dtype=self.tally.loss.dtype))
            self._waiting = []

    def results(self) -> list[dict[str, Any]]:
        """Fields of a `CurvePoint`, for each network."""
        correct, losses, total, left_out = self.tally.compute()
        if left_out:
            self.unmeasured.append(
                f"{left_out} of {left_out + total} targets are no class: accuracy and loss leave "
                "them out"
            )
        return [
            {
                "correct": correct[network] if self.classifies else None,
                "accuracy": correct[network] / total if self.classifies else None,
                "loss": losses[network] if self.loss_fn or self.entropy else None,
                "total": total,
                "metrics": as_numbers(self.metrics[network], self.metrics[network].compute())
                if self.metrics
                else {},
            }
            for network in range(len(correct))
        ]


def sum_loss(loss: Any, samples: int, dtype: torch.dtype, total: Tensor) -> Tensor:
    """Sum over a batch of a loss that is its mean, or one number per sample.

    The mean is over the samples that count, ``total`` of them: it is none where there are none.

    Raises:
        ValueError: the loss is something else.
    """
    if isinstance(loss, Tensor) and loss.numel() == 1:
        mean = loss.reshape(()).to(dtype)
        return torch.where(total.to(mean.device) > 0, mean * total.to(mean.device), 0)
    if isinstance(loss, Tensor) and loss.shape == (samples,):
        return loss.to(dtype).sum()
    shape = tuple(loss.shape) if isinstance(loss, Tensor) else type(loss).__name__
    raise ValueError(
        f"loss_fn gives {shape}: expected the mean over the batch, or one number for each of its "
        f"{samples} samples"
    )


def _each_by_itself(metric: Metric | MetricCollection) -> Metric | MetricCollection:
    """The same, with no states shared because they were equal on one batch.

    Collections update one metric of several whose states agree after the first batch. Those of
    other thresholds may agree by chance, and go on with counts that are not theirs. Groups that
    the user gave stay. torchmetrics/collections.py: _merge_compute_groups
    """
    for part in metric.modules():
        if isinstance(part, MetricCollection) and part._enable_compute_groups is True:
            part._enable_compute_groups, part._groups_checked = False, False
            part._groups = {}
    return metric


def check_metric(metric: Metric | MetricCollection, outputs: Any, targets: Any) -> None:
    """Try a metric on the first batch, so that a misfit is told before the work is done.

    Raises:
        ValueError: it does not take these outputs and targets, or does not give numbers.
    """
    try:
        values = metric.clone()(outputs, targets)
    except Exception as error:  # metrics raise errors of many types
        reason = str(error).strip().partition("\n")[0]
        raise ValueError(
            f"metric {type(metric).__name__} does not fit the model's outputs {_shape(outputs)} "
            f"and the targets {_shape(targets)}: {reason}"
        ) from error
    as_numbers(metric, values)


def as_numbers(metric: Metric | MetricCollection, values: Any) -> dict[str, float]:
    """A metric's result as numbers by name: the collection's names, or the metric's class.

    Raises:
        ValueError: a result is no single number.
    """
    named = values if isinstance(values, dict) else {type(metric).__name__: values}
    for name, value in named.items():
        if not (
            isinstance(value, float | int) or (isinstance(value, Tensor) and value.numel() == 1)
        ):
            raise ValueError(
                f"metric {name!r} gives {_shape(value)}: expected one number; ask it for an "
                "average (average='macro' or 'micro')"
            )
    return {name: float(value) for name, value in named.items()}


def batch_size(targets: Any, outputs: Any) -> int:
    """How many samples a batch has: by its targets, or by its outputs where those do not tell.

    >>> boxes = [{"boxes": torch.zeros(5, 4)}, {"boxes": torch.zeros(0, 4)}]  # in two images
    >>> batch_size(boxes, None), batch_size(torch.zeros(3, 1), None)
    (2, 3)
    """
    count, of_outputs = samples(targets), samples(outputs)
    listed = isinstance(targets, list | tuple) and all(isinstance(one, Mapping) for one in targets)
    if listed and targets and (count is None or count != of_outputs):
        return len(targets)  # one for each sample, as of objects in images
    tensors = (tensor for tensor in tensors_in((targets, outputs)) if tensor.ndim)
    return count or of_outputs or len(next(tensors))


def _shape(value: Any) -> str:
    return f"of shape {tuple(value.shape)}" if isinstance(value, Tensor) else type(value).__name__
