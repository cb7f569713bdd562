"""Take neurons away for good: zero them in place, or build the smaller network."""

import warnings
from collections.abc import Iterable, Mapping
from typing import Any

from torch import Tensor, nn

from ewnprune.model.batches import Batch, inputs_and_targets
from ewnprune.model.layers import LayerPatterns
from ewnprune.model.preserve import as_made, evaluating
from ewnprune.model.tensors import device_of, to_device
from ewnprune.model.tracing import Forward, call
from ewnprune.pruning.budget import Budget
from ewnprune.pruning.choice import Choice, choose
from ewnprune.pruning.heads import Heads
from ewnprune.pruning.indices import Indices
from ewnprune.pruning.inputs import features_left
from ewnprune.pruning.ranking import Scope
from ewnprune.pruning.recalibration import estimate_anew, training_inputs, with_statistics
from ewnprune.pruning.removed import Removal, removal_notes, unexpected
from ewnprune.pruning.repair import repaired
from ewnprune.pruning.score_names import Score
from ewnprune.pruning.scores import Measured
from ewnprune.pruning.seen import Couple
from ewnprune.pruning.sensitivity import Sensitivity
from ewnprune.pruning.smaller import (
    as_it_was,
    build_smaller,
    check_smaller,
    refuse_unfollowed,
)


def remove_neurons(
    model: nn.Module,
    sparsity: float | None = None,
    example_input: Any = None,
    *,
    indices: Indices | None = None,
    budget: Budget | None = None,
    score: str | Score = "norm",
    layers: LayerPatterns | None = None,
    exclude: LayerPatterns | None = None,
    scope: Scope = "layer",
    max_per_layer: float | None = None,
    round_to: int = 1,
    heads: Heads = "keep",
    inputs: bool = False,
    couple: Couple = "mean",
    initial_norms: Mapping[str, Tensor] | None = None,
    measured: Measured | None = None,
    sensitivity: Sensitivity | None = None,
    seed: int | None = None,
    repair: Any = None,
    recalibrate: Iterable[Any] | None = None,
    batch: Batch = inputs_and_targets,
    forward: Forward = call,
) -> nn.Module:
    """Build the physically smaller network, without the neurons of the lowest scores.

    A neuron goes with its bias, its outgoing weights, its BatchNorm channel and all that is coupled
    with it. Where layers are added, concatenated, grouped or gated, their neurons can only go
    together: each such group loses ``round(sparsity * n)`` of its ``n`` neurons (of its units,
    where a grouped convolution or a GroupNorm needs blocks of equal size: one channel of each
    block), and what a larger sparsity removes includes what a smaller one does.

    A hidden unit of an RNN, LSTM or GRU goes with its rows in all gates, its biases, its column of
    ``weight_hh`` and what reads it. As many stay in each layer and direction, which torch's modules
    have one width for, but which ones is free: the lowest scores of each.

    The new network is run on the example and compared with the old one masked before it is
    returned. A warning names layers that stay against expectation; `remove_with_notes` tells all.

    Args:
        model: any module, left as it is. The new one is plain, be it folded or not.
        sparsity: fraction of the neurons to remove, in [0, 1); never a whole group.
        example_input: a batch of inputs; best of one sample, as its forward pass is recorded.
        indices: instead of a sparsity, the neurons to remove by layer, ``{"conv1": [0, 7]}``. All
            that is coupled with them goes too, so that layers of one group must be given the same
            channels, or one of them alone. Hidden units are numbered as ``h_n`` has them: by layer,
            in each forward and then backward. Heads, or their dimensions, are named by the module
            that the attention lies in. No other argument that says what goes has a meaning then.
        budget: instead of a sparsity, what the smaller network may cost, ``Budget(macs=0.5)``: the
            largest network is built, of those that a sparsity gives, that costs no more.
        score: what decides which neurons go, see `ewnprune.scores`; one number per neuron.
        layers: which layers, see `select_layers`, by default all but the last; a group goes only if
            all its layers may.
        exclude: which of them to leave.
        scope: ``"layer"`` removes the same fraction of each group, ``"global"`` the lowest scores
            of all groups, ``"normalized"`` the same by scores over the root of their mean square,
            ``"isomorphic"`` the same fraction of all groups of equal structure together.
        max_per_layer: with the latter three, the fraction of a group that goes at most.
        round_to: the number of neurons that stay is rounded up to a multiple of this, as far as
            there are so many.
        heads: what goes of attention made of Linear layers: ``"whole"`` heads, the same number of
            ``"dims"`` of each, or nothing. Attributes such as ``num_heads`` and ``head_dim`` of the
            module are set to what is left; its forward pass must go by them, or by the sizes.
            torch's MultiheadAttention stays, as it ties its heads to the width of its inputs; see
            `separate_attention`.
        inputs: True removes features of the inputs in place of neurons, which all stay: pixels of
            flattened images, columns of a table, channels that a convolution reads. The network
            takes whole inputs and picks; one that went is 0 to the layers that read it. The score
            ``"norm"`` is the norm of the weights that read a feature times the standard deviation
            of what they read, over ``recalibrate``, else ``repair``, else the example; of a single
            sample the norm alone, which a warning says. ``indices={"inputs": [0, 7]}`` names them.
        couple: the score of neurons that go together from those of the layers: their ``"mean"``,
            the ``"max"``, or ``"l2"``, the root of the sum of squares (with the score ``"norm"``
            the norm of all their incoming weights together).
        initial_norms: norms at initialisation by layer name, for scores that need them.
        measured: what `measure_neurons` gives, for scores that go by data.
        sensitivity: what `Curve.sensitivity` gives, for the scope of that name.
        seed: seed of scores that draw numbers.
        repair: a batch of inputs, never test data where the result is to be tested: what removed
            neurons gave on average over it is added to the biases that follow. No training. No
            other bias comes nearer to the dense layer, in mean square. A layer without gets one.
        recalibrate: training batches, as a loader gives them, on which the running statistics of
            BatchNorms are estimated anew without the neurons that go; see `sparsity_curve`.
        batch: from one of those to inputs and targets.
        forward: from model and inputs to outputs; ``model(inputs)`` by default.

    Returns:
        A new module of the same classes, in the same mode.

    Raises:
        ValueError: neurons of a layer cannot be removed safely; it is named with the reason. Not
            exactly one of ``sparsity``, ``indices`` and ``budget``, indices that do not fit the
            model, or a budget that no network meets.

    >>> import torch
    >>> net = nn.Sequential(nn.Linear(4, 10), nn.ReLU(), nn.Linear(10, 3))
    >>> remove_neurons(net, 0.8, torch.zeros(1, 4))
    Sequential(
      (0): Linear(in_features=4, out_features=2, bias=True)
      (1): ReLU()
      (2): Linear(in_features=2, out_features=3, bias=True)
    )
    >>> remove_neurons(net, indices={"0": [0, 7]}, example_input=torch.zeros(1, 4))[0]
    Linear(in_features=4, out_features=8, bias=True)
    >>> remove_neurons(net, budget=Budget(parameters=0.5), example_input=torch.zeros(1, 4))[0]
    Linear(in_features=4, out_features=4, bias=True)
    >>> _, x = torch.manual_seed(0), torch.randn(64, 4)
    >>> small = remove_neurons(net, 0.5, x, repair=x)
    >>> torch.allclose(small(x).mean(0), net(x).mean(0), atol=1e-6)
    True
    """
    removal = remove_with_notes(
        model,
        sparsity,
        example_input,
        indices=indices,
        budget=budget,
        score=score,
        layers=layers,
        exclude=exclude,
        scope=scope,
        max_per_layer=max_per_layer,
        round_to=round_to,
        heads=heads,
        inputs=inputs,
        couple=couple,
        initial_norms=initial_norms,
        measured=measured,
        sensitivity=sensitivity,
        seed=seed,
        repair=repair,
        recalibrate=recalibrate,
        batch=batch,
        forward=forward,
    )
    told = unexpected(removal)
    if told:
        warnings.warn(told, stacklevel=2)
    return removal.model


def remove_with_notes(
    model: nn.Module,
    sparsity: float | None = None,
    example_input: Any = None,
    *,
    indices: Indices | None = None,
    budget: Budget | None = None,
    score: str | Score = "norm",
    layers: LayerPatterns | None = None,
    exclude: LayerPatterns | None = None,
    scope: Scope = "layer",
    max_per_layer: float | None = None,
    round_to: int = 1,
    heads: Heads = "keep",
    inputs: bool = False,
    couple: Couple = "mean",
    initial_norms: Mapping[str, Tensor] | None = None,
    measured: Measured | None = None,
    sensitivity: Sensitivity | None = None,
    seed: int | None = None,
    repair: Any = None,
    recalibrate: Iterable[Any] | None = None,
    batch: Batch = inputs_and_targets,
    forward: Forward = call,
) -> Removal:
    r"""`remove_neurons`, with notes on what was removed from where, and what stays and why.

    The arguments and errors are those of `remove_neurons`.

    >>> import torch
    >>> class Residual(nn.Module):
    ...     def __init__(self):
    ...         super().__init__()
    ...         self.first, self.second, self.head = (nn.Linear(8, n) for n in (8, 8, 2))
    ...     def forward(self, x):
    ...         x = self.first(x)
    ...         return self.head(x + self.second(x).relu())
    >>> removal = remove_with_notes(Residual(), 0.5, torch.zeros(1, 8))
    >>> removal.model.second
    Linear(in_features=4, out_features=4, bias=True)
    >>> print(*removal.notes, sep="\n")
    first, second: 4 of 8 neurons left
    head: left: the last layer: its outputs are the model's
    """
    choice = Choice(
        layers=layers,
        exclude=exclude,
        scope=scope,
        round_to=round_to,
        heads=heads,
        inputs=inputs,
        couple=couple,
        initial_norms=initial_norms,
        seed=seed,
        max_per_layer=max_per_layer,
        measured=measured,
        sensitivity=sensitivity,
    )
    model, training = as_made(model), []
    if recalibrate is not None and (inputs or with_statistics(model)):
        training = training_inputs(model, recalibrate, batch)
    calibration = training or ([] if repair is None else [repair])
    with evaluating(model):
        found, units, notes = choose(
            model, example_input, sparsity, indices, score, choice, forward, budget, calibration
        )
        refuse_unfollowed(model, found.unfollowed)
        example = to_device(example_input, device_of(model))
        network = found.network
        if repair is not None:
            means = to_device(repair, device_of(model))
            network = repaired(network, found.groups, units, means, forward)
        small = build_smaller(network, found.groups, units, share=False)
        difference = check_smaller(network, small, found.groups, units, example, forward)
    goes = not all(keep.all() for keep in units.values())
    if training and goes and with_statistics(small):
        with evaluating(model):
            notes = [*notes, estimate_anew(small, forward, training)]
    as_it_was(small, model)
    left = {g.name: (int(g.channels(units[g.name]).sum()), g.size) for g in found.asked(units)}
    read = features_left(found.groups[0], units[found.groups[0].name]) if inputs else None
    return Removal(small, left, (*notes, *removal_notes(found, left)), difference, read)
