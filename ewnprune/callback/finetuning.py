"""The part of the callback that prunes after the ordinary epochs, and trains on for some more.

The ordinary epochs are those of a fit without finetuning, and so is the curve after them. Then the
network is pruned at one level and trains on with a fresh optimizer and a fresh learning-rate
schedule: ``configure_optimizers`` is called again, and sees ``max_epochs`` as the number of epochs
to come. A schedule that has ended would train with the tiny rate it ended at; starting it anew is
the better way to retrain (Renda et al. 2020, https://arxiv.org/abs/2003.02389).
"""

import math
from collections.abc import Mapping, Sequence
from typing import Any

from torch import Tensor
from torch.utils.hooks import RemovableHandle

from ewnprune.callback.attachment import Attachment
from ewnprune.callback.batches import TrainerBatches
from ewnprune.callback.distillation import Distillation
from ewnprune.callback.finetune import Finetune, cut_short
from ewnprune.callback.holding import hold_at_zero, set_to_zero
from ewnprune.callback.measuring import Measuring
from ewnprune.callback.pruned import Pruned
from ewnprune.callback.refusals import refuse_pruning_in_fit
from ewnprune.callback.teacher import Teacher, where_taught
from ewnprune.callback.validation import first_validation_batch
from ewnprune.curve.curve import Curve
from ewnprune.pruning.score_names import find_scores


class Finetuning:
    """Prunes the network when the ordinary epochs are over, and holds at zero what went.

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
        self._ordinary_epochs: Any = None  # no fit is running
        self._epochs_done = 0  # before the run was resumed
        self._handles: Sequence[RemovableHandle] = ()
        self._place = ""  # where its outputs are made
        self._teacher: Teacher | None = None
        self._taught: Mapping[str, Tensor] | None = None  # the teacher of a run that is resumed

    def reset(self, trainer: Any, pl_module: Any) -> None:
        """Begin a fit.

        Raises:
            ValueError: finetuning cannot work with it.
        """
        if self.options is not None:
            refuse_pruning_in_fit("finetune", trainer, pl_module)
        self._ordinary_epochs, self._epochs_done = trainer.max_epochs, 0
        self.pruned = self._taught = self._teacher = None

    @property
    def ordinary_epochs(self) -> float:
        """How many epochs come before the network is pruned; infinite where it is not to be."""
        if self.options is None:
            return math.inf
        return self._ordinary_epochs if self.pruned is None else int(self.pruned["since"])

    def network(self) -> Pruned | None:
        """The network as it is pruned now; None before."""
        if self.pruned is None:
            return None
        how = f"finetuned at {self.pruned['sparsity']:g}"
        return Pruned(how, self.pruned["sparsity"], self.pruned["masks"])

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
        since = self.ordinary_epochs
        if self.pruned is not None:
            self._hold(trainer, pl_module)
            self._learn(pl_module)
        if self._epochs_done >= since:
            trainer.fit_loop.max_epochs = since + self.options.epochs

    def rehearse(self, trainer: Any, pl_module: Any) -> None:
        """Find what would go, so that what does not work is an error now."""
        if self.options is not None and self.pruned is None:
            self._find_masks(trainer, pl_module)
        if self._distilled() is not None:
            batches = self._first_batch(trainer)
            self._place = where_taught(self.measuring, trainer, pl_module, batches)

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
        self._learn(pl_module)
        self.pruned = {"since": since, **self._pruned_as(), "masks": masks}
        set_to_zero(pl_module, masks)
        trainer.fit_loop.max_epochs = self.options.epochs
        trainer.strategy.setup_optimizers(trainer)
        self.attachment.check_optimizers(pl_module, trainer.optimizers)
        trainer.fit_loop.max_epochs = since + self.options.epochs
        self._hold(trainer, pl_module)

    def before_batch(self, trainer: Any, pl_module: Any, batch: Any) -> None:
        """Have the pruned network learn from the one before, where that was asked for."""
        if self._teacher is not None:
            self._teacher.before_batch(trainer, pl_module, batch, self._place)

    def why_not(self, trainer: Any) -> list[str]:
        """A line that says why the network was not finetuned as long as it was to be, if so."""
        if self.options is None:
            return []
        since = None if self.pruned is None else int(self.pruned["since"])
        return cut_short(self.options, trainer.current_epoch, self._ordinary_epochs, since)

    def end(self, trainer: Any, cut_off: bool = False) -> None:
        """Leave trainer and model as they were.

        Args:
            trainer: the Trainer.
            cut_off: whether the fit was; checkpoints that are saved then have the teacher still.
        """
        for handle in self._handles:
            handle.remove()
        self._handles = ()
        if self._teacher is not None:
            self._teacher.let_go()
            self._teacher = self._teacher if cut_off else None
        if self.options is not None and self._ordinary_epochs is not None:
            trainer.fit_loop.max_epochs = self._ordinary_epochs
        self._ordinary_epochs = None

    # --- checkpoints -----------------------------------------------------------------------

    def state_dict(self) -> dict[str, Any]:
        """How it was pruned."""
        taught = {} if self._teacher is None else {"teacher": self._teacher.state_dict()}
        return {"finetuning": self.pruned, **taught}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Take up how it was pruned."""
        self.pruned, self._taught = state.get("finetuning"), state.get("teacher")

    def go_on(self, trainer: Any, checkpoint: Mapping[str, Any]) -> None:
        """Go on with the finetuning that a checkpoint was saved in, if it was.

        Called before ``configure_optimizers``.

        Raises:
            ValueError: the run was finetuning otherwise, or its teacher is not there.
        """
        progress = checkpoint["loops"]["fit_loop"]["epoch_progress"]
        self._epochs_done = progress["current"]["processed"]
        if self.pruned is None or self._handles:  # a finder of a rate has restored what it saved
            return
        asked = {} if self.options is None else self._pruned_as()
        before = {key: self.pruned.get(key) for key in asked}
        if self.options is None or before != asked:
            raise ValueError(
                f"the checkpoint is of a run that was finetuning at sparsity "
                f"{self.pruned['sparsity']:g} by {self.pruned['score']}: resume it with the "
                "finetune= that it had, or start anew from its weights"
            )
        if self._distilled() is not None and self._taught is None:
            raise ValueError(
                "the checkpoint is without the network before pruning, which finetuning with "
                "distill learns from: resume another one of that run, or start anew"
            )
        trainer.fit_loop.max_epochs = self.options.epochs  # as configure_optimizers saw it before

    def _score(self) -> Any:
        assert self.options is not None
        if self.options.score is not None:
            return self.options.score
        return self.measuring.first_score

    def _pruned_as(self) -> dict[str, Any]:
        """At what level and by which score, in plain types for a checkpoint."""
        assert self.options is not None
        (score,) = find_scores(self._score())
        distill = self._distilled()
        how = None if distill is None else [float(distill.temperature), float(distill.weight)]
        return {"sparsity": float(self.options.sparsity), "score": score, "distill": how}

    def _distilled(self) -> Distillation | None:
        """How, where it makes a difference."""
        distill = None if self.options is None else self.options.distill
        return distill if distill is not None and distill.weight else None

    def _learn(self, pl_module: Any) -> None:
        distill = self._distilled()
        if distill is not None:
            self._teacher = Teacher(distill, self.measuring, pl_module, self._taught)

    def _hold(self, trainer: Any, pl_module: Any) -> None:
        assert self.pruned is not None
        self._handles = hold_at_zero(pl_module, self.pruned["masks"], trainer.optimizers)

    def _find_masks(self, trainer: Any, pl_module: Any) -> dict[str, Tensor]:
        assert self.options is not None
        return self.measuring.masks(
            trainer,
            pl_module,
            self._first_batch(trainer),
            float(self.options.sparsity),
            self._score(),
            self.attachment.initial_norms,
        )

    def _first_batch(self, trainer: Any) -> TrainerBatches:
        first = first_validation_batch(trainer)
        if first is None:
            raise ValueError(
                f"finetune={self.options} needs validation data, for the curves before and "
                "after: give some, or leave it out"
            )
        return first
