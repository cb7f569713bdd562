"""Leave a model, and the random number generators, as they were."""

import random
from collections.abc import Iterable, Iterator
from contextlib import ExitStack, contextmanager
from functools import partial
from types import FunctionType, MethodType
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.utils.hooks import RemovableHandle

from ewnprune.model.fast_attention import without_fast_attention


@contextmanager
def evaluating(model: nn.Module, loader: Any = None) -> Iterator[None]:
    """Put a model into eval mode without gradients; on leaving all is as before, bit for bit.

    That is every train flag, buffer and attribute of every module (a forward pass may store
    things), the values of buffers and of tensors that modules keep, and the state of Python's,
    NumPy's and torch's generators, the model's GPUs' and those of `generators_of` the loader
    included. Parameters are the caller's not to write. Compiled parts run as they were before they
    were compiled, since compiled code calls no hooks, and attention runs layer by layer: see
    `without_fast_attention`.

    Autocast keeps no copies of weights meanwhile, which would be those of every network of a curve,
    and cuDNN tries out no kernels for widths that come once.

    Inference mode is left too: tensors made in it that a model keeps (a cache, say) could never
    be trained with. https://docs.pytorch.org/docs/stable/notes/autograd.html#inference-mode
    """
    scripted = [(module, module.training) for module in model.modules() if _is_scripted(module)]
    modules = [module for module in model.modules() if not _is_scripted(module)]
    attributes = [(module, dict(vars(module))) for module in modules]
    tables = [(module._buffers, dict(module._buffers)) for module in modules]
    with torch.inference_mode(False), torch.no_grad():
        contents = [(t, t.clone(), _version(t)) for t in _kept_tensors(model)]
    gpus = {p.device for p in model.parameters() if p.device.type == "cuda"}
    with same_draws(loader, gpus):
        try:
            with torch.inference_mode(False), torch.no_grad(), without_fast_attention(), _once():
                model.eval()
                run_eagerly(model)
                yield
        finally:
            for module, before in attributes:
                _restore(vars(module), before)
            for table, buffers in tables:
                _restore(table, buffers)
            for module, training in scripted:
                module.training = training  # the module knows it by itself, for its code
            for tensor, content, version in contents:
                if _changed(tensor, content, version):
                    with torch.inference_mode(tensor.is_inference()), torch.no_grad():
                        tensor.copy_(content)


@contextmanager
def _once() -> Iterator[None]:
    """For tensors that are used once: neither casts are kept, nor kernels chosen by trial."""
    cached, tried = torch.is_autocast_cache_enabled(), torch.backends.cudnn.benchmark
    torch.set_autocast_cache_enabled(False)
    torch.backends.cudnn.benchmark = False
    try:
        yield
    finally:
        torch.set_autocast_cache_enabled(cached)
        torch.backends.cudnn.benchmark = tried


@contextmanager
def same_draws(loader: Any = None, gpus: Iterable[torch.device] = ()) -> Iterator[None]:
    """Put back the state of Python's, NumPy's and torch's generators on leaving.

    Args:
        loader: whose generators are put back too, see `generators_of`.
        gpus: likewise.
    """
    generators = [(g, g.get_state()) for g in generators_of(loader)]
    python, numpy = random.getstate(), np.random.get_state()
    with torch.random.fork_rng(devices=list(gpus)):
        try:
            yield
        finally:
            random.setstate(python)
            np.random.set_state(numpy)
            for generator, state in generators:
                generator.set_state(state)


@contextmanager
def hooked(handles: Iterable[RemovableHandle]) -> Iterator[None]:
    """Take hooks off again on leaving."""
    with ExitStack() as stack:
        for handle in handles:
            stack.enter_context(handle)
        yield


def _is_scripted(module: nn.Module) -> bool:
    return isinstance(module, torch.jit.ScriptModule)


def _kept_tensors(model: nn.Module) -> list[Tensor]:
    """All buffers, and tensors that modules keep as plain attributes, each once."""
    kept = [value for m in model.modules() for value in vars(m).values()]
    tensors = [*model.buffers(), *(value for value in kept if isinstance(value, Tensor))]
    return list({id(tensor): tensor for tensor in tensors}.values())


def _version(tensor: Tensor) -> int | None:
    return None if tensor.is_inference() else tensor._version


def _changed(tensor: Tensor, content: Tensor, version: int | None) -> bool:
    plain = type(tensor) in (Tensor, nn.Parameter) and tensor.layout == torch.strided
    if plain and not tensor.is_quantized:
        # by value: kernels and other libraries write without telling the version counter
        return not same_bits(tensor, content)
    return version is None or tensor._version != version


def same_bits(first: Tensor, second: Tensor) -> bool:
    """Whether two plain tensors of the same shape and type hold the same bits.

    >>> same_bits(torch.tensor([torch.nan]), torch.tensor([torch.nan]))
    True
    >>> same_bits(torch.tensor(0.0), torch.tensor(-0.0))
    False
    """
    return first.is_meta or torch.equal(_bytes(first), _bytes(second))


def _bytes(tensor: Tensor) -> Tensor:
    tensor = tensor.detach().resolve_conj().resolve_neg().contiguous().view(-1)
    return (torch.view_as_real(tensor).view(-1) if tensor.is_complex() else tensor).view(
        torch.uint8
    )


def run_eagerly(model: nn.Module) -> None:
    """Have compiled parts of a model run as they were before they were compiled."""
    for module in model.modules():
        vars(module).update(eager_attributes(module))


def as_made(model: nn.Module) -> nn.Module:
    """The module that was given to ``torch.compile``: it calls hooks, and names layers as it did.

    >>> net = nn.Linear(2, 2)
    >>> as_made(torch.compile(net)) is as_made(net) is net
    True
    """
    return model._modules["_orig_mod"] if "dynamo_ctx" in vars(model) else model  # type: ignore[return-value]


def eager_attributes(module: nn.Module) -> dict[str, Any]:
    """Attributes with which a module runs as it was before it was compiled; none if it was not.

    >>> eager_attributes(nn.Linear(2, 2))
    {}
    """
    if _is_scripted(module):
        return {}  # by torch.jit, which has nothing else to run
    found = {}
    for name, value in vars(module).items():  # methods, as Lightning compiles those of a module
        if uncompiled(value) is not value:
            found[name] = uncompiled(value)
    if vars(module).get("_compiled_call_impl") is not None:  # by Module.compile
        found["_compiled_call_impl"] = None
    if as_made(module) is not module:
        found["forward"] = partial(_call, as_made(module))
    return found


def uncompiled(value: Any) -> Any:
    """The bound method that torch.compile made this function of; anything else as it is."""
    if not (isinstance(value, FunctionType) and hasattr(value, "_torchdynamo_orig_callable")):
        return value
    original = value._torchdynamo_orig_callable
    original = getattr(original, "__wrapped__", original)  # around torch's own there is one more
    return original if isinstance(original, MethodType) else value


def _call(module: nn.Module, *args: Any, **kwargs: Any) -> Any:
    return module(*args, **kwargs)  # not its bound __call__, which torch.fx replaces to trace


def _restore(table: dict[str, Any], before: dict[str, Any]) -> None:
    for name in [name for name in table if name not in before]:
        del table[name]
    for name, value in before.items():
        if name not in table or table[name] is not value:
            table[name] = value


def generators_of(loader: Any) -> list[torch.Generator]:
    """The generators that a loader draws from beside the global ones, each once.

    Those of itself, of its sampler, of its batch sampler and of the sampler in that. What is
    wrapped around a loader or a sampler shows them only if it has the same attributes.

    >>> own = torch.Generator()
    >>> sampler = torch.utils.data.RandomSampler(range(4), generator=own)
    >>> batches = torch.utils.data.BatchSampler(sampler, 2, drop_last=False)
    >>> generators_of(torch.utils.data.DataLoader(range(4), batch_sampler=batches)) == [own]
    True
    """
    batch_sampler = getattr(loader, "batch_sampler", None)
    samplers = [getattr(owner, "sampler", None) for owner in (loader, batch_sampler)]
    owners = [loader, batch_sampler, *samplers]
    found = [getattr(owner, "generator", None) for owner in owners]
    own = {id(one): one for one in found if isinstance(one, torch.Generator)}
    return list(own.values())
