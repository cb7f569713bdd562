"""The part of the callback that prunes after the ordinary epochs, and trains on for some more.

The ordinary epochs are those of a fit without finetuning, and so is the curve after them. Then the
network is pruned at one level and trains on with a fresh optimizer and a fresh learning-rate
schedule: ``configure_optimizers`` is called again, and sees ``max_epochs`` as the number of epochs
to come. A schedule that has ended would train with the tiny rate it ended at; starting it anew is
the better way to retrain (Renda et al. 2020, https://arxiv.org/abs/2003.02389).
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from torch import Tensor
from torch.utils._pytree import tree_leaves
from torch.utils.hooks import RemovableHandle

from ewnprune.callback.attachment import Attachment
from ewnprune.callback.batches import TrainerBatches
from ewnprune.callback.holding import hold_at_zero, pruned_first, set_to_zero
from ewnprune.callback.measuring import Measuring
from ewnprune.callback.refusals import refuse_finetuning
from ewnprune.curve.curve import Curve
from ewnprune.pruning.score_names import find_scores


@dataclass(frozen=True)
class Finetune:
    """How to train on after pruning, in the same fit.

    Args:
        epochs: how many epochs, after the Trainer's ``max_epochs``.
        sparsity: the level that the network is pruned at, in (0, 1).
        score: by which score; the first of the callback's ``scores`` by default.

    Raises:
        ValueError: a number that does not fit, or an unknown score.
    """

    epochs: int
    sparsity: float = 0.9
    score: str | None = None

    def __post_init__(self) -> None:
        if not isinstance(self.epochs, int) or self.epochs < 1:
            raise ValueError(f"finetune: epochs={self.epochs}: expected a number of epochs >= 1")
        if not (isinstance(self.sparsity, int | float) and 0 < self.sparsity < 1):
            raise ValueError(
                f"finetune: sparsity={self.sparsity}: expected a fraction in (0, 1), such as 0.9"
            )
        if self.score is not None and len(find_scores(self.score)) != 1:
            raise ValueError(f"finetune: score={self.score!r}: expected one score")


class Finetuning:
    """The network as it is measured, and pruned and held at zero when it is the time.

    Args:
        options: how to finetune; None is not at all.
        measuring: how the network is measured.
        attachment: what is attached to it.

    Attributes:
        pruned: None before; then since which epoch, at what sparsity, by which score, the masks.
    """

    def __init__(
        self, options: Finetune | None, measuring: Measuring, attachment: Attachment
    ) -> None:
        if not isinstance(options, Finetune | None):
            raise ValueError(f"finetune={options!r}: expected Finetune(epochs=...), or None")
        if options is not None and measuring.level_of != "units":
            raise ValueError(
                f"finetune={options!r}: its sparsity is a fraction of the neurons: expected "
                f"level_of='units', not {measuring.level_of!r}"
            )
        self.options, self.measuring, self.attachment = options, measuring, attachment
        self.pruned: dict[str, Any] | None = None
        self._ordinary_epochs = 0
        self._epochs_done = 0  # before the run was resumed
        self._handles: Sequence[RemovableHandle] = ()

    def reset(self, trainer: Any, pl_module: Any) -> None:
        """Begin a fit.

        Raises:
            ValueError: finetuning cannot work with it.
        """
        if self.options is not None:
            refuse_finetuning(trainer, pl_module)
        self._ordinary_epochs, self._epochs_done = trainer.max_epochs, 0
        self.pruned = None

    # --- measuring -------------------------------------------------------------------------

    @property
    def series_name(self) -> str:
        """Name of what is measured now: the method, or that and how it was finetuned."""
        method = self.attachment.method
        return (
            method if self.pruned is None else f"{method}, finetuned at {self.pruned['sparsity']:g}"
        )

    def measure(
        self, trainer: Any, pl_module: Any, batches: TrainerBatches, sparsities: Sequence[float]
    ) -> Curve:
        """The curve; of a pruned network, at a level below it is that network as it is."""
        name, norms = self.series_name, self.attachment.initial_norms
        scores: Sequence[Any] = self.measuring.scores
        if self.pruned is None:
            return self.measuring.curve(
                trainer, pl_module, batches, sparsities, scores, name, norms
            )
        reached = {level: max(level, self.pruned["sparsity"]) for level in sparsities}
        masks = self.pruned["masks"]
        scores = [
            pruned_first(score, function, pl_module, masks)
            for score, function in find_scores(scores).items()
        ]
        levels = sorted({*reached.values()})
        curve = self.measuring.curve(trainer, pl_module, batches, levels, scores, name, norms)
        points = []
        for series in curve.series():
            found = {point.sparsity: point for point in series}
            points += [replace(found[reached[level]], sparsity=level) for level in sparsities]
        return Curve(tuple(points), curve.notes)

    def beside_one_shot(self, curve: Curve, all_of_it: Curve) -> Curve:
        """The curve of a finetuned network with that of the one before; others by themselves."""
        if self.pruned is None:
            return curve
        method, last = self.attachment.method, self.pruned["since"] - 1
        before = [p for p in all_of_it if (p.method, p.epoch) == (method, last)]
        if not before:
            return curve
        return Curve(tuple(before) + curve.points, curve.notes).tagged(epoch=None, step=None)

    # --- what happens when -----------------------------------------------------------------

    def resume(self, trainer: Any, pl_module: Any) -> None:
        """Resumed after the ordinary epochs: go on for those to come, with what was pruned held."""
        if self.options is None:
            return
        since = self._ordinary_epochs
        if self.pruned is not None:
            since = self.pruned["since"]
            self._hold(trainer, pl_module)
        if self._epochs_done >= since:
            trainer.fit_loop.max_epochs = since + self.options.epochs

    def rehearse(self, trainer: Any, pl_module: Any) -> None:
        """Find what would go, so that what does not work is an error now."""
        if self.options is not None and self.pruned is None:
            self._find_masks(trainer, pl_module)

    def end_epoch(self, trainer: Any) -> None:
        """Have the loop go on when the ordinary epochs are over, and learn of it no earlier."""
        if self.options is not None and trainer.current_epoch + 1 == self._ordinary_epochs:
            trainer.fit_loop.max_epochs = self._ordinary_epochs + self.options.epochs

    def due(self, trainer: Any) -> bool:
        """Whether the ordinary epochs are over, and the network is not pruned yet."""
        over = trainer.current_epoch >= self._ordinary_epochs
        return self.options is not None and self.pruned is None and over

    def begin(self, trainer: Any, pl_module: Any) -> None:
        """Prune, and have optimizers and schedules made anew for the epochs to come."""
        assert self.options is not None
        since = trainer.current_epoch
        masks = self._find_masks(trainer, pl_module)
        self.pruned = {"since": since, **self._pruned_as(), "masks": masks}
        set_to_zero(pl_module, masks)
        trainer.fit_loop.max_epochs = self.options.epochs
        trainer.strategy.setup_optimizers(trainer)
        self.attachment.check_optimizers(pl_module, trainer.optimizers)
        trainer.fit_loop.max_epochs = since + self.options.epochs
        self._hold(trainer, pl_module)

    def why_not(self, trainer: Any) -> list[str]:
        """A line that says why the network was not finetuned, where it was to be."""
        if self.options is None or self.pruned is not None:
            return []
        return [
            f"ewnprune: not finetuned, for the fit was stopped in epoch "
            f"{trainer.current_epoch - 1}, before its {self._ordinary_epochs} epochs were over"
        ]

    def end(self, trainer: Any) -> None:
        """Leave trainer and model as they were; at the end of a fit, or where it was cut off."""
        for handle in self._handles:
            handle.remove()
        self._handles = ()
        if self.options is not None and self._ordinary_epochs:
            trainer.fit_loop.max_epochs = self._ordinary_epochs

    # --- checkpoints -----------------------------------------------------------------------

    def state_dict(self) -> dict[str, Any]:
        """How it was pruned."""
        return {"finetuning": self.pruned}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Take up how it was pruned."""
        self.pruned = state.get("finetuning")

    def go_on(self, trainer: Any, checkpoint: Mapping[str, Any]) -> None:
        """Go on with the finetuning that a checkpoint was saved in, if it was.

        Called before ``configure_optimizers``.

        Raises:
            ValueError: the run was finetuning otherwise.
        """
        progress = checkpoint["loops"]["fit_loop"]["epoch_progress"]
        self._epochs_done = progress["current"]["processed"]
        if self.pruned is None:
            return
        asked = {} if self.options is None else self._pruned_as()
        if self.options is None or any(self.pruned[key] != asked[key] for key in asked):
            raise ValueError(
                f"the checkpoint is of a run that was finetuning at sparsity "
                f"{self.pruned['sparsity']:g} by {self.pruned['score']}: resume it with the "
                "finetune= that it had, or start anew from its weights"
            )
        trainer.fit_loop.max_epochs = self.options.epochs  # as configure_optimizers saw it before

    def _score(self) -> Any:
        assert self.options is not None
        if self.options.score is not None:
            return self.options.score
        scores = self.measuring.scores
        return scores if isinstance(scores, str) or callable(scores) else scores[0]

    def _pruned_as(self) -> dict[str, Any]:
        """At what level and by which score, in plain types for a checkpoint."""
        assert self.options is not None
        (score,) = find_scores(self._score())
        return {"sparsity": float(self.options.sparsity), "score": score}

    def _hold(self, trainer: Any, pl_module: Any) -> None:
        assert self.pruned is not None
        self._handles = hold_at_zero(pl_module, self.pruned["masks"], trainer.optimizers)

    def _find_masks(self, trainer: Any, pl_module: Any) -> dict[str, Tensor]:
        assert self.options is not None
        flat = tree_leaves(trainer.val_dataloaders) if trainer.val_dataloaders is not None else []
        if not flat or not trainer.num_val_batches[0]:
            raise ValueError(
                f"finetune={self.options} needs validation data, for the curves before and "
                "after: give some, or leave it out"
            )
        return self.measuring.masks(
            trainer,
            pl_module,
            TrainerBatches(trainer, flat[0], 1),
            float(self.options.sparsity),
            self._score(),
            self.attachment.initial_norms,
        )
