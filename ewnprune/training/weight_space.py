"""Which parameters `EWNSGD` and `SWNSGD` normalize, written on the parameters themselves.

So an optimizer made from plain ``model.parameters()`` knows the layers that somebody else chose,
whatever the code between does with them: filter the frozen ones out, make groups of its own. The
mark is an attribute of the parameter object. A state dict, a checkpoint and a deep copy have none.
"""

from typing import Any

from torch import Tensor, nn

from ewnprune.model.layers import LayerPatterns, neuron_dim, neuron_groups, select_layers
from ewnprune.training.unfit import plain_weight

_MARK = "_ewnprune_neurons"  # (dim, groups) of the neurons of a chosen weight; None of the others


def mark_neurons(
    model: nn.Module, layers: LayerPatterns | None = None, exclude: LayerPatterns | None = None
) -> None:
    """Mark the weights of the layers chosen, and all other parameters as not chosen.

    Raises:
        ValueError: a pattern matches nothing, or the weight of a chosen layer is no parameter (it
            is parametrized, or pruned by torch): a mark on it would be lost. The parameters then
            have the marks that they had.
    """
    chosen = select_layers(model, layers, exclude).chosen
    weights = {name: plain_weight(name, layer) for name, layer in chosen.items()}
    for parameter in model.parameters():
        setattr(parameter, _MARK, None)
    for name, layer in chosen.items():
        setattr(weights[name], _MARK, (neuron_dim(layer), neuron_groups(layer)))


def unmark(model: nn.Module) -> None:
    """Take the marks off."""
    for parameter in model.parameters():
        vars(parameter).pop(_MARK, None)


def groups_by_mark(param_group: dict[str, Any], weight_norm: bool | None) -> list[dict[str, Any]]:
    """The groups that a group of marked parameters falls into: weights by layout, and the rest.

    None where no parameter of it has a mark, or where it says itself whether they are normalized.

    Args:
        param_group: as an optimizer takes it.
        weight_norm: what holds where it does not say.

    >>> net = nn.Sequential(nn.Linear(4, 3), nn.ReLU(), nn.Linear(3, 2))
    >>> groups_by_mark({"params": list(net.parameters())}, None)
    []
    >>> mark_neurons(net)
    >>> groups = groups_by_mark({"params": list(net.parameters()), "lr": 0.1}, None)
    >>> [(len(group["params"]), group["weight_norm"], group["lr"]) for group in groups]
    [(1, True, 0.1), (3, False, 0.1)]
    """
    params = param_group["params"]
    if param_group.get("weight_norm", weight_norm) is not None or isinstance(params, set):
        return []  # of sets torch's error says why not
    param_group["params"] = params = [params] if isinstance(params, Tensor) else list(params)
    by_mark: dict[tuple[int, int] | None, list[Any]] = {}
    found = False
    for item in params:
        parameter = item[1] if isinstance(item, tuple) else item  # torch takes pairs with names
        found = found or hasattr(parameter, _MARK)
        by_mark.setdefault(getattr(parameter, _MARK, None), []).append(item)
    if not found:
        return []
    rest = by_mark.pop(None, [])
    made = [
        {**param_group, "params": items, "weight_norm": True, "dim": mark[0], "groups": mark[1]}
        for mark, items in by_mark.items()
        if mark is not None
    ]
    return [*made, {**param_group, "params": rest, "weight_norm": False}] if rest else made


def marked(parameter: nn.Parameter) -> bool:
    """Whether this is the weight of a layer chosen."""
    return getattr(parameter, _MARK, None) is not None
