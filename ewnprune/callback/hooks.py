"""The hooks of the callback, free of Lightning's classes so that both its namespaces can use them.

A timetable: what happens when, and nothing else. What is done is in the parts, each with its state.
"""

from collections.abc import Callable, Sequence
from functools import partial
from operator import attrgetter
from typing import Any, Literal

from torch import nn
from torchmetrics import Metric, MetricCollection

from ewnprune.callback.attachment import Attachment
from ewnprune.callback.averages import averaged_models
from ewnprune.callback.checkpoint import fold_checkpoint, restore_originals, stored
from ewnprune.callback.curves import Curves
from ewnprune.callback.finetune import Finetune
from ewnprune.callback.finetuning import Finetuning
from ewnprune.callback.gradual import Gradual
from ewnprune.callback.gradual_pruning import GradualPruning
from ewnprune.callback.loss_levels import Action, LossLevels
from ewnprune.callback.measuring import Measuring
from ewnprune.callback.module_hooks import go_along, once_built, take_off
from ewnprune.callback.refusals import (
    builds_layers_later,
    refuse_flattened,
    refuse_what_cannot_work,
)
from ewnprune.curve.curve import Curve
from ewnprune.model.batches import inputs_and_targets
from ewnprune.model.layers import LayerPatterns
from ewnprune.model.tracing import call
from ewnprune.pruning.budget import LevelOf
from ewnprune.pruning.ranking import SPARSITIES, Scope, check_sparsities
from ewnprune.pruning.score_names import SCORE
from ewnprune.training.parametrizations import NeuronParametrization


class PruningHooks:
    """Train with a parametrization, then prune at many levels and log accuracy against sparsity.

    The chosen layers are reparametrized before the optimizer is made and folded after the fit, so
    that the model comes back plain. Checkpoints hold plain weights under plain keys, and resume bit
    for bit with the callback. The curve is taken on validation data during ``fit`` (so that test
    data choose nothing) and ``validate``, and on test data in ``test``; it goes to every logger and
    to ``sparsity_curve.csv``, ``.json``, ``.png`` and ``.svg`` in the run's folder
    (``sparsity_curve_test.*`` for test data). The model and its training are not disturbed.

    Args:
        parametrization: ``EWN()``, ``SWN()``, or None for plain training, the baseline.
        sparsities: levels in [0, 1), the fraction of neurons to remove.
        scores: which neurons go first: functions of `ewnprune.scores` by name, or import paths.
        layers: globs over module names, or layer types; by default see `select_layers`.
        exclude: which of them to leave.
        scope: ``"layer"`` removes the same fraction of each layer, ``"global"`` the lowest scores
            of all layers; for others see `sparsity_curve`.
        every_n_epochs: take the curve every so many epochs too, to monitor ``prune/val/acc@0.9``.
        metric: any torchmetrics metric or collection, beside accuracy and loss.
        loss_fn: from outputs and targets to the loss, see `sparsity_curve`.
        batch: function from a batch to (inputs, targets); by default the batch is that pair.
        forward: from model and inputs to outputs; ``model(inputs)`` by default.
        loss_levels: levels of the training set's ``log L``, such as (-10, -100, -300). The model
            logs ``train/log_loss`` or ``train/loss`` per epoch.
        at_level: what to do at the end of the epoch that first passes a level: some of
            ``"sweep"``, ``"checkpoint"``, and ``"stop"`` (at the lowest level).
        weight_space: train the plain weights with `EWNSGD` or `SWNSGD`, which the model's
            ``configure_optimizers`` must make from its parameters, and attach nothing: the same
            training (SGD without momentum), faster.
        realize: ``"remove"`` measures bytes and latency of every smaller network too; slower.
        recalibrate: on how many training batches the statistics of BatchNorms are estimated anew
            for each pruned network; 0 leaves those of the whole one. The model keeps its own.
        finetune: prune at one level after the Trainer's ``max_epochs``, and train on; `Finetune`.
        level_of: what levels are fractions of: the ``"units"`` that can go, or the network's
            ``"parameters"`` or ``"macs"``, to compare at equal cost; of one-shot pruning only.
        max_per_layer: across layers, the fraction of a layer that goes at most.
        gradual: prune while training, ever more neurons by the first of the scores, see `Gradual`.
        inputs: prune features of the inputs in place of neurons, see `remove_neurons`.

    Raises:
        ValueError: levels, scores or numbers that do not fit; the same for the model in ``setup``.

    Attributes:
        curve: the points measured so far in this fit, those before it was resumed included; or by
            the last validate or test.
    """

    def __init__(
        self,
        parametrization: NeuronParametrization | None,
        sparsities: Sequence[float] = SPARSITIES,
        scores: Sequence[str] = (SCORE,),
        layers: LayerPatterns | None = None,
        exclude: LayerPatterns | None = None,
        scope: Scope = "layer",
        every_n_epochs: int | None = None,
        metric: Metric | MetricCollection | None = None,
        loss_fn: Callable[[Any, Any], Any] | None = None,
        batch: Callable[[Any], tuple[Any, Any]] | None = None,
        forward: Callable[[nn.Module, Any], Any] | None = None,
        loss_levels: Sequence[float] = (),
        at_level: Sequence[Action] = ("sweep",),
        weight_space: bool = False,
        realize: Literal["mask", "remove"] = "mask",
        recalibrate: int = 20,
        finetune: Finetune | None = None,
        level_of: LevelOf = "units",
        max_per_layer: float | None = None,
        gradual: Gradual | None = None,
        inputs: bool = False,
    ) -> None:
        self.attachment = Attachment(parametrization, weight_space, layers, exclude)
        self.measuring = Measuring(
            sparsities=check_sparsities(sparsities),
            scores=scores,
            layers=layers,
            exclude=exclude,
            scope=scope,
            metric=metric,
            loss_fn=loss_fn,
            batch=inputs_and_targets if batch is None else batch,
            forward=call if forward is None else forward,
            realize=realize,
            recalibrate=recalibrate,
            level_of=level_of,
            max_per_layer=max_per_layer,
            inputs=inputs,
        )
        self.loss_levels = LossLevels(loss_levels, at_level)
        self.finetuning = Finetuning(finetune, self.measuring, self.attachment)
        self.gradual = GradualPruning(gradual, self.measuring, self.attachment, finetune)
        self.curves = Curves(self.finetuning, self.gradual, every_n_epochs)

    def setup(self, trainer: Any, pl_module: Any, stage: str) -> None:
        """Attach: before the optimizer, DDP and a checkpoint's weights."""
        if stage != "predict":  # which measures nothing
            refuse_flattened(trainer)
            self.curves.reset()
        self.loss_levels.passed = []
        if stage != "fit":
            return  # checkpoints are plain, so evaluation needs nothing attached
        later = builds_layers_later(pl_module)
        refuse_what_cannot_work(self, trainer, later)
        self.finetuning.reset(trainer, pl_module)
        self.gradual.reset(trainer, pl_module)
        if later:
            once_built(pl_module, partial(self._attach, trainer))
        else:
            self._attach(trainer, pl_module)

    def _attach(self, trainer: Any, pl_module: Any) -> None:
        selection = self.attachment.attach(pl_module)
        if trainer.is_global_zero:
            print(f"ewnprune: layers under {self.method}\n{selection}", flush=True)

        def saved(module: Any, checkpoint: dict[str, Any]) -> None:
            parts = self.attachment, self.loss_levels, self.curves, self.finetuning, self.gradual
            stores = {key: value for part in parts for key, value in part.state_dict().items()}
            fold_checkpoint(module, checkpoint, stores)

        def epoch_ended(module: Any) -> None:
            trainer = module.trainer  # another, where this fit was cut off
            if self in trainer.callbacks:  # finders of a rate or batch size set them aside
                self._end_epoch(trainer, module)

        go_along(pl_module, saved, epoch_ended)

    def on_fit_start(self, trainer: Any, pl_module: Any) -> None:
        """Check the optimizers, which are made by now; go on with pruning that was resumed."""
        self.attachment.check_optimizers(pl_module, trainer.optimizers)
        self.finetuning.resume(trainer, pl_module)
        self.gradual.resume(trainer, pl_module)

    def on_train_start(self, trainer: Any, pl_module: Any) -> None:
        """Rehearse all that is done at the end, on one batch."""
        self.curves.rehearse(trainer, pl_module)
        self.finetuning.rehearse(trainer, pl_module)
        self.gradual.begin(trainer)

    def on_train_epoch_start(self, trainer: Any, pl_module: Any) -> None:
        """After the ordinary epochs: the curve of the trained network, then prune it."""
        if self.finetuning.due(trainer):
            self.curves.take_last(trainer, pl_module)
            self.finetuning.begin(trainer, pl_module)

    def on_train_batch_start(self, trainer: Any, pl_module: Any, batch: Any, *_: Any) -> None:
        """Prune a little more, or have the pruned network learn from the one before."""
        self.finetuning.before_batch(trainer, pl_module, batch)
        self.gradual.before_batch(trainer, pl_module, batch)

    def _end_epoch(self, trainer: Any, pl_module: Any) -> None:
        """Log the norms; take the curve when it is the time."""
        self.attachment.log_norms(trainer, pl_module)
        passed = self.loss_levels.end_epoch(trainer)
        if passed or self.curves.due(trainer):
            self.curves.take_in_training(trainer, pl_module)
        self.finetuning.end_epoch(trainer)

    def on_fit_end(self, trainer: Any, pl_module: Any) -> None:
        """The curve of the trained network: what others put in at the end of training is in."""
        self.curves.take_last(trainer, pl_module)

    def on_exception(self, trainer: Any, pl_module: Any, exception: BaseException) -> None:
        """Leave the Trainer as it was; the model stays attached, as a checkpoint wants it."""
        self.finetuning.end(trainer, cut_off=True)
        self.gradual.end()
        take_off(pl_module)

    def teardown(self, trainer: Any, pl_module: Any, stage: str) -> None:
        """Fold, before ``ddp_spawn`` sends weights home and after the checkpoints; tell all."""
        if stage == "fit":
            # once more where another callback, or the module, put weights in when the fit ended
            self.curves.take_last(trainer, pl_module)
            if self.curves.trained:
                self.curves.report += self.finetuning.why_not(trainer) + self.gradual.told(trainer)
            self.finetuning.end(trainer)
            self.gradual.end()
            vars(pl_module).pop("on_train_epoch_end", None)
            if self.attachment.detach(pl_module, averaged_models(trainer)):
                vars(pl_module).pop("on_save_checkpoint", None)
        if trainer.is_global_zero and self.curves.report:
            # not earlier: a progress bar is open until the end of training
            print("\n".join(self.curves.report), flush=True)
        self.curves.report = []

    def on_validation_end(self, trainer: Any, pl_module: Any) -> None:
        """The curve on validation data, when the Trainer was asked to validate only."""
        if trainer.state.fn == "validate":
            self.curves.take_in_evaluation(trainer, pl_module, "val")

    def on_test_end(self, trainer: Any, pl_module: Any) -> None:
        """The curve on test data."""
        self.curves.take_in_evaluation(trainer, pl_module, "test")

    def on_load_checkpoint(self, trainer: Any, pl_module: Any, checkpoint: dict[str, Any]) -> None:
        """Write the originals back, so that a resumed run goes on bit for bit."""
        state = stored(checkpoint)
        for part in (self.attachment, self.loss_levels, self.finetuning, self.gradual):
            part.load_state_dict(state)
        if trainer.state.fn == "fit":
            self.finetuning.go_on(trainer, checkpoint)
            self.gradual.go_on()
            restore_originals(pl_module, checkpoint)
            self.curves.load_state_dict(state)

    # --- the options and the result, by the names they have for users ----------------------

    parametrization = property(attrgetter("attachment.parametrization"))
    method = property(attrgetter("attachment.method"))
    layers = property(attrgetter("attachment.layers"))
    exclude = property(attrgetter("attachment.exclude"))
    sparsities = property(attrgetter("measuring.sparsities"))
    scores = property(attrgetter("measuring.scores"))
    scope = property(attrgetter("measuring.scope"))
    max_per_layer = property(attrgetter("measuring.max_per_layer"))
    batch = property(attrgetter("measuring.batch"))
    realize = property(attrgetter("measuring.realize"))
    curve: Curve | None = property(attrgetter("curves.curve"))  # type: ignore[assignment]
