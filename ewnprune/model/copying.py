"""A copy of a network, of its layers and of nothing else that a module may hold."""

from collections import OrderedDict
from copy import deepcopy
from functools import partial
from types import MethodType
from typing import Any

from torch import nn

from ewnprune.model.preserve import run_eagerly, uncompiled


def copy_network(model: nn.Module) -> nn.Module:
    """A copy with layers, parameters and buffers of its own, which shares all else with the model.

    A deep copy takes along whatever a module keeps, and there are things that cannot be copied: a
    loss with its graph, a lock, an open file, a profiler, a Trainer. A network needs none of them
    twice. Lists and dicts that modules keep are copied too, so that appending to one changes one
    network; layers in them, and methods of layers, are those of the copy. Sharing (tied weights, a
    layer under two names) stays. Compiled parts run as they were before they were compiled, for
    compiled code would run the layers of the model.

    >>> import torch
    >>> from threading import Lock
    >>> net = nn.Sequential(nn.Linear(4, 3), nn.ReLU())
    >>> net.lock, net.last = Lock(), net(torch.ones(1, 4)).sum()
    >>> copy = copy_network(net)
    >>> copy[0].weight is net[0].weight, torch.equal(copy[0].weight, net[0].weight)
    (False, True)
    >>> copy.lock is net.lock, copy.last is net.last
    (True, True)
    """
    copies: dict[int, Any] = {}  # of modules, tensors and containers, by the id of the original
    modules = list(model.modules())
    for module in modules:
        copies[id(module)] = object.__new__(type(module))
        for parameter in module._parameters.values():
            if parameter is not None and id(parameter) not in copies:
                copies[id(parameter)] = deepcopy(parameter)  # a leaf, which torch can always copy
        for buffer in module._buffers.values():
            if buffer is not None and id(buffer) not in copies:
                copies[id(buffer)] = buffer.detach().clone()
    for module in modules:
        kept = {name: _copied(value, copies) for name, value in vars(module).items()}
        vars(copies[id(module)]).update(kept)
    found: nn.Module = copies[id(model)]
    run_eagerly(found)
    return found


def _copied(value: Any, copies: dict[int, Any]) -> Any:
    """A value that a module keeps, as the copy keeps it."""
    kind: Any = type(value)
    if id(value) in copies:
        return copies[id(value)]
    if kind in (dict, OrderedDict):
        copies[id(value)] = table = kind()  # known before its items are: one may lead back here
        table.update((key, _copied(item, copies)) for key, item in value.items())
        return table
    if kind is list:
        items: list[Any] = []
        copies[id(value)] = items
        items.extend(_copied(item, copies) for item in value)
        return items
    if kind in (tuple, set):
        return kind(_copied(item, copies) for item in value)
    if kind is partial:
        function, arguments = _copied(value.func, copies), _copied(value.args, copies)
        return partial(function, *arguments, **_copied(value.keywords, copies))
    method = uncompiled(value)
    if isinstance(method, MethodType) and id(method.__self__) in copies:
        return MethodType(method.__func__, copies[id(method.__self__)])
    return value
