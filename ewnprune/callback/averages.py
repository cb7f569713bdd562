"""Averages of weights that Lightning's callbacks keep: in their models, and in checkpoints.

They are copies of the attached model, and plain where that is: after the fit, and in checkpoints,
which those callbacks load in evaluations too, and in fits without this package.
"""

from collections.abc import Iterator, Mapping
from typing import Any

from torch import nn

from ewnprune.training.parametrizations import NeuronParametrization
from ewnprune.training.state_dict import fold_state_dict


def averaged_models(trainer: Any) -> list[nn.Module]:
    """What callbacks average the model in: pytorch_lightning's two have it under this name."""
    models = [getattr(callback, "_average_model", None) for callback in trainer.callbacks]
    return [model for model in models if isinstance(model, nn.Module)]


def fold_averages(
    checkpoint: dict[str, Any], attached: Mapping[str, NeuronParametrization]
) -> dict[str, dict[str, Any]]:
    """Put plain weights in place of the originals in all but the checkpoint's ``state_dict``.

    Args:
        checkpoint: what is about to be saved.
        attached: the parametrization on each layer, by name.

    Returns:
        The originals, by where they were.
    """
    originals = {}
    for name, holder, key in _places(checkpoint):
        state = holder[key]
        holder[key] = folded = fold_state_dict(state, attached)
        originals[name] = {k: value for k, value in state.items() if k not in folded}
    return {name: found for name, found in originals.items() if found}


def unfold(state: Mapping[str, Any], originals: Mapping[str, Any]) -> dict[str, Any]:
    """A state dict with originals in place of the plain weights made of them.

    >>> unfold({"0.weight": 1, "0.bias": 2}, {"0.parametrizations.weight.original0": 3})
    {'0.bias': 2, '0.parametrizations.weight.original0': 3}
    """
    layers = {key.partition("parametrizations.")[0] for key in originals}
    plain = {key: value for key, value in state.items() if key.removesuffix("weight") not in layers}
    return {**plain, **originals}


def unfold_averages(
    checkpoint: dict[str, Any],
    originals: Mapping[str, Any],
    averages: Mapping[str, Mapping[str, Any]],
) -> None:
    """Have averaging callbacks, whose turn comes next, go on from the originals bit for bit.

    `WeightAveraging` keeps its average as the checkpoint's ``state_dict``.

    Args:
        checkpoint: what is being loaded.
        originals: of its ``state_dict``.
        averages: what `fold_averages` gave.
    """
    if "state_dict" in checkpoint:  # of a folder of shards the strategy has loaded it already
        checkpoint["state_dict"] = unfold(checkpoint["state_dict"], originals)
    for name, holder, key in _places(checkpoint):
        holder[key] = unfold(holder[key], averages.get(name, {}))


def _places(checkpoint: dict[str, Any]) -> Iterator[tuple[str, dict[str, Any], str]]:
    """Where there are state dicts of the whole model: a name, what holds it, and its key there."""
    if "current_model_state" in checkpoint:  # of WeightAveraging
        yield "current_model_state", checkpoint, "current_model_state"
    for callback, state in checkpoint.get("callbacks", {}).items():
        if isinstance(state, dict) and isinstance(state.get("average_model_state"), dict):
            yield str(callback), state, "average_model_state"  # of StochasticWeightAveraging
