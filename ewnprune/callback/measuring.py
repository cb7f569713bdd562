"""What is measured of a Trainer's network, and how: all that is asked of `ewnprune.curve`."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

from torch import Tensor
from torchmetrics import Metric, MetricCollection

from ewnprune.callback.batches import TrainerBatches, global_seed, training_batches
from ewnprune.callback.holding import pruning_masks
from ewnprune.callback.weights import with_buffers_of_one
from ewnprune.curve.built import Realize
from ewnprune.curve.by_data import facts_by_data
from ewnprune.curve.curve import Curve
from ewnprune.curve.measures import Loss
from ewnprune.curve.sweep import sparsity_curve
from ewnprune.errors import check_choice
from ewnprune.model.layers import LayerPatterns
from ewnprune.model.preserve import evaluating
from ewnprune.model.sharding import gathered
from ewnprune.model.tensors import clone
from ewnprune.model.tracing import Forward
from ewnprune.pruning.budget import LevelOf
from ewnprune.pruning.choice import Choice
from ewnprune.pruning.notes import Note
from ewnprune.pruning.ranking import Scope, check_scope
from ewnprune.pruning.recalibration import training_inputs, with_statistics
from ewnprune.pruning.score_names import Score, asked_of_data, find_scores

_MISFITS = (TypeError, LookupError, AttributeError, NotImplementedError)


@dataclass
class Measuring:
    """The options of `sparsity_curve` that hold for a whole run; `PruningHooks` describes them.

    Raises:
        ValueError: an unknown score or scope, a ``realize`` that is none, no function, or a
            ``recalibrate`` that is no number of batches.
    """

    sparsities: tuple[float, ...]
    scores: Sequence[str]
    layers: LayerPatterns | None
    exclude: LayerPatterns | None
    scope: Scope
    metric: Metric | MetricCollection | None
    loss_fn: Loss | None
    batch: Callable[[Any], tuple[Any, Any]]
    forward: Forward
    realize: Literal["mask", "remove"]
    recalibrate: int
    level_of: LevelOf = "units"
    max_per_layer: float | None = None
    inputs: bool = False
    per_layer: bool = False  # for an evaluation; the command sets it

    def __post_init__(self) -> None:
        check_scope(self.scope, self.max_per_layer)
        find_scores(self.scores)  # an unknown one is an error now, not after the training
        check_choice("realize", self.realize, Realize)
        Choice(inputs=self.inputs)
        if type(self.recalibrate) is not int or self.recalibrate < 0:
            raise ValueError(
                f"recalibrate={self.recalibrate!r}: expected a number of training batches, or 0 "
                "to leave the statistics of BatchNorms as they are"
            )
        check_choice("level_of", self.level_of, LevelOf)
        for name in ("loss_fn", "batch", "forward"):
            function = getattr(self, name)
            if not callable(function) and (function is not None or name != "loss_fn"):
                raise ValueError(f"{name}={function!r}: expected a function")

    @property
    def first_score(self) -> Any:
        """The score that decides where only one does."""
        alone = isinstance(self.scores, str) or callable(self.scores)
        return self.scores if alone else self.scores[0]

    def choice(self, initial_norms: Mapping[str, Tensor], **by_data: Any) -> Choice:
        """What is pruned and how, with what is asked of data beside."""
        return Choice(
            self.layers,
            self.exclude,
            self.scope,
            inputs=self.inputs,
            initial_norms=initial_norms,
            seed=global_seed(),
            max_per_layer=self.max_per_layer,
            **by_data,
        )

    def curve(
        self,
        trainer: Any,
        pl_module: Any,
        batches: TrainerBatches,
        sparsities: Sequence[float],
        scores: Sequence[str | Score],
        method: str,
        initial_norms: Mapping[str, Tensor],
    ) -> Curve:
        """The curve of the network as it is now, the way the Trainer itself evaluates it."""
        training = self._training(trainer, pl_module)
        why_not = training if isinstance(training, str) else ""
        with (
            trainer.precision_plugin.forward_context(),
            gathered(pl_module),
            with_buffers_of_one(trainer, pl_module),
        ):
            by_data = self._from_data(trainer, pl_module, batches, scores, initial_norms)
            curve = sparsity_curve(
                pl_module,
                batches,
                sparsities,
                scores,
                metric=self.metric,
                loss_fn=self.loss_fn,
                batch=self.batch,
                forward=self.forward,
                layers=self.layers,
                exclude=self.exclude,
                scope=self.scope,
                max_per_layer=self.max_per_layer,
                initial_norms=initial_norms,
                device=pl_module.device,
                method=method,
                seed=global_seed(),
                realize=self.realize,
                recalibrate=None if why_not else training,
                level_of=self.level_of,
                inputs=self.inputs,
                per_layer=self.per_layer,
                **by_data,
            )
        if why_not and with_statistics(pl_module):
            text = f"running statistics of BatchNorms are those of the whole network: {why_not}"
            curve = Curve(curve.points, (*curve.notes, Note("statistics", text)))
        elif getattr(training, "of", 1) > 1:
            text = f"training batches are of the first of {training.of} training data loaders"
            curve = Curve(curve.points, (*curve.notes, Note("statistics", text)))
        return curve

    def _training(self, trainer: Any, pl_module: Any) -> Any:
        """Training batches to estimate on, the reason why there are none, or None: not needed."""
        if self.recalibrate and (self.inputs or with_statistics(pl_module)):
            return training_batches(trainer, pl_module, self.recalibrate)
        return None

    def masks(
        self,
        trainer: Any,
        pl_module: Any,
        batches: TrainerBatches,
        sparsity: float,
        score: str | Score,
        initial_norms: Mapping[str, Tensor],
    ) -> dict[str, Tensor]:
        """What goes at one level by one score, in all processes; see `pruning_masks`."""
        calibration: list[Any] = []
        training = self._training(trainer, pl_module) if self.inputs else None
        if training is not None and not isinstance(training, str):
            calibration = training_inputs(pl_module, training, self.batch)
        # fetching a batch draws random numbers, which training must not notice
        with (
            with_buffers_of_one(trainer, pl_module),
            evaluating(pl_module, batches),
            trainer.precision_plugin.forward_context(),
        ):
            by_data = self._from_data(trainer, pl_module, batches, [score], initial_norms)
            inputs, _ = self.batch(next(iter(batches)))
            masks = pruning_masks(
                pl_module,
                sparsity,
                inputs,
                score=score,
                choice=self.choice(initial_norms, **by_data),
                forward=self.forward,
                calibration=calibration,
            )
        found: dict[str, Tensor] = {name: keep.cpu() for name, keep in masks.items()}
        # one process decides for all: a score of the user's may draw numbers of its own
        found = trainer.strategy.broadcast(found)
        return found

    def _from_data(
        self,
        trainer: Any,
        pl_module: Any,
        batches: TrainerBatches,
        scores: Any,
        initial_norms: Mapping[str, Tensor],
    ) -> dict[str, Any]:
        """What scores and the scope go by that go by data: that of the validation data.

        Raises:
            ValueError: these are test data, by which nothing may be chosen.
        """
        scope = "layer" if self.per_layer else self.scope
        wanted = asked_of_data(find_scores(scores), scope)
        if wanted and trainer.testing:
            raise ValueError(
                f"{wanted[0]} goes by data, which test data must not be: take the curve on "
                "validation data, or give sparsity_curve what it wants in Python"
            )
        how = {
            "loss_fn": self.loss_fn,
            "batch": self.batch,
            "forward": self.forward,
            "device": pl_module.device,
        }
        options = {
            "layers": self.layers,
            "exclude": self.exclude,
            "inputs": self.inputs,
            "initial_norms": initial_norms,
            "seed": global_seed(),
        }
        return facts_by_data(pl_module, batches, scores, scope, self.sparsities, how, options)

    def check_call(self, trainer: Any, pl_module: Any, batches: TrainerBatches) -> None:
        """Call the model once, as a curve does.

        Raises:
            ValueError: that is not how it is called; the message names the argument that helps.
        """
        with (
            evaluating(pl_module, batches),
            trainer.precision_plugin.forward_context(),
            gathered(pl_module),
        ):
            for batch in batches:
                inputs, _ = self.batch(batch)
                try:
                    self.forward(pl_module, clone(inputs))
                except _MISFITS as error:
                    reason = str(error).strip().partition("\n")[0]
                    raise ValueError(
                        f"{type(pl_module).__name__} cannot be called on the inputs of a batch "
                        f"({type(error).__name__}: {reason}): give WeightNormPruning forward=, a "
                        "function from model and inputs to outputs, and batch= where the inputs "
                        "are not the first of a pair"
                    ) from error
                return
