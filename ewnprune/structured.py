"""Removal of neurons in any architecture: residuals, concatenations, groups, normalizations."""

from collections.abc import Mapping
from copy import deepcopy
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.utils import parametrize

from ewnprune.coupled import Couplings, Group, channels_of, silence
from ewnprune.coupled_scores import Couple, unit_scores
from ewnprune.graph import Forward, call, close, same
from ewnprune.layers import LayerPatterns, Selection, select_layers, type_name
from ewnprune.masks import Ranking, Scope, check_sparsities, rank
from ewnprune.preserve import clone, device_of, evaluating, to_device
from ewnprune.ranking import Score, find_scores


@dataclass(frozen=True)
class Removal:
    """A network without some of its neurons.

    Attributes:
        model: the smaller network.
        left: neurons left of those that there were, for each group of coupled layers, by the
            name of one of them.
        notes: for each group the layers in it and what was done; for each that stays, why.
        difference: largest difference, on the example, between the outputs of the masked and of
            the smaller network, over the groups for which a mask says the same as removal.
    """

    model: nn.Module
    left: dict[str, tuple[int, int]]
    notes: tuple[str, ...]
    difference: float

    @property
    def unexpected(self) -> tuple[str, ...]:
        """The notes on layers that stay unasked, and on those not removed as a mask would."""
        asked = (": excluded", ": not among the layers asked for", ": the last layer: ")
        return tuple(
            note
            for note in self.notes
            if "as a mask would" in note
            or ("stays: " in note and not any(reason in note for reason in asked))
        )


def remove_coupled_neurons(
    model: nn.Module,
    sparsity: float,
    example_input: Any,
    *,
    score: str | Score = "norm",
    couple: Couple = "mean",
    layers: LayerPatterns | None = None,
    exclude: LayerPatterns | None = None,
    scope: Scope = "layer",
    round_to: int = 1,
    initial_norms: Mapping[str, Tensor] | None = None,
    seed: int | None = None,
    forward: Forward = call,
) -> Removal:
    """Build the physically smaller network of a model whose neurons are coupled.

    Where layers are added, concatenated, grouped or gated, their neurons can only go together.
    Each such group loses ``round(sparsity * n)`` of its ``n`` neurons (of its units, where a
    grouped convolution or a GroupNorm needs blocks of equal size: one channel of each block), and
    what a larger sparsity removes includes what a smaller one does.

    Needs torch-pruning: ``pip install 'ewnprune[structured]'``.

    Args:
        model: any module, left as it is. Reparametrized layers must be folded first.
        sparsity: fraction of the neurons to remove, in [0, 1); never a whole group.
        example_input: a batch of inputs; best of one sample, as its forward pass is recorded.
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
        initial_norms: norms at initialisation by layer name, for scores that need them.
        seed: seed of scores that draw numbers.
        forward: from model and inputs to outputs; ``model(inputs)`` by default.

    Returns:
        The network, and what was done. Attention keeps its heads: in torch's MultiheadAttention
        they are tied to the width of its inputs.

    Raises:
        ValueError: torch-pruning is missing, the model cannot be followed, no group may go, or
            the smaller network does not run, or does not give the outputs of the masked one.

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
    (level,) = check_sparsities([sparsity])
    ((name, function),) = find_scores(score).items()
    if couple not in ("mean", "max", "l2"):
        raise ValueError(f"couple={couple!r}: expected 'mean', 'max' or 'l2'")
    if not isinstance(round_to, int) or round_to < 1:
        raise ValueError(f"round_to={round_to!r}: expected a whole number, 1 or more")
    selection = select_layers(model, layers, exclude)
    _refuse(model)
    small = deepcopy(model)
    trains = {key: parameter.requires_grad for key, parameter in small.named_parameters()}
    small.requires_grad_(True)
    inputs = to_device(example_input, device_of(small))
    with evaluating(small):
        dense = forward(small, clone(inputs))
        couplings = Couplings(small, forward, inputs)
        groups = list(couplings.groups())
    free = _free(groups, selection, model)
    values = {
        group.name: unit_scores(group, name, function, couple, initial_norms, seed)
        for group in free
    }
    keep = _keep(rank(values, scope), level, round_to)
    removed = {
        group.name: channels_of(group, (~keep[group.name]).nonzero().flatten().tolist())
        for group in free
    }
    alike = [group for group in free if group.maskable]
    masked = deepcopy(small)
    silence(masked, removed, alike)
    with evaluating(masked):
        expected = forward(masked, clone(inputs))
    difference = _cut(small, couplings, alike, removed, forward, inputs, expected)
    others = [group for group in free if not group.maskable]
    if any(removed[group.name] for group in others):
        _cut(small, couplings, others, removed, forward, inputs, None)
    with evaluating(small):
        outputs = forward(small, clone(inputs))
    if not same(outputs, dense, lambda one, other: True):
        raise _broken(model, "gives outputs of another shape")
    for key, parameter in small.named_parameters():
        parameter.requires_grad_(trains[key])
    left = {group.name: (group.size - len(removed[group.name]), group.size) for group in free}
    return Removal(small, left, _notes(groups, selection, left), difference)


def _refuse(model: nn.Module) -> None:
    owners: dict[int, str] = {}
    for name, module in model.named_modules():
        if parametrize.is_parametrized(module):
            raise ValueError(f"{name!r} is parametrized: fold it first (ewnprune.fold)")
        if isinstance(module, nn.RNNBase):
            raise ValueError(
                f"{name!r} ({type_name(module)}) is a recurrent layer, and neurons of networks "
                "with those cannot be removed: use mask_neurons on its other layers"
            )
        for key, parameter in module._parameters.items():
            if parameter is not None and id(parameter) in owners:
                raise ValueError(
                    f"{name}.{key} is the same parameter as {owners[id(parameter)]}: neurons of "
                    "layers that share weights cannot be removed; use mask_neurons"
                )
            if parameter is not None:
                owners[id(parameter)] = f"{name}.{key}"


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


def _keep(ranking: Ranking, level: float, round_to: int) -> dict[str, Tensor]:
    keep = {}
    for name, stays in ranking.keep(level).items():
        ranks = ranking.ranks[name]
        count = min(len(ranks), -(-int(stays.sum()) // round_to) * round_to)
        keep[name] = torch.zeros(len(ranks), dtype=torch.bool)
        keep[name][ranks.argsort(descending=True)[:count]] = True
    return keep


def _cut(
    small: nn.Module,
    couplings: Couplings,
    groups: list[Group],
    removed: Mapping[str, list[int]],
    forward: Forward,
    inputs: Any,
    expected: Any,
) -> float:
    """Remove the channels and run the network; its largest difference to what is expected."""
    modes = {module: module.training for module in small.modules()}
    for group in groups:
        if removed[group.name]:
            couplings.remove(group, removed[group.name])
    try:
        with evaluating(small):
            outputs = forward(small, clone(inputs))
    except Exception as error:  # any code of the user
        reason = " ".join(str(error).split())[:160]
        raise _broken(small, f"does not run ({type(error).__name__}: {reason})") from error
    finally:
        for module, training in modes.items():
            module.training = training
    if expected is None:
        return 0.0
    if not same(outputs, expected, close):
        raise _broken(small, "does not give the outputs of the masked one on the example")
    tensors = [torch.utils._pytree.tree_leaves(tree) for tree in (outputs, expected)]
    return max(
        (
            float((a - b).abs().max())
            for a, b in zip(*tensors, strict=True)
            if isinstance(a, Tensor)
        ),
        default=0.0,
    )


def _broken(model: nn.Module, what: str) -> ValueError:
    return ValueError(
        f"the smaller {type_name(model)} {what}: its forward pass depends on the number of "
        "neurons in a way that cannot be followed; use mask_neurons, or leave layers with exclude="
    )


def _notes(
    groups: list[Group], selection: Selection, left: Mapping[str, tuple[int, int]]
) -> tuple[str, ...]:
    notes = []
    seen: set[str] = set()
    for group in groups:
        seen.update(group.makers)
        who = ", ".join(group.makers)
        if group.stays:
            notes.append(f"{who}: stays: {group.stays}")
        else:
            few, all_ = left[group.name]
            how = "" if group.maskable else "; not as a mask would, since a norm reads across them"
            notes.append(f"{who}: {few} of {all_} neurons left{how}")
    for name in (*selection.chosen, *selection.left):
        if name not in seen:
            notes.append(f"{name}: stays: its weights are used without calling it, or not at all")
    return tuple(notes)
