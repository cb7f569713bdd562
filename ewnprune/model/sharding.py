"""Several processes, and FSDP2's sharded models while something needs the whole weights."""

from collections import OrderedDict
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from torch import Tensor, distributed, nn


def several_processes() -> bool:
    """Whether torch runs in more than one process."""
    running = distributed.is_available() and distributed.is_initialized()
    return running and distributed.get_world_size() > 1


def is_sharded(model: nn.Module) -> bool:
    """Whether ``fully_shard`` was applied to the model or a part of it."""
    return any(_sharded(module) for module in model.modules())


def is_dtensor(tensor: Tensor) -> bool:
    """Whether a tensor is spread over processes."""
    return hasattr(tensor, "device_mesh")


def whole(tensor: Tensor) -> Tensor:
    """A tensor in one piece, of a DTensor or as it is; all processes must call."""
    return tensor.full_tensor() if is_dtensor(tensor) else tensor  # type: ignore[attr-defined]


@contextmanager
def gathered(model: nn.Module) -> Iterator[None]:
    """Whole plain weights in the place of the shards, so that forward passes do not communicate.

    All processes must enter, and each needs room for all the weights. Nothing else changes, and
    models that are not sharded stay as they are.
    """
    sharded: list[Any] = [module for module in model.modules() if _sharded(module)]
    hooks = [(module, {kind: getattr(module, kind) for kind in _HOOKS}) for module in sharded]
    try:
        for module in sharded:
            module.unshard()
            for kind in _HOOKS:  # these gather before, and scatter after every forward pass
                kept = {k: f for k, f in getattr(module, kind).items() if not _of_fsdp(f)}
                setattr(module, kind, OrderedDict(kept))
        yield
    finally:
        for module, before in hooks:
            for kind, found in before.items():
                setattr(module, kind, found)
            module.reshard()


_HOOKS = ("_forward_pre_hooks", "_forward_hooks")


def _sharded(module: nn.Module) -> bool:
    # FSDPModule, which torch 2.4 has in another place than later ones
    return hasattr(module, "unshard") and hasattr(module, "reshard")


def _of_fsdp(hook: Any) -> bool:
    return ".fsdp." in f"{type(getattr(hook, '__self__', None)).__module__}."
