"""Which tensors can be cut or set to zero for one module alone."""

from collections.abc import Mapping, Sequence

import torch
from torch import nn

from ewnprune.model.parametrized import parametrizations_of
from ewnprune.model.recurrent import is_recurrent, weight_names
from ewnprune.model.tensors import holders_of_parameters
from ewnprune.pruning.groups import Group


def unwritable(network: nn.Module, groups: Sequence[Group]) -> Mapping[str, str]:
    """Groups with tensors that cannot be cut for one module alone, each with the reason."""
    holders = holders_of_parameters(network)
    found: dict[str, str] = {}
    for group in groups:
        for name in sorted(group.touched):
            reason = _why(name, network.get_submodule(name), holders)
            if reason:
                found.setdefault(group.name, reason)
    return found


def _why(name: str, module: nn.Module, holders: Mapping[int, Sequence[tuple[str, str]]]) -> str:
    if isinstance(module, torch.jit.ScriptModule):
        return f"{name!r} is made by torch.jit, and can be neither copied nor cut"
    if parametrizations_of(module):
        return (
            f"{name!r} is parametrized: ewnprune.fold, or of others than ours torch.nn.utils."
            "parametrize.remove_parametrizations, makes it plain"
        )
    names = weight_names(module) if is_recurrent(module) else ["weight"]
    if not all(isinstance(getattr(module, name, None), nn.Parameter | None) for name in names):
        return f"the weight of {name!r} is no parameter (the older weight_norm, or prune?)"
    for key, parameter in module._parameters.items():
        for other, _ in () if parameter is None else holders[id(parameter)]:
            if other != name:
                return f"{name!r} shares its {key} with {other!r}"
    return ""
