"""Train the small networks inside the large one: `NestedTraining`, an option of the recipe."""

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import torch
from pytorch_lightning import Callback, LightningModule, Trainer
from torch import Tensor
from torch.utils._pytree import tree_leaves
from torch.utils.hooks import RemovableHandle

from ewnprune.callback.batches import global_seed
from ewnprune.curve.sweep import inputs_and_targets
from ewnprune.model.anatomy import Anatomy, dissect
from ewnprune.model.layers import LayerPatterns, select_layers
from ewnprune.model.preserve import evaluating
from ewnprune.model.tracing import call
from ewnprune.pruning.maskings import Site, neuron_sites
from ewnprune.pruning.neurons import find_scores, rank_neurons
from ewnprune.pruning.ranking import Ranking, check_sparsities


class NestedTraining(Callback):
    """Let a share of each batch see the network pruned, as it stands at that step.

    With ``f_s`` the network without the fraction ``s`` of each layer's neurons that scores lowest,
    the loss ``E L(f_0)`` becomes ``(1 - share) E L(f_0) + share * mean_s E L(f_s)``: each image
    draws its network, so that a batch costs what it costs anyway. Neurons that rank high learn to
    do without the others, which learn corrections to them. It is nested dropout (Rippel, Gelbart &
    Adams, https://arxiv.org/abs/1402.0915) at a few levels only, in the order of a score rather
    than of the index. Under EWN the order settles by itself, since large norms grow fastest.

    Neurons are silenced where they are read, as in `sparsity_curve`; validation and test see the
    whole network. Draws follow the seed, the epoch and the number of the batch.

    Args:
        share: of the images, in [0, 1].
        sparsities: levels ``s`` to draw from evenly, in [0, 1).
        score: which neurons go first, see `ewnprune.scores`.
        layers: which layers, see `select_layers`; by default all but the last.
        exclude: which of them to leave.
        batch: function from a batch to (inputs, targets); by default the batch is that pair.

    Raises:
        ValueError: a number out of range, an unknown score; in the first step, a score that gives
            no number per neuron.
    """

    def __init__(
        self,
        share: float,
        sparsities: Sequence[float] = (0.9, 0.95, 0.98),
        score: str = "norm_with_bias_product",
        layers: LayerPatterns | None = None,
        exclude: LayerPatterns | None = None,
        batch: Callable[[Any], tuple[Any, Any]] | None = None,
    ) -> None:
        if not 0 <= share <= 1:
            raise ValueError(f"share={share}: expected a fraction of the images in [0, 1]")
        find_scores(score)  # an unknown one is an error now, not at the first step
        self.share, self.score = share, score
        self.sparsities = check_sparsities(sparsities)
        self.layers, self.exclude = layers, exclude
        self.batch = batch or inputs_and_targets
        self._anatomy: Anatomy | None = None
        self._handles: list[RemovableHandle] = []
        self._masks: dict[Site, Tensor] = {}

    def on_train_batch_start(
        self, trainer: Trainer, pl_module: LightningModule, batch: Any, batch_idx: int
    ) -> None:
        inputs, _ = self.batch(batch)
        if self._anatomy is None:
            self._attach(trainer, pl_module, inputs)
        assert self._anatomy is not None
        seed = (global_seed() or 0, trainer.current_epoch, batch_idx, trainer.global_rank)
        draws = draw_levels(len(tree_leaves(inputs)[0]), self.share, len(self.sparsities), seed)
        if draws.any():
            (score,) = find_scores(self.score).values()
            ranking = rank_neurons(self.score, score, self._anatomy)
            self._masks.update(self._masks_of(ranking, draws, self._anatomy))

    def on_train_batch_end(self, *_: Any) -> None:
        self._masks.clear()

    def on_train_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self._detach()

    def on_exception(
        self, trainer: Trainer, pl_module: LightningModule, exception: BaseException
    ) -> None:
        self._detach()

    def _attach(self, trainer: Trainer, pl_module: LightningModule, inputs: Any) -> None:
        chosen = select_layers(pl_module, self.layers, self.exclude).chosen
        with evaluating(pl_module), trainer.precision_plugin.forward_context():
            anatomy = dissect(pl_module, call, chosen, inputs)
        for at in neuron_sites(anatomy.chosen, anatomy.flows, anatomy.modules).values():
            for site, _ in at:
                module = anatomy.modules[site.module]
                self._handles.append(
                    module.register_forward_pre_hook(self._silence_input(site))
                    if site.place == "input"
                    else module.register_forward_hook(self._silence_output(site))
                )
        self._anatomy = anatomy

    def _detach(self) -> None:
        for handle in self._handles:
            handle.remove()
        self._handles, self._anatomy = [], None
        self._masks.clear()

    def _masks_of(self, ranking: Ranking, draws: Tensor, anatomy: Anatomy) -> dict[Site, Tensor]:
        if ranking.unit != "neurons":
            raise ValueError(
                f"NestedTraining: score {self.score!r} ranks single weights: expected one that "
                "ranks neurons, such as 'norm_product'"
            )
        kept = [ranking.keep(level) for level in self.sparsities]
        masks = {}
        for name, at in neuron_sites(anatomy.chosen, anatomy.flows, anatomy.modules).items():
            rows = [torch.ones_like(kept[0][name]), *(keep[name] for keep in kept)]
            weight: Any = anatomy.chosen[name].weight
            for site, shaped in at:
                table = torch.stack([shaped(row) for row in rows])
                masks[site] = table[draws].to(weight.device, weight.dtype)
        return masks

    def _silence_input(self, site: Site) -> Any:
        def hook(module: torch.nn.Module, args: tuple[Any, ...]) -> tuple[Any, ...] | None:
            mask = self._masks.get(site)
            return None if mask is None else (times(args[0], mask), *args[1:])

        return hook

    def _silence_output(self, site: Site) -> Any:
        def hook(module: torch.nn.Module, args: tuple[Any, ...], output: Tensor) -> Tensor | None:
            mask = self._masks.get(site)
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
    return values * mask.view(len(mask), *between, *mask.shape[1:]).to(values.dtype)
