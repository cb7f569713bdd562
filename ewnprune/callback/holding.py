"""Keep what was pruned at zero while a network trains on, whatever the optimizer does."""

import warnings
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim import Optimizer
from torch.utils.hooks import RemovableHandle

from ewnprune.model.cells import to_weight
from ewnprune.model.copying import plain_network
from ewnprune.model.layers import neuron_rows
from ewnprune.model.preserve import evaluating
from ewnprune.model.recurrent import hidden_rows, is_recurrent, weight_names
from ewnprune.model.tensors import device_of, to_device
from ewnprune.model.tracing import Forward, call
from ewnprune.pruning.choice import Choice
from ewnprune.pruning.found import Found
from ewnprune.pruning.inputs import INPUTS, agree_on_deviations
from ewnprune.pruning.ranking import check_sparsities
from ewnprune.pruning.score_names import Score, find_scores
from ewnprune.pruning.scores import Neurons
from ewnprune.pruning.writable import unwritable
from ewnprune.pruning.zeroing import parameter_masks
from ewnprune.training.attach import attached_parametrizations


def pruning_masks(
    model: nn.Module,
    sparsity: float,
    example_input: Any,
    *,
    score: str | Score = "norm",
    choice: Choice | None = None,
    forward: Forward = call,
    calibration: Sequence[Any] = (),
) -> dict[str, Tensor]:
    """What `mask_neurons` sets to zero, without doing it; single weights too.

    Args:
        model: a plain model, left as it is.
        sparsity: fraction of the neurons or weights, in [0, 1).
        example_input: a batch of inputs.
        score: one number per neuron or per weight.
        choice: which layers are pruned and how; by default all, layer by layer.
        forward: from model and inputs to outputs.
        calibration: batches that features of the inputs are scored by; by default the example.

    Returns:
        For each parameter and buffer that something goes from, by name, True for what stays.

    Raises:
        ValueError: as `mask_neurons` does.

    >>> net = nn.Sequential(nn.Linear(4, 10), nn.ReLU(), nn.Linear(10, 3))
    >>> masks = pruning_masks(net, 0.8, torch.zeros(1, 4))
    >>> {name: int(keep.sum()) for name, keep in masks.items()}
    {'0.weight': 8, '0.bias': 2, '2.weight': 6}
    """
    (level,) = check_sparsities([sparsity])
    ((name, function),) = find_scores(score).items()
    choice = choice or Choice()
    example = to_device(example_input, device_of(model))
    with evaluating(model):
        found = choice.find(plain_network(model), forward, example, calibration)
        agree_on_deviations(found, device_of(model))
        ranking, notes = choice.rank(found, name, function)
    for note in notes:  # no curve tells of them: another score may be swept
        warnings.warn(str(note), stacklevel=2)
    if ranking.unit == "weights":
        chosen = found.anatomy.chosen
        return {
            f"{name}.weight".lstrip("."): to_weight(chosen[name], kept)
            for name, kept in ranking.keep(level).items()
            if not kept.all()
        }
    return neuron_masks(found, choice.units(found, ranking, level))


def neuron_masks(found: Found, units: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """As `pruning_masks`, of units that are chosen already.

    Args:
        found: the groups of a network.
        units: for each group, which of its units stay.

    Raises:
        ValueError: neurons that cannot be held at zero.
    """
    refused = unwritable(found.network, found.groups)
    if refused:
        name, reason = next(iter(refused.items()))
        raise ValueError(
            f"neurons of {name!r} cannot be held at zero, since {reason}: leave it with "
            f"exclude={name!r}"
        )
    return parameter_masks(found.network, found.groups, units)


def pruned_first(name: str, score: Score, model: nn.Module, masks: Mapping[str, Tensor]) -> Score:
    """The same score, but what a pruned network is without goes before all others.

    Zero weights would have the lowest norm anyway, but not the lowest of every score.

    Args:
        name: the score's name.
        score: one number per neuron or per weight.
        model: the pruned network.
        masks: as in `set_to_zero`.
    """

    def scored(neurons: Neurons) -> Tensor:
        values = score(neurons)
        if neurons.layer == INPUTS and neurons.raw_rows is not None:
            # nothing reads those that went
            return values.masked_fill(~neurons.raw_rows.any(dim=1), -torch.inf)
        layer = model.get_submodule(neurons.layer)
        key = "weight_hh_l0" if is_recurrent(layer) else "weight"
        keep = masks.get(f"{neurons.layer}.{key}".lstrip("."))
        if keep is None:
            return values
        if is_recurrent(layer):
            kept = {name: masks[f"{neurons.layer}.{name}"] for name in weight_names(layer)}
            stays = hidden_rows(layer, kept).to(values.device)
        else:
            stays = neuron_rows(layer, keep).to(values.device)
        return values.masked_fill(~(stays if values.ndim > 1 else stays.any(dim=1)), -torch.inf)

    scored.__name__ = name
    return scored


def set_to_zero(model: nn.Module, masks: Mapping[str, Tensor]) -> None:
    """Set to zero, in place, what does not stay; the model may be reparametrized.

    Args:
        model: the model.
        masks: for each tensor, by its name in the plain model, True for what stays.
    """
    tensors, attached = dict(_tensors(model)), attached_parametrizations(model)
    with torch.no_grad():
        for name, keep in masks.items():
            layer = name.rpartition(".")[0]
            if name not in tensors:  # a weight that a parametrization makes
                originals = [tensors[key] for key in _originals(name, tensors)]
                masked = attached[layer].masked(keep.to(originals[-1].device), *originals)
                for original, new in zip(originals, masked, strict=True):
                    original.copy_(new)
            else:
                tensors[name].masked_fill_(~keep.to(tensors[name].device), 0)


def are_zero(model: nn.Module, masks: Mapping[str, Tensor]) -> bool:
    """Whether all that does not stay is zero in a model; in one of other tensors it is not.

    Args:
        model: the model, plain or reparametrized.
        masks: as in `set_to_zero`.

    >>> net = nn.Linear(2, 2)
    >>> masks = {"weight": torch.tensor([[True, True], [False, False]])}
    >>> before = are_zero(net, masks)
    >>> set_to_zero(net, masks)
    >>> before, are_zero(net, masks)
    (False, True)
    """
    tensors = dict(_tensors(model))
    for name, keep in masks.items():
        found = tensors.get((_originals(name, tensors) or [name])[-1])
        if found is None or found.shape != keep.shape or found[~keep.to(found.device)].any():
            return False
    return True


def hold_at_zero(
    model: nn.Module, masks: Mapping[str, Tensor], optimizers: Iterable[Optimizer]
) -> list[RemovableHandle]:
    """Keep at zero what is zero, until the handles are removed.

    Gradients there are zero, so that neither a norm to clip by nor an optimizer's state sees them,
    and every step is followed by setting the weights to zero again: no momentum, weight decay or
    mixing of rows brings them back. The weight of a reparametrized layer is zero where the last of
    its originals is.

    Args:
        model: the model, with zeros there already.
        masks: as in `set_to_zero`.
        optimizers: those that train it.
    """
    parameters = dict(model.named_parameters())
    held = []
    for name, keep in masks.items():
        found = parameters.get((_originals(name, parameters) or [name])[-1])
        if found is not None:  # else a buffer, which stays at zero by itself
            held.append((found, ~keep.to(found.device)))

    def after_step(*_: Any) -> None:
        with torch.no_grad():
            for parameter, gone in held:
                parameter.masked_fill_(gone, 0)

    handles = [
        parameter.register_hook(lambda grad, gone=gone: grad.masked_fill(gone, 0))
        for parameter, gone in held
        if parameter.requires_grad
    ]
    return handles + [optimizer.register_step_post_hook(after_step) for optimizer in optimizers]


def _tensors(model: nn.Module) -> Iterator[tuple[str, Tensor]]:
    yield from model.named_parameters()
    yield from model.named_buffers()


def _originals(name: str, tensors: Mapping[str, Tensor]) -> list[str]:
    """Names of what a weight of this name is made of; none where it is plain."""
    layer, _, weight = name.rpartition(".")
    prefix = f"{layer}.parametrizations.{weight}".lstrip(".")
    return [key for key in (f"{prefix}.original0", f"{prefix}.original1") if key in tensors]
