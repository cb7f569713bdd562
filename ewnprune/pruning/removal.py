"""Take neurons away for good: zero them in place, or build the smaller network."""

import warnings
from collections.abc import Callable, Mapping
from copy import deepcopy
from importlib.util import find_spec
from typing import Any

from torch import Tensor, nn

from ewnprune.model.anatomy import Anatomy, dissect
from ewnprune.model.layers import LayerPatterns, type_name
from ewnprune.model.preserve import evaluating
from ewnprune.model.tensors import clone, close, device_of, same, to_device
from ewnprune.model.tracing import Forward, call
from ewnprune.pruning.choice import Choice, Indices, given
from ewnprune.pruning.heads import Heads
from ewnprune.pruning.maskings import masking, neuron_masks
from ewnprune.pruning.neurons import Score
from ewnprune.pruning.ranking import Scope
from ewnprune.pruning.surgery import (
    refuse_unremovable,
    refuse_unwritable,
    shrink,
    silence_parameters,
    unequal_groups,
)


def remove_neurons(
    model: nn.Module,
    sparsity: float | None = None,
    example_input: Any = None,
    *,
    indices: Indices | None = None,
    score: str | Score = "norm",
    layers: LayerPatterns | None = None,
    exclude: LayerPatterns | None = None,
    scope: Scope = "layer",
    round_to: int = 1,
    heads: Heads = "keep",
    initial_norms: Mapping[str, Tensor] | None = None,
    seed: int | None = None,
    forward: Forward = call,
) -> nn.Module:
    """Build the physically smaller network, without the neurons of the lowest scores.

    A neuron goes with its bias, its outgoing weights and its BatchNorm channel. The new network is
    run on the example and compared with the old one masked before it is returned.

    Where neurons are coupled (by residual additions, concatenations, grouped convolutions, ...),
    `remove_coupled_neurons` does it, with torch-pruning if that is installed; call it for its
    options, and for notes on what was removed from where. A warning names layers that stay
    against expectation, and those where a norm reads across neurons, which no mask can tell.

    Args:
        model: a chain of Linear and convolution layers with activations, pooling, flattening and
            BatchNorm in between, or a model that torch-pruning can follow; left as it is.
            Reparametrized layers must be folded first.
        sparsity: fraction of the neurons to remove, in [0, 1); never a whole layer.
        example_input: a batch of inputs.
        indices: instead of a sparsity, the neurons to remove by layer, ``{"fc1": [0, 7]}``; what
            is coupled with them goes too. No other argument that says what goes has a meaning then.
        score: what decides which neurons go, see `ewnprune.scores`.
        layers: which layers, see `select_layers`; by default all but the last.
        exclude: which of them to leave.
        scope: ``"layer"`` or ``"global"``.
        round_to: the number of neurons that stay is rounded up to a multiple of this, as far as
            there are so many.
        heads: ``"whole"`` or ``"dims"`` for heads of attention, see `remove_coupled_neurons`.
        initial_norms: norms at initialisation by layer name, for scores that need them.
        seed: seed of scores that draw numbers.
        forward: from model and inputs to outputs; ``model(inputs)`` by default.

    Returns:
        A new module of the same classes, in the same mode.

    Raises:
        ValueError: neurons of a layer cannot be removed safely; it is named with the reason. Not
            exactly one of ``sparsity`` and ``indices``, or indices that do not fit the model.

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
    """
    choice = Choice(sparsity, indices, score, layers, exclude, scope, round_to, initial_norms, seed)
    return remove_chosen(model, choice, example_input, forward, heads)


Prepare = Callable[[nn.Module, Mapping[str, Tensor]], None]
"""Changes a model before neurons are cut out; given for each layer which of its inputs go."""


def remove_chosen(
    model: nn.Module,
    choice: Choice,
    example_input: Any,
    forward: Forward,
    heads: Heads = "keep",
    prepare: Prepare | None = None,
) -> nn.Module:
    """`remove_neurons`, with the choice made, and a copy that may be changed before the cut."""
    small = deepcopy(model)
    inputs = to_device(given(example_input), device_of(small))
    if heads != "keep":
        return _remove_coupled(model, choice, inputs, forward, heads, prepare)
    with evaluating(small):
        anatomy = dissect(small, forward, choice.select(small).chosen, inputs)
        chain = not any(flow.unknown for flow in anatomy.flows.values())
        keep = choice.keep(anatomy) if chain else {}
        chain = chain and not unequal_groups(anatomy, keep)
        # not where the forward pass cannot be traced: an example shows one way through it only
        if not chain and anatomy.trace is not None and find_spec("torch_pruning"):
            return _remove_coupled(model, choice, inputs, forward, heads, prepare)
        keep = keep or choice.keep(anatomy)
        refuse_unremovable(small, anatomy, keep)
        if prepare is not None:
            prepare(small, inputs_gone(anatomy, keep))
        masks = neuron_masks(anatomy, keep)
        with masking(anatomy.modules, masks) as active:
            active.update(masks)
            expected = forward(small, clone(inputs))
    shrink(anatomy, keep)
    with evaluating(small):
        outputs = forward(small, clone(inputs))
    if not same(outputs, expected, close):
        raise ValueError(
            f"the smaller {type_name(model)} does not give the outputs of the masked one on the "
            "example: its forward pass depends on the number of neurons in a way that cannot be "
            "followed; use mask_neurons, or leave layers with exclude="
        )
    return small


def _remove_coupled(
    model: nn.Module,
    choice: Choice,
    inputs: Any,
    forward: Forward,
    heads: Heads,
    prepare: Prepare | None,
) -> nn.Module:
    from ewnprune.pruning.structured import remove_coupled

    removal = remove_coupled(model, choice, inputs, forward, heads=heads, prepare=prepare)
    if removal.unexpected:
        warnings.warn("; ".join(removal.unexpected), stacklevel=4)
    return removal.model


def inputs_gone(anatomy: Anatomy, keep: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """For each layer that reads removed neurons, which of its inputs those are."""
    return {
        reader.name: ~kept.repeat_interleave(reader.block)
        for name, kept in keep.items()
        if not kept.all()
        for reader in anatomy.flows[name].consumers
    }


def mask_neurons(
    model: nn.Module,
    sparsity: float | None = None,
    example_input: Any = None,
    *,
    indices: Indices | None = None,
    score: str | Score = "norm",
    layers: LayerPatterns | None = None,
    exclude: LayerPatterns | None = None,
    scope: Scope = "layer",
    round_to: int = 1,
    initial_norms: Mapping[str, Tensor] | None = None,
    seed: int | None = None,
    forward: Forward = call,
) -> dict[str, Tensor]:
    """Set the neurons of the lowest scores to zero, in place: weights, bias, what reads them.

    Where the layers that read them are not known, only the neurons' own weights and biases (and
    those of a BatchNorm that directly follows) are set to zero.

    Args:
        model: any model; reparametrized layers must be folded first.
        sparsity: fraction of the neurons, in [0, 1); never a whole layer.
        example_input: a batch of inputs.
        indices: instead of a sparsity, the neurons by layer, see `remove_neurons`.
        score: see `remove_neurons`, as for the arguments that follow.
        layers: which layers.
        exclude: which of them to leave.
        scope: ``"layer"`` or ``"global"``.
        round_to: a multiple for the number that stays.
        initial_norms: norms at initialisation.
        seed: seed of scores that draw numbers.
        forward: from model and inputs to outputs.

    Returns:
        For each layer, which neurons stay, ``(n,)``.

    Raises:
        ValueError: a layer cannot be masked; it is named with the reason. Not exactly one of
            ``sparsity`` and ``indices``, or indices that do not fit the model.

    >>> import torch
    >>> net = nn.Sequential(nn.Linear(4, 10), nn.ReLU(), nn.Linear(10, 3))
    >>> mask_neurons(net, 0.8, torch.zeros(1, 4))["0"].sum(), net[2].weight.count_nonzero()
    (tensor(2), tensor(6))
    """
    choice = Choice(sparsity, indices, score, layers, exclude, scope, round_to, initial_norms, seed)
    inputs = to_device(given(example_input), device_of(model))
    with evaluating(model):
        anatomy = dissect(model, forward, choice.select(model).chosen, inputs)
        keep = choice.keep(anatomy)
    refuse_unwritable(model, anatomy)
    silence_parameters(anatomy, keep)
    return keep
