"""The hooks of the callback, free of Lightning's classes so that both its namespaces can use them.

When each hook runs, and why it is the right one: attaching happens in ``setup``, before the
optimizer, DDP and a checkpoint's weights; a model that makes layers in its own ``setup`` or in
``configure_model`` is reached right after that. Folding happens in ``teardown``, which is early
enough for ``ddp_spawn`` to send plain weights home and late enough not to touch the checkpoints of
the run.
"""

from collections.abc import Callable, Sequence
from types import MethodType
from typing import Any, Literal

from torch import Tensor
from torchmetrics import Metric, MetricCollection

from ewnprune.callback.checkpoint import (
    curve_so_far,
    fold_checkpoint,
    initial_norms,
    passed_levels,
    restore_originals,
    stored_finetuning,
)
from ewnprune.callback.finetuning import FinetuneHooks
from ewnprune.callback.loss_levels import Action, LossLevels
from ewnprune.callback.refusals import (
    builds_layers_later,
    refuse_finetuning,
    refuse_unheld,
    refuse_what_cannot_work,
)
from ewnprune.curve.built import check_realize
from ewnprune.curve.sweep import inputs_and_targets
from ewnprune.model.layers import LayerPatterns, select_layers
from ewnprune.model.sharding import is_sharded, whole
from ewnprune.pruning.ranking import SPARSITIES, Scope, check_sparsities
from ewnprune.pruning.score_names import find_scores
from ewnprune.training.attach import attached_parametrizations, fold, reparametrize
from ewnprune.training.norms import neuron_norms
from ewnprune.training.parametrizations import NeuronParametrization
from ewnprune.training.weight_space import hand_out_neuron_groups


class PruningHooks(FinetuneHooks):
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
        layers: globs over module names, or layer types; by default every Linear and convolution
            but the last one.
        exclude: which of them to leave.
        scope: ``"layer"`` removes the same fraction of each layer, ``"global"`` the lowest scores
            of all layers.
        every_n_epochs: take the curve every so many epochs too, not at the end only.
        metric: any torchmetrics metric or collection, beside accuracy and loss.
        batch: function from a batch to (inputs, targets); by default the batch is that pair.
        loss_levels: levels of the training set's ``log L``, such as (-10, -100, -300). The model
            logs ``train/log_loss`` or ``train/loss`` per epoch.
        at_level: what to do at the end of the epoch that first passes a level: some of
            ``"sweep"``, ``"checkpoint"``, and ``"stop"`` (at the lowest level).
        weight_space: train the plain weights with `EWNSGD` or `SWNSGD`, which the model's
            ``configure_optimizers`` must make from ``self.parameters()``, and attach nothing: the
            same training (SGD without momentum), faster.
        realize: ``"remove"`` builds the smaller network of every level and measures its bytes and
            latency too, see `sparsity_curve`; slower.
        finetune_epochs: train so many epochs more, after the Trainer's ``max_epochs`` and the curve
            of the trained network, with the network pruned at one level; what was pruned stays
            zero. ``configure_optimizers`` is called again for them and sees them as
            ``max_epochs``: optimizer state and learning-rate schedule start anew. The curve of the
            finetuned network stands beside the first, as ``"EWN, finetuned at 0.9"``. A fit that
            is stopped before ``max_epochs`` is not finetuned.
        finetune_sparsity: the level, in (0, 1).
        finetune_score: by which score; the first of ``scores`` by default.

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
        scores: Sequence[str] = ("norm",),
        layers: LayerPatterns | None = None,
        exclude: LayerPatterns | None = None,
        scope: Scope = "layer",
        every_n_epochs: int | None = None,
        metric: Metric | MetricCollection | None = None,
        batch: Callable[[Any], tuple[Any, Any]] | None = None,
        loss_levels: Sequence[float] = (),
        at_level: Sequence[Action] = ("sweep",),
        weight_space: bool = False,
        realize: Literal["mask", "remove"] = "mask",
        finetune_epochs: int = 0,
        finetune_sparsity: float = 0.9,
        finetune_score: str | None = None,
    ) -> None:
        if not (every_n_epochs is None or (isinstance(every_n_epochs, int) and every_n_epochs > 0)):
            raise ValueError(
                f"every_n_epochs={every_n_epochs}: expected a number of epochs >= 1, or None for "
                "the end of training only"
            )
        if scope not in ("layer", "global"):
            raise ValueError(f"scope={scope!r}: expected 'layer' or 'global'")
        find_scores(scores)  # an unknown one is an error now, not after the training
        self.parametrization = parametrization
        self.sparsities = check_sparsities(sparsities)
        self.scores = scores
        self.layers, self.exclude, self.scope = layers, exclude, scope
        self.every_n_epochs, self.metric = every_n_epochs, metric
        self.batch = batch or inputs_and_targets
        self.loss_levels = LossLevels(loss_levels, at_level)
        self.weight_space = weight_space
        check_realize(realize)  # another is an error now
        self.realize = realize
        if not isinstance(finetune_epochs, int) or finetune_epochs < 0:
            raise ValueError(f"finetune_epochs={finetune_epochs}: expected a number of epochs >= 0")
        if not (isinstance(finetune_sparsity, int | float) and 0 < finetune_sparsity < 1):
            raise ValueError(
                f"finetune_sparsity={finetune_sparsity}: expected a fraction in (0, 1), such as 0.9"
            )
        self.finetune_epochs, self.finetune_sparsity = finetune_epochs, float(finetune_sparsity)
        several = (
            scores if isinstance(scores, Sequence) and not isinstance(scores, str) else [scores]
        )
        self.finetune_score = several[0] if finetune_score is None else finetune_score
        find_scores(self.finetune_score)
        self.curve = None
        self._initial_norms: dict[str, Tensor] = {}
        self._paths = self._swept_at = None
        self._report = []

    @property
    def method(self) -> str:
        """Name of the method: ``"plain"``, or the parametrization's class."""
        return "plain" if self.parametrization is None else type(self.parametrization).__name__

    # --- attaching -------------------------------------------------------------------------

    def setup(self, trainer: Any, pl_module: Any, stage: str) -> None:
        """Attach, or arrange to attach as soon as the model has its layers."""
        self.curve, self._paths, self._swept_at, self._report = None, None, None, []
        self.loss_levels.passed = []
        if stage != "fit":
            return  # checkpoints are plain, so evaluation needs nothing attached
        later = builds_layers_later(pl_module)
        refuse_what_cannot_work(self, trainer, later)
        if self.finetune_epochs:
            refuse_finetuning(trainer, pl_module)
        self._ordinary_epochs, self._epochs_done = trainer.max_epochs, 0
        self._finetuning = None
        if not later:
            self._attach(trainer, pl_module)
            return

        def configure_model(module: Any) -> None:
            del module.configure_model  # this wrapper, so that the class's own shows again
            module.configure_model()
            self._attach(trainer, module)

        pl_module.configure_model = MethodType(configure_model, pl_module)

    def _attach(self, trainer: Any, pl_module: Any) -> None:
        # present already: by the user, before sharding; or left by a fit that was interrupted
        present = {type(p) for p in attached_parametrizations(pl_module).values()}
        if present - ({type(self.parametrization)} if not self.weight_space else set()):
            raise ValueError(
                f"the model has {', '.join(sorted(kind.__name__ for kind in present))} on layers "
                f"already and this fit is {self.method}: call ewnprune.fold(model) first"
            )
        if self.parametrization is None or self.weight_space or present:
            selection = select_layers(pl_module, self.layers, self.exclude)
        else:
            selection = reparametrize(pl_module, self.parametrization, self.layers, self.exclude)
        if self.weight_space:
            hand_out_neuron_groups(pl_module, self.parametrization, self.layers, self.exclude)
        norms = {name: whole(neuron_norms(layer)) for name, layer in selection.chosen.items()}
        norms = {name: values.cpu() for name, values in norms.items()}
        self._initial_norms = norms

        def on_save_checkpoint(module: Any, checkpoint: dict[str, Any]) -> None:
            type(module).on_save_checkpoint(module, checkpoint)
            passed = self.loss_levels.passed
            fold_checkpoint(
                module, checkpoint, self._initial_norms, passed, self.curve, self._finetuning
            )

        def on_train_epoch_end(module: Any) -> None:
            type(module).on_train_epoch_end(module)
            if self in trainer.callbacks:  # finders of a rate or batch size set them aside
                self._end_epoch(trainer, module)

        def on_train_end(module: Any) -> None:
            type(module).on_train_end(module)
            if self in trainer.callbacks:
                self._end_training(trainer, module)
                self._say_if_not_finetuned(trainer)

        # The module's hooks and not the callback's: save_weights_only leaves those out, they come
        # before the module has logged its epoch, and before others have put in averaged weights.
        pl_module.on_save_checkpoint = MethodType(on_save_checkpoint, pl_module)
        pl_module.on_train_epoch_end = MethodType(on_train_epoch_end, pl_module)
        pl_module.on_train_end = MethodType(on_train_end, pl_module)
        if trainer.is_global_zero:
            print(f"ewnprune: layers under {self.method}\n{selection}", flush=True)

    def on_fit_start(self, trainer: Any, pl_module: Any) -> None:
        """Check that the optimizers hold what was attached."""
        refuse_unheld(pl_module, trainer.optimizers)
        super().on_fit_start(trainer, pl_module)

    def teardown(self, trainer: Any, pl_module: Any, stage: str) -> None:
        """Fold, and say what was found and written."""
        if stage == "fit":
            self._end_finetuning(trainer)
            hooks = ["on_train_epoch_end", "on_train_end", "configure_optimizers"]
            if not is_sharded(pl_module):  # or it stays attached; its checkpoints can be folded
                fold(pl_module)
                hooks.append("on_save_checkpoint")
            for hook in hooks:
                vars(pl_module).pop(hook, None)
        if trainer.is_global_zero and self._report:
            # not earlier: a progress bar is open until the end of training
            print("\n".join(self._report), flush=True)
        self._report = []

    # --- checkpoints -----------------------------------------------------------------------

    def on_load_checkpoint(self, trainer: Any, pl_module: Any, checkpoint: dict[str, Any]) -> None:
        """Write the originals back, so that a resumed run goes on bit for bit."""
        self._initial_norms = initial_norms(checkpoint)
        self.loss_levels.passed = passed_levels(checkpoint)
        self._finetuning = stored_finetuning(checkpoint)
        if trainer.state.fn == "fit":
            self._expect_finetuning(trainer, checkpoint)
            restore_originals(pl_module, checkpoint)
            self.curve = curve_so_far(checkpoint)
            self._swept_at = self.curve.points[-1].step if self.curve else None
