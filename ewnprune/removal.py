"""Take neurons away for good: zero them in place, or build the smaller network."""

import warnings
from collections.abc import Mapping
from copy import deepcopy
from importlib.util import find_spec
from typing import Any

from torch import Tensor, nn

from ewnprune.anatomy import Anatomy, dissect
from ewnprune.graph import Forward, call, close, same
from ewnprune.layers import LayerPatterns, select_layers, type_name
from ewnprune.masking import masking
from ewnprune.masks import Scope, check_sparsities
from ewnprune.plan import neuron_masks
from ewnprune.preserve import clone, device_of, evaluating, to_device
from ewnprune.ranking import Score, find_scores, rank_neurons
from ewnprune.surgery import refuse_unremovable, refuse_unwritable, shrink, silence_parameters


def remove_neurons(
    model: nn.Module,
    sparsity: float,
    example_input: Any,
    *,
    score: str | Score = "norm",
    layers: LayerPatterns | None = None,
    exclude: LayerPatterns | None = None,
    scope: Scope = "layer",
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
        score: what decides which neurons go, see `ewnprune.scores`.
        layers: which layers, see `select_layers`; by default all but the last.
        exclude: which of them to leave.
        scope: ``"layer"`` or ``"global"``.
        initial_norms: norms at initialisation by layer name, for scores that need them.
        seed: seed of scores that draw numbers.
        forward: from model and inputs to outputs; ``model(inputs)`` by default.

    Returns:
        A new module of the same classes, in the same mode.

    Raises:
        ValueError: neurons of a layer cannot be removed safely; it is named with the reason.

    >>> import torch
    >>> net = nn.Sequential(nn.Linear(4, 10), nn.ReLU(), nn.Linear(10, 3))
    >>> remove_neurons(net, 0.8, torch.zeros(1, 4))
    Sequential(
      (0): Linear(in_features=4, out_features=2, bias=True)
      (1): ReLU()
      (2): Linear(in_features=2, out_features=3, bias=True)
    )
    """
    small = deepcopy(model)
    inputs = to_device(example_input, device_of(small))
    with evaluating(small):
        anatomy = _dissect(small, forward, layers, exclude, inputs)
        unknown = any(flow.unknown for flow in anatomy.flows.values())
        # not where the forward pass cannot be traced: an example shows one way through it only
        if unknown and anatomy.trace is not None and find_spec("torch_pruning"):
            from ewnprune.structured import remove_coupled_neurons

            removal = remove_coupled_neurons(
                model,
                sparsity,
                example_input,
                score=score,
                layers=layers,
                exclude=exclude,
                scope=scope,
                initial_norms=initial_norms,
                seed=seed,
                forward=forward,
            )
            if removal.unexpected:
                warnings.warn("; ".join(removal.unexpected), stacklevel=2)
            return removal.model
        keep = _choose(anatomy, sparsity, score, scope, initial_norms, seed)
        refuse_unremovable(small, anatomy, keep)
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


def mask_neurons(
    model: nn.Module,
    sparsity: float,
    example_input: Any,
    *,
    score: str | Score = "norm",
    layers: LayerPatterns | None = None,
    exclude: LayerPatterns | None = None,
    scope: Scope = "layer",
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
        score: see `remove_neurons`, as for the arguments that follow.
        layers: which layers.
        exclude: which of them to leave.
        scope: ``"layer"`` or ``"global"``.
        initial_norms: norms at initialisation.
        seed: seed of scores that draw numbers.
        forward: from model and inputs to outputs.

    Returns:
        For each layer, which neurons stay, ``(n,)``.

    Raises:
        ValueError: a layer cannot be masked; it is named with the reason.

    >>> import torch
    >>> net = nn.Sequential(nn.Linear(4, 10), nn.ReLU(), nn.Linear(10, 3))
    >>> mask_neurons(net, 0.8, torch.zeros(1, 4))["0"].sum(), net[2].weight.count_nonzero()
    (tensor(2), tensor(6))
    """
    with evaluating(model):
        anatomy = _dissect(
            model, forward, layers, exclude, to_device(example_input, device_of(model))
        )
        keep = _choose(anatomy, sparsity, score, scope, initial_norms, seed)
    refuse_unwritable(model, anatomy)
    silence_parameters(anatomy, keep)
    return keep


def _dissect(
    model: nn.Module,
    forward: Forward,
    layers: LayerPatterns | None,
    exclude: LayerPatterns | None,
    inputs: Any,
) -> Anatomy:
    chosen = select_layers(model, layers, exclude).chosen
    return dissect(model, forward, chosen, inputs)


def _choose(
    anatomy: Anatomy,
    sparsity: float,
    score: str | Score,
    scope: Scope,
    initial_norms: Mapping[str, Tensor] | None,
    seed: int | None,
) -> dict[str, Tensor]:
    (level,) = check_sparsities([sparsity])
    ((name, function),) = find_scores(score).items()
    ranking = rank_neurons(name, function, anatomy, scope, initial_norms, seed)
    if ranking.unit != "neurons":
        raise ValueError(
            f"score {name!r} ranks single weights: expected one number per neuron; single weights "
            "can be masked in sparsity_curve only"
        )
    return ranking.keep(level)
