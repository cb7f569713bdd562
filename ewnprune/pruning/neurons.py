"""Read a model's neurons, score them and rank them."""

import importlib
import inspect
from collections.abc import Callable, Mapping, Sequence
from typing import Any
from zlib import crc32

import torch
from torch import Tensor, nn

from ewnprune.model.anatomy import Anatomy
from ewnprune.model.layers import neuron_rows
from ewnprune.pruning import scores as known
from ewnprune.pruning.ranking import Ranking, Scope, rank
from ewnprune.pruning.scores import Neurons

Score = Callable[[Neurons], Tensor]


def find_scores(wanted: str | Score | Sequence[str | Score]) -> dict[str, Score]:
    """Scores by the name they go by.

    Args:
        wanted: names of functions of `ewnprune.scores`, import paths
            (``"package.module.function"``), functions, or a sequence of these.

    Raises:
        ValueError: no such score, or one is given twice.
        TypeError: something that is no score.

    >>> list(find_scores(["norm", "ewnprune.scores.random"]))
    ['norm', 'ewnprune.scores.random']
    """
    found: dict[str, Score] = {}
    for item in [wanted] if isinstance(wanted, str) or callable(wanted) else wanted:
        name = item if isinstance(item, str) else getattr(item, "__name__", type(item).__name__)
        if name in found:
            raise ValueError(f"score {name!r} is given twice: give each score once")
        found[name] = _find(item) if isinstance(item, str) else item
        if not callable(found[name]):
            raise TypeError(f"score {item!r}: expected a function of ewnprune.scores.Neurons")
    if not found:
        raise ValueError(f"no score is given: choose among {_choices()}")
    return found


def rank_neurons(
    name: str,
    score: Score,
    anatomy: Anatomy,
    scope: Scope = "layer",
    initial_norms: Mapping[str, Tensor] | None = None,
    seed: int | None = None,
) -> Ranking:
    """Score the neurons (or single weights) of the chosen layers, and rank them.

    Args:
        name: the score's name, for messages.
        score: a function of `Neurons`.
        anatomy: the layers, and who reads their neurons.
        scope: see `rank`.
        initial_norms: norms at initialisation, by layer name.
        seed: seed of scores that draw numbers; None is 0.

    Raises:
        ValueError: what the score function raises, scores of the wrong shape, NaN scores, or
            neuron scores for one layer and weight scores for another.
    """
    values = {}
    for layer_name in anatomy.chosen:
        neurons = _read(layer_name, anatomy, initial_norms, seed)
        with torch.no_grad():
            values[layer_name] = score(neurons)
        check_scores(name, values[layer_name], neurons)
    if len({value.ndim for value in values.values()}) > 1:
        raise ValueError(
            f"score {name!r} gives one number per neuron for some layers and one per weight for "
            "others: expected the same for all"
        )
    # neurons are few, and on the CPU all devices order them alike
    return rank({key: v.cpu() if v.ndim == 1 else v for key, v in values.items()}, scope)


def _find(path: str) -> Score:
    module_name, _, function = path.rpartition(".")
    if not module_name:
        if path not in _choices():
            raise ValueError(
                f"unknown score {path!r}: choose among {', '.join(_choices())}, or give an "
                "import path such as 'my_package.my_module.my_score'"
            )
        return getattr(known, path)  # type: ignore[no-any-return]
    try:
        return getattr(importlib.import_module(module_name), function)  # type: ignore[no-any-return]
    except (ImportError, AttributeError) as error:
        raise ValueError(f"score {path!r} cannot be imported: {error}") from error


def _choices() -> list[str]:
    return [
        name
        for name, value in vars(known).items()
        if inspect.isfunction(value) and value.__module__ == known.__name__ and name[0] != "_"
    ]


def _read(
    name: str,
    anatomy: Anatomy,
    initial_norms: Mapping[str, Tensor] | None,
    seed: int | None,
) -> Neurons:
    layer, flow = anatomy.chosen[name], anatomy.flows[name]
    rows = precise(neuron_rows(layer))
    bias: Any = layer.bias
    initial = None if initial_norms is None else initial_norms.get(name)
    if initial is not None and initial.numel() != len(rows):
        raise ValueError(
            f"initial_norms[{name!r}] has {initial.numel()} numbers: expected one for each of "
            f"the layer's {len(rows)} neurons"
        )
    outgoing = [
        _columns(anatomy.modules[reader.name], len(rows)).to(rows.device)
        for reader in flow.consumers
    ]
    return Neurons(
        layer=name,
        rows=rows,
        bias=None if bias is None else precise(bias),
        outgoing=torch.cat(outgoing, dim=1) if outgoing else None,
        no_outgoing=flow.unknown,
        initial_norm=None if initial is None else precise(initial.flatten().to(rows.device)),
        seed=layer_seed(name, seed),
    )


def layer_seed(name: str, seed: int | None) -> int:
    """Seed of one layer: by name, so that two layers of one size draw different numbers.

    Raises:
        TypeError: the seed is no whole number.
    """
    if not isinstance(seed, int | None):
        raise TypeError(f"seed={seed!r}: expected a whole number or None")
    return ((seed or 0) * 0x9E3779B1 + crc32(name.encode())) % 2**63


def _columns(consumer: nn.Module, neurons: int) -> Tensor:
    """What a layer multiplies each incoming neuron with: one row per neuron."""
    rows = precise(neuron_rows(consumer))
    groups: int = getattr(consumer, "groups", 1)
    inputs: Any = consumer.in_features if isinstance(consumer, nn.Linear) else consumer.in_channels
    # (groups, outputs per group, inputs per group, kernel) -> one row per input
    cells = rows.view(groups, len(rows) // groups, inputs // groups, -1)
    return cells.transpose(1, 2).reshape(neurons, -1)


def precise(tensor: Tensor) -> Tensor:
    """The values that scores are computed from: float32, or float64 where the tensor is."""
    tensor = tensor.detach()
    return tensor if tensor.dtype == torch.float64 else tensor.float()


def check_scores(name: str, values: object, neurons: Neurons) -> None:
    """Refuse what a score function must not return.

    Raises:
        ValueError: not one number per neuron or per weight.
    """
    count, fan_in = neurons.rows.shape
    if not isinstance(values, Tensor) or values.shape not in ((count,), (count, fan_in)):
        got = tuple(values.shape) if isinstance(values, Tensor) else type(values).__name__
        raise ValueError(
            f"score {name!r} gives {got} for layer {neurons.layer!r}: expected a tensor of shape "
            f"({count},), one number per neuron, or ({count}, {fan_in}), one per weight"
        )
