"""What a run records beside its curve, by class and by layer; and whether it can be measured."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torchmetrics import Metric

from ewnprune.callback.batches import TrainerBatches
from ewnprune.callback.hooks import PruningHooks
from ewnprune.callback.pruned import measure
from ewnprune.curve.classes import IGNORED, class_targets, classifies
from ewnprune.files import write_rows
from ewnprune.model.copying import plain_network
from ewnprune.model.preserve import evaluating
from ewnprune.namespaces import has_own
from ewnprune.pruning.score_names import find_scores
from ewnprune.study.statistics import compared_levels

CLASSES = "classes.csv"
LAYERS = "layers.csv"
_CLASS = "class "


class AccuracyByClass(Metric):
    """For each class the fraction of its samples that are classified right.

    Of other tasks there is nothing to compute.

    >>> found = AccuracyByClass()
    >>> found.update(torch.tensor([[2.0, 1.0], [2.0, 1.0], [1.0, 3.0]]), torch.tensor([0, 1, 1]))
    >>> {name: float(value) for name, value in found.compute().items()}
    {'class 0': 1.0, 'class 1': 0.5}
    """

    right: Tensor
    total: Tensor

    def __init__(self) -> None:
        super().__init__()
        for name in ("right", "total"):  # as long as there are classes, once outputs are seen
            self.add_state(
                name, torch.zeros(0, dtype=torch.long, device="cpu"), dist_reduce_fx="sum"
            )

    def update(self, outputs: Tensor, targets: Tensor) -> None:
        """Add a batch of class scores ``(B, C, ...)`` and classes ``(B, ...)``."""
        if not classifies(outputs, targets):
            return
        count = outputs.shape[1]
        classes = class_targets(targets, count)
        highest, predicted = outputs.max(dim=1)
        known = (classes != IGNORED) & (classes < count)
        right = known & (predicted == classes) & ~highest.isnan()
        if not len(self.total):
            self.total = torch.zeros(count, dtype=torch.long, device=outputs.device)
            self.right = self.total.clone()
        self.total += torch.bincount(classes[known], minlength=count)
        self.right += torch.bincount(classes[right], minlength=count)

    def compute(self) -> dict[str, Tensor]:
        """The fractions; classes without a sample are left out."""
        found = (self.right / self.total).tolist()
        totals = self.total.tolist()
        return {
            f"{_CLASS}{index}": torch.tensor(value, device="cpu")
            for index, (value, total) in enumerate(zip(found, totals, strict=True))
            if total
        }


def check_accuracy(
    trainer: Any, pl_module: Any, pruning: PruningHooks, batches: TrainerBatches
) -> None:
    """Measure a batch as at the end, when it would be too late to learn that there is no accuracy.

    Args:
        trainer: of the fit that begins.
        pl_module: its network.
        pruning: how it is pruned.
        batches: one of the validation data.

    Raises:
        ValueError: there is none.
    """
    once = replace(pruning.measuring, scores=pruning.scores[:1], realize="mask")
    curve = measure(once, pruning.attachment, None, trainer, pl_module, batches, [0.0])
    try:
        curve.points[0].measure()
    except ValueError as error:
        raise ValueError(
            f"a study compares accuracies, and {error}: give a classifier; of other networks "
            "ewnprune fit takes the curve"
        ) from error


def refuse_unmeasured(trainer: Any, pl_module: Any) -> None:
    """Refuse, before it is trained, a network that could not be evaluated afterwards.

    Args:
        trainer: the Trainer, in a fit.
        pl_module: its module.

    Raises:
        ValueError: a step or a loader is not there, and evaluation is not turned off.
    """
    for split, kind in (("val", "validation"), ("test", "test")):
        if getattr(trainer, f"limit_{split}_batches") == 0:
            continue
        step, loader = f"{kind}_step", f"{split}_dataloader"
        lacking = "" if has_own(pl_module, step) else f"{type(pl_module).__name__} has no {step}"
        data = trainer.datamodule
        if data is not None and not any(has_own(of, loader) for of in (pl_module, data)):
            lacking = lacking or f"{type(data).__name__} has no {loader}"
        if lacking:
            raise ValueError(
                f"{lacking}, and a study measures on {kind} data: write one, or say "
                f"trainer.limit_{split}_batches: 0 to do without"
            )


def record_details(
    folder: Path, trainer: Any, pl_module: Any, pruning: PruningHooks, loader: Any, limit: Any
) -> None:
    """Write ``classes.csv`` and ``layers.csv``, of the network and of it pruned at few levels.

    They are those that methods are compared at.

    Args:
        folder: where to.
        trainer: which evaluates the network.
        pl_module: the network.
        pruning: how it is pruned.
        loader: the data.
        limit: how many batches of them are evaluated.
    """
    measuring = pruning.measuring
    at = {0, *compared_levels(measuring.sparsities)}
    levels = [level for level in measuring.sparsities if level in at]
    batches = TrainerBatches(trainer, loader, limit)
    pruned = pruning.finetuning.network() or pruning.gradual.network()
    by_class = replace(measuring, metric=AccuracyByClass(), realize="mask")
    found = measure(by_class, pruning.attachment, pruned, trainer, pl_module, batches, levels)
    classes = [
        {
            "score": point.score,
            "sparsity": point.sparsity,
            "class": name.removeprefix(_CLASS),
            "accuracy": value,
        }
        for point in found
        for name, value in point.metrics.items()
    ]
    layers = [] if pruned else _layers(trainer, pl_module, pruning, batches, levels)
    if trainer.is_global_zero:
        for name, rows in ((CLASSES, classes), (LAYERS, layers)):
            if rows:
                write_rows(folder / name, rows)


def _layers(
    trainer: Any,
    pl_module: Any,
    pruning: PruningHooks,
    batches: TrainerBatches,
    levels: list[float],
) -> list[dict[str, Any]]:
    """What is left of each group of neurons that go together; none where costs decide how many."""
    how = pruning.measuring
    if how.level_of != "units" or how.inputs:
        return []
    choice = how.choice(pruning.attachment.initial_norms)
    rows = []
    with evaluating(pl_module, batches), trainer.precision_plugin.forward_context():
        inputs, _ = how.batch(next(iter(batches)))
        found = choice.find(plain_network(pl_module), how.forward, inputs)
        for name, function in find_scores(how.scores).items():
            ranking, _ = choice.rank(found, name, function)
            for level in levels if ranking.unit == "neurons" else ():
                for layer, keep in choice.units(found, ranking, level).items():
                    row = {"score": name, "sparsity": level, "layer": layer}
                    rows.append(row | {"left": int(keep.sum()), "total": len(keep)})
    return rows
