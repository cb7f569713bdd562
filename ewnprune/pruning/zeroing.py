"""Zeros for good: in the weights of a model, for all that belongs to the neurons that go."""

from collections.abc import Iterable, Mapping
from typing import Any

import torch
from torch import Tensor, nn

from ewnprune.model.cells import kept_cells, to_weight
from ewnprune.model.layers import LayerPatterns, num_neurons
from ewnprune.model.preserve import as_made, evaluating
from ewnprune.model.recurrent import is_recurrent, kept_entries
from ewnprune.model.tracing import Forward, call
from ewnprune.pruning.choice import Choice, choose
from ewnprune.pruning.groups import Group, cut_of
from ewnprune.pruning.heads import Heads
from ewnprune.pruning.indices import Indices
from ewnprune.pruning.ranking import Scope
from ewnprune.pruning.reasons import refusal
from ewnprune.pruning.score_names import Score
from ewnprune.pruning.scores import Measured
from ewnprune.pruning.seen import Couple
from ewnprune.pruning.sensitivity import Sensitivity
from ewnprune.pruning.writable import unwritable


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
    max_per_layer: float | None = None,
    round_to: int = 1,
    heads: Heads = "keep",
    inputs: bool = False,
    couple: Couple = "mean",
    initial_norms: Mapping[str, Tensor] | None = None,
    measured: Measured | None = None,
    sensitivity: Sensitivity | None = None,
    seed: int | None = None,
    forward: Forward = call,
) -> dict[str, Tensor]:
    """Set the neurons of the lowest scores to zero, in place: weights, bias, what reads them.

    Where the layers that read them are not known, only the neurons' own weights and biases (and
    those of a BatchNorm that directly follows) are set to zero. A LayerNorm or GroupNorm that reads
    across neurons still counts the zeros: there the network is not the one that removal builds.

    Args:
        model: any model; reparametrized layers must be folded first.
        sparsity: fraction of the neurons, in [0, 1); never a whole group.
        example_input: a batch of inputs.
        indices: instead of a sparsity, the neurons by layer, see `remove_neurons`.
        score: see `remove_neurons`, as for the arguments that follow.
        layers: which layers.
        exclude: which of them to leave.
        scope: among which the lowest scores go.
        max_per_layer: the fraction of a group that goes at most.
        round_to: a multiple for the number that stays.
        heads: what goes of attention.
        inputs: whether features of the inputs go, see `remove_neurons`: the weights that read them.
        couple: the score of neurons that go together.
        initial_norms: norms at initialisation.
        measured: what `measure_neurons` gives.
        sensitivity: what `Curve.sensitivity` gives.
        seed: seed of scores that draw numbers.
        forward: from model and inputs to outputs.

    Returns:
        For each layer, which neurons stay, ``(n,)``; of inputs, by the name ``"inputs"``.

    Raises:
        ValueError: a layer cannot be masked; it is named with the reason. Not exactly one of
            ``sparsity`` and ``indices``, or indices that do not fit the model.

    >>> import torch
    >>> net = nn.Sequential(nn.Linear(4, 10), nn.ReLU(), nn.Linear(10, 3))
    >>> mask_neurons(net, 0.8, torch.zeros(1, 4))["0"].sum(), net[2].weight.count_nonzero()
    (tensor(2), tensor(6))
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
    model = as_made(model)
    with evaluating(model):
        found, units, _ = choose(model, example_input, sparsity, indices, score, choice, forward)
    refused = unwritable(model, found.groups)  # in which parametrized weights are no tensors
    if refused:
        remedy = "leave these layers with exclude={layers}"
        raise ValueError(refusal("neurons cannot be masked for good in", refused, remedy))
    tensors = dict([*model.named_parameters(), *model.named_buffers()])
    for name, keep in parameter_masks(found.network, found.groups, units).items():
        with torch.inference_mode(tensors[name].is_inference()), torch.no_grad():
            tensors[name].masked_fill_(~keep, 0)
    if inputs:
        return {group.name: group.channels(units[group.name]) for group in found.asked(units)}
    return {
        name: places.keep(num_neurons(model.get_submodule(name)), group.channels(units[group.name]))
        for group in found.asked(units)
        for name, places in group.makers.items()
    }


def parameter_masks(
    network: nn.Module, groups: Iterable[Group], units: Mapping[str, Tensor]
) -> dict[str, Tensor]:
    """What of a network's tensors belongs to the units that stay.

    A neuron goes with its weights and bias, the BatchNorm that it passes, and the weights that read
    it. Where nobody knows who reads it, with what is its own.

    Args:
        network: the network, plain.
        groups: the groups of it.
        units: for each group, which of its units stay.

    Returns:
        For each parameter and buffer that something goes from, by name, True for what stays.
    """
    cut = cut_of(network, groups, units)
    masks: dict[str, Tensor] = {}

    def note(name: str, key: str, keep: Tensor) -> None:
        module = network.get_submodule(name)
        tensor = getattr(module, key, None)
        if isinstance(tensor, Tensor) and not keep.all():
            path = f"{name}.{key}".lstrip(".")
            keep = keep.expand(tensor.shape).to(tensor.device)
            masks[path] = masks[path] & keep if path in masks else keep.clone()

    for name in dict.fromkeys([*cut.rows, *cut.columns]):
        layer = network.get_submodule(name)
        if is_recurrent(layer):
            for key, keep in kept_entries(layer, cut.rows.get(name), cut.columns.get(name)).items():
                note(name, key, keep)
            continue
        cells = kept_cells(layer, cut.rows.get(name), cut.columns.get(name))
        note(name, "weight", to_weight(layer, cells))
        if name in cut.rows:
            note(name, "bias", cut.rows[name])
    for name, keep in cut.channels.items():
        module: Any = network.get_submodule(name)
        if isinstance(module, nn.PReLU):
            continue  # which leaves zero at zero
        # without scale and shift of its own, zero stays zero around a mean of zero
        affine = isinstance(module, nn.Embedding) or getattr(module, "weight", None) is not None
        for key in ("weight", "bias") if affine else ("running_mean",):
            note(name, key, keep)
    for name, (dim, keep) in cut.parameters.items():
        owner, _, key = name.rpartition(".")
        shape = [1] * network.get_parameter(name).ndim
        shape[dim] = -1
        note(owner, key, keep.view(shape))
    return masks
