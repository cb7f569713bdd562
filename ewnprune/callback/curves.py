"""What of the callback measures: curves in fit, validate and test, to files and loggers."""

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, Literal

from torch import Tensor
from torch.utils._pytree import tree_leaves
from torchmetrics import Metric, MetricCollection

from ewnprune.callback.batches import TrainerBatches, global_seed
from ewnprune.callback.loggers import log_curve, log_norms
from ewnprune.callback.loss_levels import LossLevels, logged_log_loss
from ewnprune.callback.refusals import averaging_callbacks
from ewnprune.callback.run_files import choose_paths, write_results
from ewnprune.curve.curve import Curve
from ewnprune.curve.sweep import sparsity_curve
from ewnprune.model.layers import LayerPatterns, select_layers
from ewnprune.model.sharding import gathered, whole
from ewnprune.pruning.notes import Note
from ewnprune.pruning.ranking import Scope
from ewnprune.pruning.score_names import Score
from ewnprune.training.norms import neuron_norms, norm_statistics


class CurveHooks:
    """What `PruningHooks` does to take curves, with the options and the state that this needs."""

    sparsities: tuple[float, ...]
    scores: Sequence[str]
    layers: LayerPatterns | None
    exclude: LayerPatterns | None
    scope: Scope
    metric: Metric | MetricCollection | None
    batch: Callable[[Any], tuple[Any, Any]]
    realize: Literal["mask", "remove"]
    every_n_epochs: int | None
    loss_levels: LossLevels
    curve: Curve | None
    _initial_norms: Mapping[str, Tensor]
    _paths: list[Path] | None
    _swept_at: int | None
    _report: list[str]

    @property
    def method(self) -> str:
        """Name of the method."""
        raise NotImplementedError

    @property
    def series_name(self) -> str:
        """Name of what is measured now."""
        raise NotImplementedError

    def shown_with(self, curve: Curve) -> Curve:
        """A new curve with those that it is to be compared with."""
        raise NotImplementedError

    def on_train_start(self, trainer: Any, pl_module: Any) -> None:
        """Rehearse on one batch: what does not fit is an error now, not after the training."""
        loaders = trainer.val_dataloaders
        flat = tree_leaves(loaders) if loaders is not None else []  # a stream has no truth value
        if flat and trainer.num_val_batches[0]:
            extremes = sorted({self.sparsities[0], self.sparsities[-1]})
            first = TrainerBatches(trainer, flat[0], 1)
            self._measure(trainer, pl_module, first, extremes, self.scores)

    def _end_epoch(self, trainer: Any, pl_module: Any) -> None:
        """Log the norms; take the curve when it is the time."""
        layers = select_layers(pl_module, self.layers, self.exclude).chosen
        norms = {name: whole(neuron_norms(layer)) for name, layer in layers.items()}
        statistics = {name: norm_statistics(values) for name, values in norms.items()}
        pl_module.log_dict(
            {f"norms/{name}/{key}": v for name, row in statistics.items() for key, v in row.items()}
        )
        if trainer.is_global_zero:
            log_norms(trainer.loggers, norms, trainer.global_step)
        passed = self._pass_loss_levels(trainer) if self.loss_levels.levels else []
        if "checkpoint" in self.loss_levels.actions:
            for level in passed:
                folder = Path(trainer.log_dir or trainer.default_root_dir) / "checkpoints"
                trainer.save_checkpoint(folder / f"log_loss_{level:g}.ckpt")
        due = self.every_n_epochs and (trainer.current_epoch + 1) % self.every_n_epochs == 0
        if due or (passed and "sweep" in self.loss_levels.actions):
            self._sweep_in_fit(trainer, pl_module, trainer.current_epoch)

    def _pass_loss_levels(self, trainer: Any) -> list[float]:
        log_loss = logged_log_loss(trainer.callback_metrics)
        # one process decides for all, or they would wait for each other
        passed = self.loss_levels.pass_(trainer.strategy.broadcast(log_loss))
        if passed and trainer.is_global_zero:
            levels = ", ".join(f"{level:g}" for level in passed)
            print(
                f"ewnprune: log L = {log_loss:.4g} passed {levels} in epoch "
                f"{trainer.current_epoch}",
                flush=True,
            )
        if self.loss_levels.done():
            trainer.should_stop = True
        return passed

    def _end_training(self, trainer: Any, pl_module: Any) -> None:
        """The curve of the trained network, on validation data."""
        if self._swept_at == trainer.global_step:  # every_n_epochs ended on the last epoch
            if not averaging_callbacks(trainer):
                return
            # that was of the weights before they were averaged
            assert self.curve is not None
            kept = [point for point in self.curve if point.step != trainer.global_step]
            self.curve = Curve(tuple(kept), self.curve.notes)
        self._sweep_in_fit(trainer, pl_module, trainer.current_epoch - 1)

    def on_validation_end(self, trainer: Any, pl_module: Any) -> None:
        """The curve on validation data, when the Trainer was asked to validate only."""
        if trainer.state.fn == "validate":
            self._sweep(trainer, pl_module, "val", trainer.val_dataloaders, trainer.num_val_batches)

    def on_test_end(self, trainer: Any, pl_module: Any) -> None:
        """The curve on test data."""
        self._sweep(trainer, pl_module, "test", trainer.test_dataloaders, trainer.num_test_batches)

    def _sweep_in_fit(self, trainer: Any, pl_module: Any, epoch: int) -> None:
        loaders, limits = trainer.val_dataloaders, trainer.num_val_batches
        self._sweep(trainer, pl_module, "val", loaders, limits, epoch)
        self._swept_at = trainer.global_step

    def _sweep(
        self,
        trainer: Any,
        pl_module: Any,
        split: str,
        loaders: Any,
        limits: Any,
        epoch: int | None = None,
    ) -> None:
        flat = tree_leaves(loaders) if loaders is not None else []
        if not flat or not limits[0]:
            kind = "validation" if split == "val" else split
            self._report = [f"ewnprune: no {kind} data, so no curve"]
            return
        batches = TrainerBatches(trainer, flat[0], limits[0])
        curve = self._measure(trainer, pl_module, batches, self.sparsities, self.scores)
        curve = curve.tagged(split=split, epoch=epoch, step=trainer.global_step)
        averaging = averaging_callbacks(trainer)
        if averaging and epoch == trainer.current_epoch:  # it is over when training has ended
            note = f"epoch {epoch}: before {averaging[0]} has put in the averaged weights"
            curve = Curve(curve.points, (*curve.notes, Note("run", note)))
        if len(flat) > 1:
            note = f"measured on the first of {len(flat)} {split} data loaders"
            curve = Curve(curve.points, (*curve.notes, Note("run", note)))
        self.curve = curve if self.curve is None else self.curve + curve
        if self._paths is None:
            self._paths = choose_paths(trainer, split)
        if trainer.is_global_zero:
            shown = self.shown_with(curve)
            figure = write_results(self.curve, shown, self._paths)
            key = "prune" if self.series_name == self.method else "prune_finetuned"
            log_curve(trainer.loggers, curve, figure, trainer.global_step, key)
            self._report = [str(shown)]
            if self._paths:
                kinds = ",".join(path.suffix[1:] for path in self._paths)
                self._report.append(f"ewnprune: {self._paths[0].with_suffix('')}.{{{kinds}}}")

    def _measure(
        self,
        trainer: Any,
        pl_module: Any,
        batches: TrainerBatches,
        sparsities: Sequence[float],
        scores: Sequence[str | Score],
    ) -> Curve:
        with trainer.precision_plugin.forward_context(), gathered(pl_module):
            return sparsity_curve(
                pl_module,
                batches,
                sparsities,
                scores,
                metric=self.metric,
                batch=self.batch,
                layers=self.layers,
                exclude=self.exclude,
                scope=self.scope,
                initial_norms=self._initial_norms,
                device=pl_module.device,
                method=self.series_name,
                seed=global_seed(),
                realize=self.realize,
            )
