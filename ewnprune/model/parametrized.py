"""Tensors that ``torch.nn.utils.parametrize`` computes from others."""

from typing import Any

from torch import nn


def parametrizations_of(module: nn.Module) -> dict[str, Any]:
    """The list of parametrizations on each of a module's own tensors, by name.

    `torch.nn.utils.parametrize.is_parametrized` is no help with compiled modules, which show the
    attributes of the module in them: it says yes of both.

    >>> net = nn.utils.parametrizations.weight_norm(nn.Linear(3, 2))
    >>> [*parametrizations_of(net)], [*parametrizations_of(nn.Linear(3, 2))]
    (['weight'], [])
    """
    if "parametrizations" not in module._modules:
        return {}
    table = module._modules["parametrizations"]
    return dict(table.items()) if isinstance(table, nn.ModuleDict) else {}


def parametrization_on(layer: nn.Module) -> nn.Module | None:
    """The first parametrization on the weight of a layer, if there is any."""
    found = parametrizations_of(layer).get("weight")
    return None if found is None else found[0]


def sources_of(module: nn.Module, name: str) -> list[nn.Parameter]:
    """The parameters that one of a module's own comes from: itself, or those it is computed of.

    >>> len(sources_of(nn.utils.parametrizations.weight_norm(nn.Linear(3, 2)), "weight"))
    2
    >>> sources_of(nn.Linear(3, 2, bias=False), "bias")
    []
    """
    lists = parametrizations_of(module)
    if name in lists:
        return [*lists[name].parameters()]
    return [own for key, own in module._parameters.items() if key == name and own is not None]
