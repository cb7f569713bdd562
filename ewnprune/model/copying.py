"""Copies of networks: their modules and tensors, and nothing else that a user's module holds."""

from collections.abc import Mapping
from functools import partial
from types import MethodType
from typing import Any

from torch import Tensor, nn
from torch.nn.utils import parametrize

_HOOKS = "hooks"  # part of the name of every table of hooks that torch keeps in a module


def copy_network(model: nn.Module, share: bool = False) -> nn.Module:
    """A copy of a model with modules of its own, whatever else the model holds.

    Not ``copy.deepcopy``, which fails on what a user's module may keep beside its layers (its last
    loss, a lock, an open file, a Trainer): such attributes are the same objects in the copy. Lists,
    tuples, dictionaries, partial functions and bound methods are made anew where they lead to
    modules, so that the copy calls its own.

    A module that torch has compiled into a graph of its own (``torch.jit``) is shared.

    Args:
        model: any module.
        share: whether parameters and buffers are those of the model; otherwise they are clones.

    >>> import threading
    >>> net = nn.Sequential(nn.Linear(2, 2))
    >>> net.lock, net.first = threading.Lock(), [net[0]]
    >>> twin = copy_network(net)
    >>> twin.lock is net.lock, twin.first[0] is twin[0], twin[0] is net[0]
    (True, True, False)
    """
    copies: dict[int, nn.Module] = {}
    tensors: dict[int, Tensor] = {}
    for module in model.modules():
        jit = type(module).__module__.startswith("torch.jit")
        copies[id(module)] = module if jit else _empty(module)
    for module in model.modules():
        if copies[id(module)] is not module:
            _fill(copies[id(module)], module, copies, tensors, share)
    return copies[id(model)]


def plain_network(model: nn.Module) -> nn.Module:
    """A copy that shares the model's tensors, with the values of parametrized weights as tensors.

    Parametrizations of torch's kind that keep a state of their own (spectral norm) stay.
    """
    network = copy_network(model, share=True)
    pairs = zip([*network.modules()], [*model.modules()], strict=True)
    for module, original in pairs:
        if not parametrize.is_parametrized(module):
            continue
        tables: Any = module.parametrizations
        for name in list(tables):
            if any(True for part in tables[name] for _ in part.buffers()):
                continue
            value = getattr(original, name).detach()
            _unparametrize(module, name)
            module.register_parameter(name, nn.Parameter(value, requires_grad=False))
            _put_first(module._parameters, name)
    return network


def _unparametrize(module: nn.Module, name: str) -> None:
    """Take the parametrization of one tensor off a copy, whose class may be the original's too."""
    cls = type(module)
    table = dict(module._modules["parametrizations"]._modules)  # type: ignore[union-attr]
    del table[name]
    if table:
        fields = {key: value for key, value in vars(cls).items() if key != name}
        module.__class__ = type(cls.__name__, cls.__bases__, fields)
        shell = _empty(module._modules["parametrizations"])  # type: ignore[arg-type]
        vars(shell).update(vars(module._modules["parametrizations"]))
        shell._modules = table
        module._modules["parametrizations"] = shell
    else:
        module.__class__ = cls.__bases__[0]
        del module._modules["parametrizations"]


def _put_first(table: dict[str, Any], name: str) -> None:
    for other in [key for key in table if key != name]:
        table[other] = table.pop(other)


def _empty(module: nn.Module) -> nn.Module:
    return type(module).__new__(type(module))


def _fill(
    copy: nn.Module,
    module: nn.Module,
    copies: Mapping[int, nn.Module],
    tensors: dict[int, Tensor],
    share: bool,
) -> None:
    def tensor(value: Tensor | None) -> Tensor | None:
        if value is None or share:
            return value
        if id(value) not in tensors:  # shared by several modules: so is its clone
            clone = value.detach().clone()
            parameter = isinstance(value, nn.Parameter)
            tensors[id(value)] = nn.Parameter(clone, value.requires_grad) if parameter else clone
        return tensors[id(value)]

    for name, value in vars(module).items():
        if name in ("_parameters", "_buffers"):
            vars(copy)[name] = {key: tensor(part) for key, part in value.items()}
        elif name == "_modules":
            vars(copy)[name] = {
                key: None if part is None else copies[id(part)] for key, part in value.items()
            }
        elif _HOOKS in name and hasattr(value, "copy"):
            vars(copy)[name] = value.copy()
        else:
            vars(copy)[name] = _lead_to(value, copies)


def _lead_to(value: Any, copies: Mapping[int, nn.Module]) -> Any:
    """The same value, with the copies in place of the modules that it leads to."""
    if isinstance(value, nn.Module):
        return copies.get(id(value), value)
    if isinstance(value, MethodType) and isinstance(value.__self__, nn.Module):
        return MethodType(value.__func__, copies.get(id(value.__self__), value.__self__))
    if type(value) is partial:
        args = [_lead_to(part, copies) for part in value.args]
        named = {key: _lead_to(part, copies) for key, part in value.keywords.items()}
        return partial(_lead_to(value.func, copies), *args, **named)
    if type(value) in (list, tuple, set):
        return type(value)(_lead_to(part, copies) for part in value)
    if type(value) is dict:
        return {key: _lead_to(part, copies) for key, part in value.items()}
    return value
