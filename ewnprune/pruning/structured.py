"""Removal of neurons in any architecture: residuals, concatenations, groups, normalizations."""

from collections.abc import Callable, Mapping
from copy import deepcopy
from dataclasses import dataclass
from math import gcd
from typing import Any

from torch import Tensor, nn

from ewnprune.model.layers import LayerPatterns, Selection, select_layers, type_name
from ewnprune.model.preserve import evaluating
from ewnprune.model.tensors import clone, device_of, same, to_device
from ewnprune.model.tracing import Forward, call
from ewnprune.pruning.choice import Choice, Indices, check_indices, given, neuron_counts
from ewnprune.pruning.coupled_scores import Couple, unit_scores
from ewnprune.pruning.coupling import Couplings, refuse_unfollowable
from ewnprune.pruning.cutting import broken, cut
from ewnprune.pruning.groups import Group
from ewnprune.pruning.heads import Heads
from ewnprune.pruning.neurons import Score
from ewnprune.pruning.ranking import Scope, rank
from ewnprune.pruning.units import asked_units, inputs_gone, silence


@dataclass(frozen=True)
class Removal:
    """A network without some of its neurons.

    Attributes:
        model: the smaller network.
        left: neurons left of those that there were, for each group of coupled layers, by the
            name of one of them.
        notes: for each group the layers in it and what was done; for each that stays, why.
        difference: largest difference, on the example, between the outputs of the masked and of
            the smaller network. Norms in the masked one go by the channels that stay. Groups that
            something else reads across are left out.
    """

    model: nn.Module
    left: dict[str, tuple[int, int]]
    notes: tuple[str, ...]
    difference: float

    @property
    def unexpected(self) -> tuple[str, ...]:
        """The notes on layers that stay unasked, and on those not removed as a mask would."""
        expected = (
            *(": excluded", ": not among the layers asked for", ": the last layer: "),
            *(": its channels are outputs of the model", ": its dimensions are no neurons"),
        )
        return tuple(
            note
            for note in self.notes
            if "as a mask would" in note
            or ("stays: " in note and not any(reason in note for reason in expected))
        )


def remove_coupled_neurons(
    model: nn.Module,
    sparsity: float | None = None,
    example_input: Any = None,
    *,
    indices: Indices | None = None,
    score: str | Score = "norm",
    couple: Couple = "mean",
    layers: LayerPatterns | None = None,
    exclude: LayerPatterns | None = None,
    scope: Scope = "layer",
    round_to: int = 1,
    heads: Heads = "keep",
    initial_norms: Mapping[str, Tensor] | None = None,
    seed: int | None = None,
    forward: Forward = call,
) -> Removal:
    """Build the physically smaller network of a model whose neurons are coupled.

    Where layers are added, concatenated, grouped or gated, their neurons can only go together.
    Each such group loses ``round(sparsity * n)`` of its ``n`` neurons (of its units, where a
    grouped convolution or a GroupNorm needs blocks of equal size: one channel of each block), and
    what a larger sparsity removes includes what a smaller one does.

    Needs torch-pruning: ``pip install torch-pruning``.

    Args:
        model: any module, left as it is. Reparametrized layers must be folded first.
        sparsity: fraction of the neurons to remove, in [0, 1); never a whole group.
        example_input: a batch of inputs; best of one sample, as its forward pass is recorded.
        indices: instead of a sparsity, the neurons to remove by layer, ``{"conv1": [0, 7]}``. All
            that is coupled with them goes too, so that layers of one group must be given the same
            channels, or one of them alone. Heads, or their dimensions, are named by the module
            that the attention lies in. No other argument that says what goes has a meaning then.
        score: what decides which neurons go, see `ewnprune.scores`; one number per neuron.
        couple: the score of coupled neurons from those of the layers: their ``"mean"``, the
            ``"max"``, or ``"l2"``, the root of the sum of squares (with the score ``"norm"`` the
            norm of all their incoming weights together).
        layers: which layers, see `select_layers`; a group goes only if all its layers may.
        exclude: which of them to leave.
        scope: ``"layer"`` removes the same fraction of each group, ``"global"`` the lowest scores
            of all groups.
        round_to: the number of neurons that stay is rounded up to a multiple of this, as far as
            there are so many.
        heads: what goes of attention made of Linear layers: ``"whole"`` heads, the same number of
            ``"dims"`` of each, or nothing. Attributes such as ``num_heads`` and ``head_dim`` of the
            module are set to what is left; its forward pass must go by them, or by the sizes.
        initial_norms: norms at initialisation by layer name, for scores that need them.
        seed: seed of scores that draw numbers.
        forward: from model and inputs to outputs; ``model(inputs)`` by default.

    Returns:
        The network, and what was done. torch's MultiheadAttention stays, as it ties its heads to
        the width of its inputs; see `separate_attention`.

    Raises:
        ValueError: torch-pruning is missing, the model cannot be followed, no group may go, or
            the smaller network does not run, or does not give the outputs of the masked one.

    >>> import torch
    >>> class Residual(nn.Module):
    ...     def __init__(self):
    ...         super().__init__()
    ...         self.first, self.second, self.head = (nn.Linear(8, n) for n in (8, 8, 2))
    ...     def forward(self, x):
    ...         x = self.first(x)
    ...         return self.head(x + self.second(x).relu())
    >>> removal = remove_coupled_neurons(Residual(), 0.5, torch.zeros(1, 8))
    >>> removal.model.second
    Linear(in_features=4, out_features=4, bias=True)
    """
    choice = Choice(sparsity, indices, score, layers, exclude, scope, round_to, initial_norms, seed)
    return remove_coupled(model, choice, example_input, forward, couple, heads)


def remove_coupled(
    model: nn.Module,
    choice: Choice,
    example_input: Any,
    forward: Forward,
    couple: Couple = "mean",
    heads: Heads = "keep",
    prepare: Callable[[nn.Module, Mapping[str, Tensor]], None] | None = None,
) -> Removal:
    """`remove_coupled_neurons`, with the choice made.

    ``prepare`` may change the copy before channels are cut out of it; it is given for each layer
    which of its inputs go.
    """
    if couple not in ("mean", "max", "l2"):
        raise ValueError(f"couple={couple!r}: expected 'mean', 'max' or 'l2'")
    if heads not in ("keep", "whole", "dims"):
        raise ValueError(f"heads={heads!r}: expected 'keep', 'whole' or 'dims'")
    selection = select_layers(model, choice.layers, choice.exclude)
    refuse_unfollowable(model)
    small = deepcopy(model)
    trains = {key: parameter.requires_grad for key, parameter in small.named_parameters()}
    small.requires_grad_(True)
    inputs = to_device(given(example_input), device_of(small))
    with evaluating(small):
        dense = forward(small, clone(inputs))
        couplings = Couplings(small, forward, inputs, heads)
        groups = list(couplings.groups())
    if choice.indices is None:
        free = _free(groups, selection, model)
        name, score = choice.function
        values = {
            group.name: unit_scores(group, name, score, couple, choice.initial_norms, choice.seed)
            for group in free
        }
        steps = {g.name: choice.round_to // gcd(choice.round_to, g.size // g.units) for g in free}
        keep = choice.kept(rank(values, choice.scope), steps)
    else:
        sizes = neuron_counts(model) | {g.name: g.units for g in groups if g.attention}
        keep = asked_units(groups, check_indices(choice.indices, sizes))
        free = [group for group in groups if group.name in keep]
        for group in groups:
            group.stays = group.stays or ("" if group in free else "not among the layers asked for")
    removed = {
        group.name: group.channels_of((~keep[group.name]).nonzero().flatten().tolist())
        for group in free
    }
    if prepare is not None:
        _refuse_across(free, removed)
        prepare(small, inputs_gone(free, removed))
    told = [group for group in free if not group.opaque]
    masked = deepcopy(small)
    silence(masked, removed, told)
    with evaluating(masked):
        expected = forward(masked, clone(inputs))
    difference = cut(couplings, told, removed, forward, inputs, expected)
    cut(couplings, [group for group in free if group.opaque], removed, forward, inputs, None)
    with evaluating(small):
        outputs = forward(small, clone(inputs))
    if not same(outputs, dense, lambda one, other: True):
        raise broken(model, "gives outputs of another shape")
    for key, parameter in small.named_parameters():
        parameter.requires_grad_(trains.get(key, True))  # a bias may have come
    left = {group.name: (group.size - len(removed[group.name]), group.size) for group in free}
    notes = _notes(model, groups, selection, left)
    return Removal(small, left, notes, difference)


def _free(groups: list[Group], selection: Selection, model: nn.Module) -> list[Group]:
    for group in groups:
        held = next((name for name in group.makers if name in selection.left), None)
        if not group.stays and held is not None:
            alone = len(group.makers) == 1
            group.stays = ("" if alone else f"coupled with {held!r}: ") + selection.left[held]
    free = [group for group in groups if not group.stays]
    if not free:
        reasons = "; ".join(f"{group.name!r}: {group.stays}" for group in groups)
        raise ValueError(f"no neuron of {type_name(model)} can be removed ({reasons})")
    return free


def _refuse_across(groups: list[Group], removed: Mapping[str, list[int]]) -> None:
    for group in groups:
        if removed[group.name] and not group.maskable:
            raise ValueError(
                f"the removal of neurons of {', '.join(group.makers)} cannot be repaired, since a "
                f"norm reads across them: leave one of these layers with exclude={group.name!r}"
            )


def _notes(
    model: nn.Module,
    groups: list[Group],
    selection: Selection,
    left: Mapping[str, tuple[int, int]],
) -> tuple[str, ...]:
    notes = []
    seen: set[str] = set()
    for group in groups:
        seen.update(group.makers, group.embeddings)
        who = ", ".join([*group.makers, *group.embeddings])
        if group.stays:
            notes.append(f"{who}: stays: {group.stays}")
        else:
            few, all_ = left[group.name]
            how = "" if group.maskable else "; not as a mask would, since a norm reads across them"
            if group.whole:
                how = f", {few // group.width} of {group.blocks} heads"
            notes.append(f"{who}: {few} of {all_} neurons left{how}")
    for name in (*selection.chosen, *selection.left):
        if name not in seen:
            notes.append(f"{name}: stays: its weights are used without calling it, or not at all")
    for name, module in model.named_modules():
        if isinstance(module, nn.Embedding) and name not in seen:
            notes.append(f"{name}: stays: its dimensions are no neurons of a layer")
    return tuple(notes)
