"""The part of the callback that prunes after the ordinary epochs, and trains on for some more.

The ordinary epochs are those of a fit without finetuning, and so is the curve after them. Then the
network is pruned at one level and trains on with a fresh optimizer and a fresh learning-rate
schedule: ``configure_optimizers`` is called again, and sees ``max_epochs`` as the number of epochs
to come. A schedule that has ended would train with the tiny rate it ended at; starting it anew is
the better way to retrain (Renda et al. 2020, https://arxiv.org/abs/2003.02389).
"""

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

from torch import Tensor
from torch.utils._pytree import tree_leaves
from torch.utils.hooks import RemovableHandle

from ewnprune.callback.batches import TrainerBatches, global_seed
from ewnprune.callback.checkpoint import stored_finetuning
from ewnprune.callback.curves import CurveHooks
from ewnprune.callback.holding import hold_at_zero, pruned_first, pruning_masks, set_to_zero
from ewnprune.callback.refusals import refuse_unheld
from ewnprune.curve.curve import Curve
from ewnprune.model.preserve import evaluating
from ewnprune.pruning.score_names import Score, find_scores
from ewnprune.training.parametrizations import NeuronParametrization
from ewnprune.training.weight_space import hand_out_neuron_groups


class FinetuneHooks(CurveHooks):
    """What `PruningHooks` does to finetune, with the options and the state that this needs."""

    parametrization: NeuronParametrization | None
    weight_space: bool
    finetune_epochs: int
    finetune_sparsity: float
    finetune_score: str
    _ordinary_epochs: int = 0
    _epochs_done: int = 0  # before the run was resumed
    _finetuning: dict[str, Any] | None = None
    _handles: Sequence[RemovableHandle] = ()

    @property
    def series_name(self) -> str:
        """Name of what is measured now: the method, or that and how it was finetuned."""
        if self._finetuning is None:
            return self.method
        return f"{self.method}, finetuned at {self._finetuning['sparsity']:g}"

    def shown_with(self, curve: Curve) -> Curve:
        """The curve of a finetuned network with that of the one before; others by themselves."""
        if self._finetuning is None or self.curve is None:
            return curve
        last = self._finetuning["since"] - 1
        before = [p for p in self.curve if (p.method, p.epoch) == (self.method, last)]
        if not before:
            return curve
        return Curve(tuple(before) + curve.points, curve.notes).tagged(epoch=None, step=None)

    def _measure(
        self,
        trainer: Any,
        pl_module: Any,
        batches: TrainerBatches,
        sparsities: Sequence[float],
        scores: Sequence[str | Score],
    ) -> Curve:
        """The curve; of a pruned network, at a level below it is that network as it is."""
        if self._finetuning is None:
            return super()._measure(trainer, pl_module, batches, sparsities, scores)
        pruned_at = self._finetuning["sparsity"]
        reached = {level: max(level, pruned_at) for level in sparsities}
        masks = self._finetuning["masks"]
        curve = super()._measure(
            trainer,
            pl_module,
            batches,
            sorted({*reached.values()}),
            [
                pruned_first(name, score, pl_module, masks)
                for name, score in find_scores(scores).items()
            ],
        )
        points = []
        for series in curve.series():
            found = {point.sparsity: point for point in series}
            points += [replace(found[reached[level]], sparsity=level) for level in sparsities]
        return Curve(tuple(points), curve.notes)

    def _expect_finetuning(self, trainer: Any, checkpoint: dict[str, Any]) -> None:
        """Go on with the finetuning that a checkpoint was saved in, if it was.

        Called before ``configure_optimizers``.

        Raises:
            ValueError: the run was finetuning otherwise.
        """
        self._epochs_done = checkpoint["loops"]["fit_loop"]["epoch_progress"]["current"][
            "processed"
        ]
        stored = self._finetuning = stored_finetuning(checkpoint)
        if stored is None:
            return
        asked = self._pruned_as()
        if not self.finetune_epochs or any(stored[key] != asked[key] for key in asked):
            raise ValueError(
                f"the checkpoint is of a run that was finetuning at sparsity "
                f"{stored['sparsity']:g} by {stored['score']}: resume it with the finetune_epochs, "
                "finetune_sparsity and finetune_score that it had, or start anew from its weights"
            )
        trainer.fit_loop.max_epochs = self.finetune_epochs  # as configure_optimizers saw it before

    def on_fit_start(self, trainer: Any, pl_module: Any) -> None:
        """Resumed after the ordinary epochs: go on for those to come, with what was pruned held."""
        if not self.finetune_epochs:
            return
        since = self._ordinary_epochs
        if self._finetuning is not None:
            since = self._finetuning["since"]
            self._hold(trainer, pl_module)
        if self._epochs_done >= since:
            trainer.fit_loop.max_epochs = since + self.finetune_epochs

    def on_train_start(self, trainer: Any, pl_module: Any) -> None:
        """Rehearse the pruning too."""
        super().on_train_start(trainer, pl_module)
        if self.finetune_epochs and self._finetuning is None:
            self._find_masks(trainer, pl_module)

    def _end_epoch(self, trainer: Any, pl_module: Any) -> None:
        """Have the loop go on when the ordinary epochs are over, and learn of it no earlier."""
        super()._end_epoch(trainer, pl_module)
        if self.finetune_epochs and trainer.current_epoch + 1 == self._ordinary_epochs:
            trainer.fit_loop.max_epochs = self._ordinary_epochs + self.finetune_epochs

    def on_train_epoch_start(self, trainer: Any, pl_module: Any) -> None:
        """After the ordinary epochs: the curve of the trained network, then prune it."""
        if not self.finetune_epochs or self._finetuning is not None:
            return
        since = trainer.current_epoch
        if since < self._ordinary_epochs:
            return
        self._end_training(trainer, pl_module)
        self._finetuning = {
            "since": since,
            **self._pruned_as(),
            "masks": self._find_masks(trainer, pl_module),
        }
        set_to_zero(pl_module, self._finetuning["masks"])
        if self.weight_space:
            hand_out_neuron_groups(pl_module, self.parametrization, self.layers, self.exclude)
        trainer.fit_loop.max_epochs = self.finetune_epochs
        trainer.strategy.setup_optimizers(trainer)
        refuse_unheld(pl_module, trainer.optimizers)
        trainer.fit_loop.max_epochs = since + self.finetune_epochs
        self._hold(trainer, pl_module)

    def _say_if_not_finetuned(self, trainer: Any) -> None:
        if self.finetune_epochs and self._finetuning is None:
            self._report.append(
                f"ewnprune: not finetuned, for the fit was stopped in epoch "
                f"{trainer.current_epoch - 1}, before its {self._ordinary_epochs} epochs were over"
            )

    def _end_finetuning(self, trainer: Any) -> None:
        """Leave trainer and model as they were; at the end of a fit, or where it was cut off."""
        for handle in self._handles:
            handle.remove()
        self._handles = ()
        if self.finetune_epochs and self._ordinary_epochs:
            trainer.fit_loop.max_epochs = self._ordinary_epochs

    def on_exception(self, trainer: Any, pl_module: Any, exception: BaseException) -> None:
        """The same where the fit was cut off."""
        self._end_finetuning(trainer)

    def _pruned_as(self) -> dict[str, Any]:
        """At what level and by which score, in plain types for a checkpoint."""
        (score,) = find_scores(self.finetune_score)
        return {"sparsity": self.finetune_sparsity, "score": score}

    def _hold(self, trainer: Any, pl_module: Any) -> None:
        assert self._finetuning is not None
        masks: dict[str, Tensor] = self._finetuning["masks"]
        self._handles = hold_at_zero(pl_module, masks, trainer.optimizers)

    def _find_masks(self, trainer: Any, pl_module: Any) -> dict[str, Tensor]:
        flat = tree_leaves(trainer.val_dataloaders) if trainer.val_dataloaders is not None else []
        if not flat or not trainer.num_val_batches[0]:
            raise ValueError(
                f"finetune_epochs={self.finetune_epochs} needs validation data, for the curves "
                "before and after: give some, or leave it out"
            )
        batches = TrainerBatches(trainer, flat[0], 1)
        # fetching a batch draws random numbers, which training must not notice
        with evaluating(pl_module, batches), trainer.precision_plugin.forward_context():
            inputs, _ = self.batch(next(iter(batches)))
            masks = pruning_masks(
                pl_module,
                self.finetune_sparsity,
                inputs,
                score=self.finetune_score,
                layers=self.layers,
                exclude=self.exclude,
                scope=self.scope,
                initial_norms=self._initial_norms,
                seed=global_seed(),
            )
        return {name: keep.cpu() for name, keep in masks.items()}
