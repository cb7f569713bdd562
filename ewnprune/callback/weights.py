"""Which weights a curve is of: those that validation evaluates, or those that the user gets."""

from collections.abc import Iterator
from contextlib import contextmanager
from itertools import chain
from typing import Any

import torch
from torch import Tensor, nn

from ewnprune.model.preserve import evaluating
from ewnprune.model.sharding import is_dtensor
from ewnprune.namespaces import has_own, is_a

_BITS = {1: torch.uint8, 2: torch.int16, 4: torch.int32, 8: torch.int64}
_GOLDEN, _MIX = 0x9E3779B97F4A7C15 - 2**64, 0xBF58476D1CE4E5B9 - 2**64
_AT_ONCE = 2**18


def fingerprint(model: nn.Module) -> tuple[int, ...]:
    """A number for each parameter and buffer, by the bits of its values and their order.

    Equal weights have equal fingerprints on every device; a copy of them need not be kept.

    >>> net = nn.Linear(3, 2)
    >>> before = fingerprint(net)
    >>> with torch.no_grad():
    ...     _ = net.bias.mul_(1 + 1e-6)
    >>> [new == old for new, old in zip(fingerprint(net), before)]
    [True, False]
    """
    return tuple(int(_checksum(t.detach())) for t in chain(model.parameters(), model.buffers()))


def _checksum(tensor: Tensor) -> Tensor:
    own = tensor.to_local() if is_dtensor(tensor) else tensor  # type: ignore[attr-defined]
    real = torch.view_as_real(own) if own.is_complex() else own
    bits = real.contiguous().flatten().view(_BITS[real.element_size()])
    total = torch.zeros((), dtype=torch.long, device=bits.device)
    for start in range(0, len(bits), _AT_ONCE):  # its numbers take up to eight times the room
        part = bits[start : start + _AT_ONCE].long()
        places = torch.arange(start, start + len(part), device=bits.device)
        part = part.add(places, alpha=_GOLDEN).mul_(_MIX)  # overflows, as splitmix64 does
        total += part.bitwise_xor_(part >> 32).mul_(_GOLDEN).sum()
    return total


@contextmanager
def as_validated(trainer: Any, pl_module: Any) -> Iterator[None]:
    """The weights that validation evaluates, for as long; then all is as before, bit for bit.

    Schedule-free optimizers keep others for training, and exchange them in the module's
    ``on_validation_model_eval`` and ``on_validation_model_train``; so these are called as
    pytorch_lightning/loops/evaluation_loop.py:338 does. `WeightAveraging` does it in its own hooks
    of a validation epoch. Exchanging there and back rounds, so the tensors are kept meanwhile.
    """
    averaging = [c for c in trainer.callbacks if is_a(c, "WeightAveraging")]
    if not averaging and not may_exchange_weights(pl_module):
        yield
        return
    tensors = [*pl_module.parameters(), *pl_module.buffers()]
    kept = [tensor.detach().clone() for tensor in tensors]
    # with those of a wrapper such as DDP's
    flags = [(m, m.training) for whole in (trainer.model, pl_module) for m in whole.modules()]
    try:
        pl_module.on_validation_model_eval()
        for callback in averaging:
            callback.on_validation_epoch_start(trainer, pl_module)
        yield
    finally:
        for callback in reversed(averaging):
            callback.on_validation_epoch_end(trainer, pl_module)
        pl_module.on_validation_model_train()
        for module, training in flags:
            module.training = training
        with torch.no_grad():
            for tensor, before in zip(tensors, kept, strict=True):
                tensor.copy_(before)


@contextmanager
def on_root_device(trainer: Any, pl_module: Any) -> Iterator[None]:
    """The model where it was trained: pytorch_lightning/strategies/strategy.py:536 takes it off."""
    home, device = pl_module.device, trainer.strategy.root_device
    if home == device:
        yield
        return
    pl_module.to(device)
    try:
        yield
    finally:
        pl_module.to(home)


@contextmanager
def with_buffers_of_one(trainer: Any, pl_module: Any) -> Iterator[None]:
    """The buffers of the first process in all of them, for as long; all processes must enter.

    Running statistics are those of a process's own batches until DDP's next forward pass in
    training, which may be a whole epoch away, and scores that see them would remove other neurons
    in each process. What is spread over processes stays as it is.
    """
    if trainer.world_size == 1:
        yield
        return
    with evaluating(pl_module):  # which puts them back
        own = {name: b for name, b in pl_module.named_buffers() if not is_dtensor(b)}
        first = trainer.strategy.broadcast({name: b.cpu() for name, b in own.items()})
        for name, buffer in own.items():
            value = first[name].to(buffer.device)
            if not torch.equal(buffer, value):
                with torch.inference_mode(buffer.is_inference()):
                    buffer.copy_(value)
        yield


def may_exchange_weights(pl_module: Any) -> bool:
    """Whether a module has hooks of its own, in which it may put other weights in for validation.

    Args:
        pl_module: the module, of either of Lightning's namespaces.
    """
    return any(has_own(pl_module, f"on_validation_model_{mode}") for mode in ("eval", "train"))
