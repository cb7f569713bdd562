"""The curves of a run: when they are taken, of which weights, and where they go."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from torch.utils._pytree import tree_leaves

from ewnprune.callback.batches import TrainerBatches
from ewnprune.callback.holding import are_zero
from ewnprune.callback.loggers import log_curve, monitored
from ewnprune.callback.pruned import Pruned, measure
from ewnprune.callback.refusals import averaging_callbacks
from ewnprune.callback.run_files import choose_paths, run_folder, write_results
from ewnprune.callback.validation import first_validation_batch, validation_data
from ewnprune.callback.weights import as_validated, fingerprint, on_root_device
from ewnprune.curve.curve import Curve
from ewnprune.curve.files import curve_from_json, curve_to_json
from ewnprune.pruning.notes import Note

if TYPE_CHECKING:
    from ewnprune.callback.finetuning import Finetuning
    from ewnprune.callback.gradual_pruning import GradualPruning


class Curves:
    """Takes curves, and keeps them in files, loggers and checkpoints.

    Args:
        finetuning: what may have been pruned of the network after the ordinary epochs.
        gradual: what may have been pruned of it in their course.
        every_n_epochs: in mid-training too, every so many epochs.

    Raises:
        ValueError: ``every_n_epochs`` is no number of epochs.

    Attributes:
        curve: the points measured so far in this fit, those before it was resumed included; or by
            the last validate or test.
        report: lines to show when it is over.
        beside: another network's curve, to be shown beside this one; the command sets it.
        folder: where files go, if not where the Trainer's do; the command sets it.
        trained: whether this fit trained anything; a run may have ended before it was resumed.
    """

    def __init__(
        self,
        finetuning: "Finetuning",
        gradual: "GradualPruning",
        every_n_epochs: int | None,
    ) -> None:
        if not (every_n_epochs is None or (isinstance(every_n_epochs, int) and every_n_epochs > 0)):
            raise ValueError(
                f"every_n_epochs={every_n_epochs}: expected a number of epochs >= 1, or None for "
                "the end of training only"
            )
        self.finetuning, self.gradual = finetuning, gradual
        self.every_n_epochs = every_n_epochs
        self.beside = Curve()
        self.folder: Path | None = None
        self.reset()

    def reset(self) -> None:
        """Forget the run before."""
        self.curve: Curve | None = None
        self.report: list[str] = []
        self._paths: list[Path] | None = None
        self.trained = False
        self._swept_at: int | None = None  # the step of the last curve of this fit
        self._swept: tuple[int, ...] | None = None  # fingerprint of its weights, where known

    def rehearse(self, trainer: Any, pl_module: Any) -> None:
        """Measure one batch: what does not fit is an error now, not after the training."""
        run_folder(trainer)
        self.trained = True
        first = first_validation_batch(trainer)
        if first is not None:
            measuring = self.finetuning.measuring
            measuring.check_call(trainer, pl_module, first)
            extremes = sorted({measuring.sparsities[0], measuring.sparsities[-1]})
            self._measure(trainer, pl_module, first, extremes)

    def due(self, trainer: Any) -> bool:
        """Whether the epoch that ends now is one to take a curve at."""
        every = self.every_n_epochs
        return every is not None and (trainer.current_epoch + 1) % every == 0

    def take_in_training(self, trainer: Any, pl_module: Any) -> None:
        """The curve at the end of an epoch, of the weights that validation evaluates."""
        with as_validated(trainer, pl_module):
            self._take_in_fit(trainer, pl_module, trainer.current_epoch)

    def take_last(self, trainer: Any, pl_module: Any) -> None:
        """The curve of the weights that are in the model now, unless the last curve is of them.

        Between an epoch's end and the end of the fit other callbacks, or the module, may have put
        in other weights: averages, or the best. What counts are the values, whoever put them in.
        """
        if not self.trained:
            return
        step = trainer.global_step
        if self._swept_at == step:
            same = self._swept in (None, fingerprint(pl_module))
            if trainer.strategy.reduce_boolean_decision(same, all=True):
                return
            if self.curve is not None:
                kept = tuple(point for point in self.curve if point.step != step)
                note = (
                    f"epoch {trainer.current_epoch - 1}: taken once more at the end, for other "
                    "weights had been put in"
                )
                self.curve = Curve(kept, (*self.curve.notes, Note("run", note)))
        with on_root_device(trainer, pl_module):
            self._take_in_fit(trainer, pl_module, trainer.current_epoch - 1)

    def take_in_evaluation(self, trainer: Any, pl_module: Any, split: str) -> None:
        """The curve of the weights that the Trainer was asked to evaluate."""
        loaders = getattr(trainer, f"{split}_dataloaders")
        self.take(trainer, pl_module, split, loaders, getattr(trainer, f"num_{split}_batches"))

    def take(
        self,
        trainer: Any,
        pl_module: Any,
        split: str,
        loaders: Any,
        limits: Any,
        epoch: int | None = None,
    ) -> None:
        """The curve on the first loader of a split, to files and loggers."""
        flat = tree_leaves(loaders) if loaders is not None else []
        if not flat or not limits[0]:
            kind = "validation" if split == "val" else split
            self.report = [f"ewnprune: no {kind} data, so no curve"]
            return
        batches = TrainerBatches(trainer, flat[0], limits[0])
        sparsities = self.finetuning.measuring.sparsities
        curve = self._measure(trainer, pl_module, batches, sparsities)
        curve = curve.tagged(split=split, epoch=epoch, step=trainer.global_step)
        averaging = averaging_callbacks(trainer, "StochasticWeightAveraging")
        if averaging and epoch == trainer.current_epoch:  # it is over when training has ended
            note = f"epoch {epoch}: before {averaging[0]} has put in the averaged weights"
            curve = Curve(curve.points, (*curve.notes, Note("run", note)))
        if len(flat) > 1:
            note = f"measured on the first of {len(flat)} {split} data loaders"
            curve = Curve(curve.points, (*curve.notes, Note("run", note)))
        self.curve = curve if self.curve is None else self.curve + curve
        # there for ModelCheckpoint and EarlyStopping, which come after this in an epoch
        finetuned = self.finetuning.pruned is not None and self._pruned(trainer, pl_module)
        key = "prune_finetuned" if finetuned else "prune"
        # and go on where the network is finetuned: loggers alone keep the names apart
        trainer.callback_metrics.update({**monitored(curve), **monitored(curve, key)})
        if self._paths is None:
            name = "sensitivity" if self.finetuning.measuring.per_layer else "sparsity_curve"
            self._paths = choose_paths(trainer, split, name, self.folder)
        if trainer.is_global_zero:
            newest = self.finetuning.beside_one_shot(curve, self.curve)
            self._write(trainer, self.curve, newest, key)

    def state_dict(self) -> dict[str, Any]:
        """What was measured so far, as in sparsity_curve.json."""
        return {"curve": None if self.curve is None else curve_to_json(self.curve)}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Take up the points that the run had measured."""
        text = state.get("curve")
        self.curve = None if text is None else curve_from_json(text)
        self._swept_at = self.curve.points[-1].step if self.curve else None
        self._swept = None

    def _measure(
        self, trainer: Any, pl_module: Any, batches: TrainerBatches, sparsities: Sequence[float]
    ) -> Curve:
        pruned = self._pruned(trainer, pl_module)
        measuring, attachment = self.finetuning.measuring, self.finetuning.attachment
        return measure(measuring, attachment, pruned, trainer, pl_module, batches, sparsities)

    def _take_in_fit(self, trainer: Any, pl_module: Any, epoch: int) -> None:
        self.take(trainer, pl_module, "val", *validation_data(trainer), epoch)
        self._swept_at, self._swept = trainer.global_step, fingerprint(pl_module)

    def _pruned(self, trainer: Any, pl_module: Any) -> Pruned | None:
        """What was pruned of this network; of those that a fit before pruned it may be none.

        Lightning tells no callback that it loads a file of weights alone, or has another model.
        """
        pruned = self.finetuning.network() or self.gradual.network()
        evaluates = trainer.state.fn != "fit"
        if pruned is not None and evaluates and not are_zero(pl_module, pruned.masks):
            return None
        return pruned

    def _write(self, trainer: Any, curve: Curve, newest: Curve, key: str) -> None:
        """All points to the files, and the newest to the loggers and the report."""
        assert self._paths is not None
        figure = write_results(curve, self.beside + newest, self._paths)
        log_curve(trainer.loggers, newest, figure, trainer.global_step, key)
        self.report = [str(newest + self.beside)]
        if self._paths:
            kinds = ",".join(path.suffix[1:] for path in self._paths)
            self.report.append(f"ewnprune: {self._paths[0].with_suffix('')}.{{{kinds}}}")
