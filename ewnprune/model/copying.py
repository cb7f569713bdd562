"""Copies of networks: of their layers, and of nothing else that a module may hold."""

from collections import OrderedDict
from copy import deepcopy
from functools import partial
from types import MethodType
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.modules.module import _WrappedHook

from ewnprune.model.layers import plain_type
from ewnprune.model.parametrized import parametrizations_of
from ewnprune.model.preserve import run_eagerly, uncompiled


def copy_network(model: nn.Module, share: bool = False) -> nn.Module:
    """A copy with layers, parameters and buffers of its own, which shares all else with the model.

    A deep copy takes along whatever a module keeps, and there are things that cannot be copied: a
    loss with its graph, a lock, an open file, a profiler, a Trainer. A network needs none of them
    twice. Lists and dicts that modules keep are copied too, so that appending to one changes one
    network; layers in them, methods of layers, and the layers that hooks are called with, are those
    of the copy. Sharing (tied weights, a
    layer under two names) stays. Compiled parts run as they were before they were compiled, for
    compiled code would run the layers of the model. What ``torch.jit`` has made is shared.

    Args:
        model: any module.
        share: whether parameters and buffers are those of the model, and not copies.

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
        if isinstance(module, torch.jit.ScriptModule):
            copies[id(module)] = module
            continue
        copies[id(module)] = object.__new__(type(module))
        if share:
            tensors = [*module._parameters.values(), *module._buffers.values()]
            copies |= {id(tensor): tensor for tensor in tensors if tensor is not None}
            continue
        for parameter in module._parameters.values():
            if parameter is not None and id(parameter) not in copies:
                copies[id(parameter)] = deepcopy(parameter)  # a leaf, which torch can always copy
        for buffer in module._buffers.values():
            if buffer is not None and id(buffer) not in copies:
                copies[id(buffer)] = buffer.detach().clone()
    for module in (m for m in modules if copies[id(m)] is not m):
        kept = {name: _copied(value, copies) for name, value in vars(module).items()}
        vars(copies[id(module)]).update(kept)
    found: nn.Module = copies[id(model)]
    for module in found.modules() if not share else ():
        if isinstance(module, nn.RNNBase):
            module.flatten_parameters()  # on a GPU they lie side by side, or are moved at each call
    run_eagerly(found)
    return found


def training_copy(network: nn.Module) -> nn.Module:
    """A copy in train mode with tensors of its own, as a pass in it may write to them.

    Buffers hold running statistics; parameters may be averages of others (momentum encoders).
    """
    twin = copy_network(network)
    twin.train()
    for module in twin.modules():
        if isinstance(module, torch.jit.ScriptModule):
            module.eval()  # which the copy shares
    return twin


def plain_network(model: nn.Module) -> nn.Module:
    """A copy that shares the model's tensors, with the values of parametrized weights as tensors.

    Parametrizations of torch's kind that keep a state of their own (spectral norm) stay.
    """
    network = copy_network(model, share=True)
    pairs = zip([*network.modules()], [*model.modules()], strict=True)
    for module, original in pairs:
        for name, parts in parametrizations_of(module).items():
            if any(True for part in parts for _ in part.buffers()):
                continue
            put_plain(module, name, getattr(original, name).detach())
    return network


def leave_inference_mode(network: nn.Module) -> None:
    """Put copies in the place of a copy's tensors that were made in inference mode.

    A graph of gradients can keep none of those.
    """
    for module in network.modules():
        if isinstance(module, torch.jit.ScriptModule):
            continue  # which the copy shares with the model
        tables: list[dict[str, Any]] = [module._parameters, module._buffers, vars(module)]
        for table in tables:
            for key, value in table.items():
                if isinstance(value, Tensor) and value.is_inference():
                    trains, copy = value.requires_grad, value.clone()
                    parameter = isinstance(value, nn.Parameter)
                    table[key] = nn.Parameter(copy, trains) if parameter else copy


def put_plain(module: nn.Module, name: str, value: Tensor) -> None:
    """Give a module of a copy a value in the place of a parametrized tensor."""
    _unparametrize(module, name)
    module.register_parameter(name, nn.Parameter(value, requires_grad=False))
    _put_first(module._parameters, name)


def _unparametrize(module: nn.Module, name: str) -> None:
    """Take the parametrization of one tensor off a copy, whose class may be the original's too."""
    cls = type(module)
    table = dict(module._modules["parametrizations"]._modules)  # type: ignore[union-attr]
    for part in table.pop(name) or ():  # what takes other forms of it in state dicts goes with it
        if (hook := getattr(part, "load_hook", None)) is not None:
            module._load_state_dict_pre_hooks.pop(hook.id, None)
    if table:
        fields = {key: value for key, value in vars(cls).items() if key != name}
        module.__class__ = type(cls.__name__, cls.__bases__, fields)
        holder = module._modules["parametrizations"]
        shell: Any = object.__new__(type(holder))
        vars(shell).update(vars(holder))
        shell._modules = table
        module._modules["parametrizations"] = shell
    else:
        module.__class__ = plain_type(module)
        del module._modules["parametrizations"]


def _put_first(table: dict[str, Any], name: str) -> None:
    for other in [key for key in table if key != name]:
        table[other] = table.pop(other)


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
    if kind is _WrappedHook:  # which knows the module that it was registered on, weakly
        owner = value.module() if value.with_module else None
        if value.with_module and owner is None:
            return value
        return _WrappedHook(_copied(value.hook, copies), copies.get(id(owner), owner))
    method = uncompiled(value)
    if isinstance(method, MethodType) and id(method.__self__) in copies:
        return MethodType(method.__func__, copies[id(method.__self__)])
    return value
