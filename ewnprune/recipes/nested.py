"""Train the small networks inside the large one: `NestedTraining`, an option of the recipe."""

from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import torch
from pytorch_lightning import Callback, LightningModule, Trainer
from torch import Tensor
from torch.utils.hooks import RemovableHandle

from ewnprune.callback.batches import global_seed
from ewnprune.callback.compiled import forget_compiled
from ewnprune.callback.distillation import Distillation, Distilling, where_to_distill
from ewnprune.model.batches import inputs_and_targets
from ewnprune.model.copying import plain_network
from ewnprune.model.layers import LayerPatterns, num_inputs, spatial_dims
from ewnprune.model.normalization import as_scales_and_shifts
from ewnprune.model.preserve import evaluating
from ewnprune.model.recurrent import is_recurrent
from ewnprune.model.tensors import map_tensors, tensors_in
from ewnprune.model.tracing import call
from ewnprune.pruning.choice import Choice
from ewnprune.pruning.found import Found
from ewnprune.pruning.groups import Group, Places
from ewnprune.pruning.neurons import rank_groups
from ewnprune.pruning.ranking import Ranking, check_sparsities
from ewnprune.pruning.score_names import SCORE, find_scores
from ewnprune.pruning.seen import Facts
from ewnprune.recipes.level_statistics import Order, batch_norms_behind, normalize_apart


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
        share: of the images, in [0, 1].
        sparsities: levels ``s`` to draw from evenly, in [0, 1).
        score: which neurons go first, see `ewnprune.scores`.
        layers: which layers, see `select_layers`; by default all but the last.
        exclude: which of them to leave.
        batch: function from a batch to (inputs, targets); by default the batch is that pair.
        forward: from model and inputs to outputs; ``model(inputs)`` by default.
        distill: have images that see a pruned network learn the whole one's outputs too, see
            https://arxiv.org/abs/1903.05134: these go forward once more, in eval mode.

    Raises:
        ValueError: a number out of range, an unknown score; in the first step, a score that gives
            no number per neuron.
    """

    def __init__(
        self,
        share: float,
        sparsities: Sequence[float] = (0.9, 0.95, 0.98),
        score: str = SCORE,
        layers: LayerPatterns | None = None,
        exclude: LayerPatterns | None = None,
        batch: Callable[[Any], tuple[Any, Any]] | None = None,
        forward: Callable[[torch.nn.Module, Any], Any] | None = None,
        distill: Distillation | None = None,
    ) -> None:
        if not 0 <= share <= 1:
            raise ValueError(f"share={share}: expected a fraction of the images in [0, 1]")
        find_scores(score)  # an unknown one is an error now, not at the first step
        self.share, self.score = share, score
        self.sparsities = check_sparsities(sparsities)
        self.layers, self.exclude = layers, exclude
        self.batch, self.forward = batch or inputs_and_targets, forward or call
        if not isinstance(distill, Distillation | None):
            raise ValueError(f"distill={distill!r}: expected Distillation(...), or None")
        self.distill = distill
        self._distilling: Distilling | None = None
        self._found: Found | None = None
        self._handles: list[RemovableHandle] = []
        self._masks: dict[tuple[str, str], Tensor] = {}
        self._order: Order | None = None

    def on_train_batch_start(
        self, trainer: Trainer, pl_module: LightningModule, batch: Any, batch_idx: int
    ) -> None:
        inputs, _ = self.batch(batch)
        if self._found is None:
            self._found = self._attach(trainer, pl_module, inputs)
        seed = (global_seed() or 0, trainer.current_epoch, batch_idx, trainer.global_rank)
        draws = draw_levels(len(tensors_in(inputs)[0]), self.share, len(self.sparsities), seed)
        if draws.any():
            if self._distilling is not None:
                targets = self._whole(trainer, pl_module, inputs, draws > 0)
                self._distilling.expect(targets, draws > 0)
            self._order = Order.of(draws, tensors_in(inputs)[0].device)
            ((name, score),) = find_scores(self.score).items()
            groups, anatomy = self._found.groups, self._found.anatomy
            facts = Facts(affine=as_scales_and_shifts(pl_module, anatomy.batch_norms))
            ranking, _ = rank_groups(name, score, pl_module, groups, anatomy.chosen, "layer", facts)
            draws = draws.to(self._order.there.device)
            self._masks.update(self._masks_of(ranking, draws, groups, pl_module))

    def on_train_batch_end(self, *_: Any) -> None:
        self._masks.clear()
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
        places = {place for group in nested for place in _places(group)}
        for place, name in places:
            module = pl_module.get_submodule(name)
            self._handles.append(
                module.register_forward_pre_hook(self._silence_input(name))
                if place == "input"
                else module.register_forward_hook(self._silence_output(name))
            )
        for name in batch_norms_behind(found.anatomy, places):
            norm = pl_module.get_submodule(name)
            self._handles += normalize_apart(norm, lambda: self._order)
        forget_compiled(pl_module)  # of a finder of the learning rate, or another fit
        return replace(found, groups=nested)

    def _detach(self, pl_module: LightningModule) -> None:
        for handle in self._handles:
            handle.remove()
        if self._handles:
            forget_compiled(pl_module)
        if self._distilling is not None:
            self._distilling.let_go()
        self._handles, self._found, self._distilling = [], None, None
        self.on_train_batch_end()

    def _whole(
        self, trainer: Trainer, pl_module: LightningModule, inputs: Any, rows: Tensor
    ) -> Tensor:
        """What the whole network says of some images."""

        def chosen(tensor: Tensor) -> Tensor:
            per_image = tensor.ndim > 0 and len(tensor) == len(rows)
            return tensor[rows.to(tensor.device)] if per_image else tensor

        # a context of its own: autocast would keep weights cast without gradients for the step
        with evaluating(pl_module), trainer.precision_plugin.forward_context():
            outputs: Tensor = self.forward(pl_module, map_tensors(chosen, inputs))
        return outputs

    def _masks_of(
        self, ranking: Ranking, draws: Tensor, groups: Sequence[Group], model: LightningModule
    ) -> dict[tuple[str, str], Tensor]:
        if ranking.unit != "neurons":
            raise ValueError(
                f"NestedTraining: score {self.score!r} ranks single weights: expected one that "
                "ranks neurons, such as 'norm_product'"
            )
        kept = [ranking.keep(level) for level in self.sparsities]
        masks: dict[tuple[str, str], Tensor] = {}
        for group in groups:
            rows = [group.channels(keep[group.name]) for keep in kept]
            rows = [torch.ones_like(rows[0]), *rows]
            for (place, name), places in _places(group).items():
                # the BatchNorm after a layer has the layer's channels, in the layer's shape
                layer: Any = model.get_submodule(group.name if place == "output" else name)
                size = num_inputs(layer) if place == "input" else group.size
                trailing = [1] * spatial_dims(layer)
                table = torch.stack([places.keep(size, row).view(-1, *trailing) for row in rows])
                mask = table.to(draws.device)[draws]
                known = masks.get((place, name))
                masks[place, name] = mask if known is None else known & mask
        return masks

    def _silence_input(self, name: str) -> Any:
        def hook(module: torch.nn.Module, args: tuple[Any, ...]) -> tuple[Any, ...] | None:
            mask = self._masks.get(("input", name))
            return None if mask is None else (times(args[0], mask), *args[1:])

        return hook

    def _silence_output(self, name: str) -> Any:
        def hook(module: torch.nn.Module, args: tuple[Any, ...], output: Tensor) -> Tensor | None:
            mask = self._masks.get(("output", name))
            return None if mask is None else times(output, mask)

        return hook


def draw_levels(size: int, share: float, levels: int, seed: Sequence[int]) -> Tensor:
    """For each image of a batch 0, the whole network, or the number of a level from 1 on.

    >>> draw_levels(8, 0.5, 3, (0, 0, 0)).shape, draw_levels(4, 0.0, 3, (0, 0, 0))
    (torch.Size([8]), tensor([0, 0, 0, 0]))
    """
    rng = np.random.default_rng(tuple(seed))
    pruned = rng.random(size) < share
    return torch.from_numpy(np.where(pruned, rng.integers(1, levels + 1, size), 0))


def times(values: Tensor, mask: Tensor) -> Tensor:
    """Values ``(B, ..., n)`` or ``(B, n, ...)`` times a mask per image, ``(B, n)`` or so.

    Raises:
        ValueError: the values' first dimension does not count the images.
    """
    if len(values) != len(mask):
        raise ValueError(
            f"NestedTraining: a layer sees {len(values)} rows in a batch of {len(mask)} images: "
            "expected one each; leave out the layers behind it with exclude"
        )
    between = [1] * (values.dim() - mask.dim())
    return values * mask.view(len(mask), *between, *mask.shape[1:]).to(values)


def _for_one_image(group: Group, model: LightningModule) -> bool:
    """Whether what goes of a group can be masked for one image alone."""
    modules = [model.get_submodule(name) for name in [*group.makers, *group.readers]]
    return group.maskable and not any(is_recurrent(module) for module in modules)


def _places(group: Group) -> dict[tuple[str, str], Places]:
    """Where the neurons of a group are silenced: the inputs of layers, or an output."""
    if group.unfollowed:
        return {("output", group.after or group.name): Places.blocks(group.size)}
    return {("input", name): places for name, places in group.readers.items()}
