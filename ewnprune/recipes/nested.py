"""Train the small networks inside the large one: `NestedTraining`, an option of the recipe."""

from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any, Literal

import numpy as np
import torch
from pytorch_lightning import Callback, LightningModule, Trainer
from torch import Tensor
from torch.utils.hooks import RemovableHandle

from ewnprune.callback.batches import global_seed
from ewnprune.callback.compiled import forget_compiled
from ewnprune.callback.distillation import Distillation, Distilling, where_to_distill
from ewnprune.callback.training_step import TrainingStep
from ewnprune.model.batches import inputs_and_targets
from ewnprune.model.copying import plain_network
from ewnprune.model.layers import LayerPatterns
from ewnprune.model.normalization import as_scales_and_shifts
from ewnprune.model.preserve import evaluating
from ewnprune.model.recurrent import is_recurrent
from ewnprune.model.tensors import map_tensors, tensors_in
from ewnprune.model.tracing import call
from ewnprune.pruning.choice import Choice
from ewnprune.pruning.found import Found
from ewnprune.pruning.groups import Group
from ewnprune.pruning.neurons import rank_groups
from ewnprune.pruning.ranking import check_sparsities
from ewnprune.pruning.score_names import SCORE, find_scores
from ewnprune.pruning.seen import Facts
from ewnprune.recipes.level_statistics import Order, batch_norms_behind, normalize_apart
from ewnprune.recipes.silencing import Silencing


class NestedTraining(Callback):
    """Let a share of each batch see the network pruned, as it stands at that step.

    With ``f_s`` the network without the fraction ``s`` of each layer's neurons that scores lowest,
    the loss ``E L(f_0)`` becomes ``(1 - share) E L(f_0) + share * mean_s E L(f_s)``: each image
    draws its network. Neurons that rank high learn to do without the others, which learn
    corrections. It is nested dropout (Rippel, Gelbart & Adams, https://arxiv.org/abs/1402.0915) at
    a few levels, in the order of a score and not of the index.

    Neurons are silenced where they are read, as in `sparsity_curve`; validation and test see the
    whole network. Draws follow the seed, the epoch and the number of the batch. A BatchNorm behind
    silenced neurons normalizes the images of each network by themselves, as slimmable networks do
    (Yu et al., https://arxiv.org/abs/1812.08928), and its running statistics are those of the whole
    network; `sparsity_curve` estimates those of the pruned ones.

    Args:
        share: of the images, in [0, 1]. With ``"every"`` none draws: each image sees the whole
            network and every level, all of one weight, in a batch as many times as large, of which
            are the losses and metrics that a step logs. Slimmable networks train so.
        sparsities: levels ``s`` to draw from evenly, in [0, 1).
        score: which neurons go first, see `ewnprune.scores`.
        layers: which layers, see `select_layers`; by default all but the last.
        exclude: which of them to leave.
        batch: function from a batch to (inputs, targets); by default the batch is that pair.
        forward: from model and inputs to outputs; ``model(inputs)`` by default.
        distill: have images that see a pruned network learn the whole one's outputs too, see
            https://arxiv.org/abs/1903.05134: these go forward once more, in eval mode.
        inner_gradient: by what the gradient of ``L(f_s)`` is multiplied for a neuron and its
            outgoing weights, in [0, 1], once for each smaller network that holds the neuron too.
            With 1 it is the gradient of the loss, else of none; with 0 a neuron learns from the
            smallest network that holds it alone, and those on top of it learn corrections.

    Raises:
        ValueError: a number out of range, an unknown score; in the first step, a score that gives
            no number per neuron.
    """

    def __init__(
        self,
        share: float | Literal["every"],
        sparsities: Sequence[float] = (0.9, 0.95, 0.98),
        score: str = SCORE,
        layers: LayerPatterns | None = None,
        exclude: LayerPatterns | None = None,
        batch: Callable[[Any], tuple[Any, Any]] | None = None,
        forward: Callable[[torch.nn.Module, Any], Any] | None = None,
        distill: Distillation | None = None,
        inner_gradient: float = 1.0,
    ) -> None:
        if share != "every" and not (isinstance(share, int | float) and 0 <= share <= 1):
            raise ValueError(
                f"share={share!r}: expected a fraction of the images in [0, 1], or 'every'"
            )
        if not 0 <= inner_gradient <= 1:
            raise ValueError(f"inner_gradient={inner_gradient}: expected a fraction in [0, 1]")
        if share == "every" and distill is not None:
            raise ValueError(
                "distill= is for images that draw their network: expected a share in [0, 1]"
            )
        find_scores(score)  # an unknown one is an error now, not at the first step
        self.share, self.score, self.inner_gradient = share, score, inner_gradient
        self.sparsities = check_sparsities(sparsities)
        self.layers, self.exclude = layers, exclude
        self.batch, self.forward = batch or inputs_and_targets, forward or call
        if not isinstance(distill, Distillation | None):
            raise ValueError(f"distill={distill!r}: expected Distillation(...), or None")
        self.distill = distill
        self._distilling: Distilling | None = None
        self._found: Found | None = None
        self._handles: list[RemovableHandle] = []
        self._silencing: Silencing | None = None
        self._every: TrainingStep | None = None
        self._order: Order | None = None

    def on_train_batch_start(
        self, trainer: Trainer, pl_module: LightningModule, batch: Any, batch_idx: int
    ) -> None:
        inputs, _ = self.batch(batch)
        if self._found is None:
            self._found = self._attach(trainer, pl_module, inputs)
        images, levels = len(tensors_in(inputs)[0]), len(self.sparsities)
        if self.share == "every":
            draws = torch.arange(levels + 1, device="cpu").repeat_interleave(images)
        else:
            seed = (global_seed() or 0, trainer.current_epoch, batch_idx, trainer.global_rank)
            draws = draw_levels(images, self.share, levels, seed)
        if draws.any():
            assert self._silencing is not None
            if self._distilling is not None:
                targets = self._whole(trainer, pl_module, inputs, draws > 0)
                self._distilling.expect(targets, draws > 0)
            self._order = Order.of(draws, tensors_in(inputs)[0].device)
            ((name, score),) = find_scores(self.score).items()
            groups, anatomy = self._found.groups, self._found.anatomy
            facts = Facts(affine=as_scales_and_shifts(pl_module, anatomy.batch_norms))
            ranking, _ = rank_groups(name, score, pl_module, groups, anatomy.chosen, "layer", facts)
            if ranking.unit != "neurons":
                raise ValueError(
                    f"NestedTraining: score {self.score!r} ranks single weights: expected one that "
                    "ranks neurons, such as 'norm_product'"
                )
            kept = [ranking.keep(level) for level in self.sparsities]
            self._silencing.expect(kept, draws.to(self._order.there.device))

    def on_train_batch_end(self, *_: Any) -> None:
        if self._silencing is not None:
            self._silencing.clear()
        self._order = None
        if self._distilling is not None:
            self._distilling.expect_nothing()

    def on_train_epoch_end(self, *_: Any) -> None:
        self.on_train_batch_end()  # which did not come if on_train_batch_start returned -1

    def on_train_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self._detach(pl_module)

    def on_exception(
        self, trainer: Trainer, pl_module: LightningModule, exception: BaseException
    ) -> None:
        self._detach(pl_module)

    def _attach(self, trainer: Trainer, pl_module: LightningModule, inputs: Any) -> Found:
        choice = Choice(self.layers, self.exclude)
        with evaluating(pl_module), trainer.precision_plugin.forward_context():
            found = choice.find(plain_network(pl_module), self.forward, inputs)
        if self.distill is not None and self.distill.weight:
            with trainer.precision_plugin.forward_context():
                place = where_to_distill(pl_module, self.forward, inputs)
            self._distilling = Distilling(self.distill, pl_module, place)
        nested = [group for group in found.groups if _for_one_image(group, pl_module)]
        across = [group.name for group in found.groups if group not in nested]
        why = "a norm or a recurrent layer reads across"
        if not nested:
            raise ValueError(
                f"NestedTraining: {why} the neurons of {', '.join(across)}, which "
                "cannot be masked for one image alone: expected a layer without"
            )
        if across and trainer.is_global_zero:
            print(f"ewnprune: not nested, since {why} them: {', '.join(across)}")
        self._silencing = Silencing(pl_module, nested, self.inner_gradient)
        for name in batch_norms_behind(found.anatomy, self._silencing.places):
            norm = pl_module.get_submodule(name)
            self._handles += normalize_apart(norm, lambda: self._order)
        if self.share == "every":
            self._every = TrainingStep(pl_module, self._of_every_network)
        forget_compiled(pl_module)  # of a finder of the learning rate, or another fit
        return replace(found, groups=nested)

    def _detach(self, pl_module: LightningModule) -> None:
        for handle in self._handles:
            handle.remove()
        if self._silencing is not None:
            self._silencing.let_go()
            forget_compiled(pl_module)
        for wrapped in (self._distilling, self._every):
            if wrapped is not None:
                wrapped.let_go()
        self._handles, self._found = [], None
        self._silencing = self._distilling = self._every = self._order = None

    def _of_every_network(self, step: Callable[..., Any], batch: Any, *args: Any) -> Any:
        """The step of a batch that has each image once for each network."""
        if self._order is None:  # validation may call it too
            return step(batch, *args)
        networks = len(self.sparsities) + 1
        images = len(self._order.there) // networks

        repeated = _of_images(lambda tensor: torch.cat([tensor] * networks), batch, images)
        return step(repeated, *args)

    def _whole(
        self, trainer: Trainer, pl_module: LightningModule, inputs: Any, rows: Tensor
    ) -> Tensor:
        """What the whole network says of some images."""
        chosen = _of_images(lambda tensor: tensor[rows.to(tensor.device)], inputs, len(rows))
        # a context of its own: autocast would keep weights cast without gradients for the step
        with evaluating(pl_module), trainer.precision_plugin.forward_context():
            outputs: Tensor = self.forward(pl_module, chosen)
        return outputs


def draw_levels(size: int, share: float, levels: int, seed: Sequence[int]) -> Tensor:
    """For each image of a batch 0, the whole network, or the number of a level from 1 on.

    >>> draw_levels(8, 0.5, 3, (0, 0, 0)).shape, draw_levels(4, 0.0, 3, (0, 0, 0))
    (torch.Size([8]), tensor([0, 0, 0, 0]))
    """
    rng = np.random.default_rng(tuple(seed))
    pruned = rng.random(size) < share
    return torch.from_numpy(np.where(pruned, rng.integers(1, levels + 1, size), 0))


def _of_images(function: Callable[[Tensor], Tensor], tree: Any, images: int) -> Any:
    """A function of each tensor that has a row for each image; the others stay."""
    return map_tensors(
        lambda tensor: function(tensor) if tensor.ndim and len(tensor) == images else tensor, tree
    )


def _for_one_image(group: Group, model: LightningModule) -> bool:
    """Whether what goes of a group can be masked for one image alone."""
    modules = [model.get_submodule(name) for name in [*group.makers, *group.readers]]
    return group.maskable and not any(is_recurrent(module) for module in modules)
