"""BatchNorm for images that see different networks: each normalized by those that see the same."""

from collections.abc import Callable, Iterable
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional
from torch.nn.modules.batchnorm import _BatchNorm
from torch.utils.hooks import RemovableHandle

from ewnprune.model.anatomy import Anatomy


class Order(NamedTuple):
    """The order that brings the images of a batch that see the same network side by side.

    Attributes:
        there: the images in that order, ``(B,)``.
        back: the places of the images in that order, ``(B,)``.
        sizes: how many images see the whole network, and each of the others; a tensor, since
            compiled code is made anew for other numbers.
    """

    there: Tensor
    back: Tensor
    sizes: Tensor

    @classmethod
    def of(cls, numbers: Tensor, device: torch.device | None = None) -> "Order":
        """For the number of the network that each image sees, ``(B,)``, 0 for the whole one.

        >>> Order.of(torch.tensor([1, 0, 1]))
        Order(there=tensor([1, 0, 2]), back=tensor([1, 0, 2]), sizes=tensor([1, 2]))
        """
        there = numbers.argsort(stable=True)
        return cls(there.to(device), there.argsort().to(device), numbers.bincount())


def normalize_apart(norm: nn.Module, order: Callable[[], Order | None]) -> list[RemovableHandle]:
    """Have a BatchNorm in training normalize the images of each network by themselves.

    Its running statistics are of the images that see the whole network. Where a network has one
    image alone, which has no variance, that image is normalized as one of the batch.

    Args:
        norm: a BatchNorm.
        order: gives that of the batch; None leaves the batch whole.

    Returns:
        Handles that undo it.

    >>> import torch
    >>> norm, x = nn.BatchNorm1d(1), torch.tensor([[1.0], [3.0], [10.0], [20.0]])
    >>> handles = normalize_apart(norm, lambda: Order.of(torch.tensor([0, 0, 1, 1])))
    >>> norm(x).flatten().round(), norm.running_mean
    (tensor([-1.,  1., -1.,  1.], grad_fn=<RoundBackward0>), tensor([0.2000]))
    """
    kept: list[_Sorted] = []

    def only_whole(module: nn.Module, args: tuple[Any, ...]) -> tuple[Any, ...] | None:
        now = order()
        kept.clear()
        if now is None or not module.training or len(now.there) != len(args[0]):
            return None
        # not as an argument of append, which torch 2.11 would compile anew for each batch
        ordered = _sort(args[0], now)
        kept.append(ordered)
        whole = ordered.parts[0]
        return (whole, *args[1:]) if len(whole) > 1 else None

    def all_apart(module: Any, args: tuple[Any, ...], output: Tensor) -> Tensor | None:
        if not kept:
            return None
        x, parts, there, back = kept.pop()
        affine = module.weight, module.bias, True, 0.0, module.eps

        def normalized(part: Tensor) -> Tensor:
            return functional.batch_norm(part, None, None, *affine)

        # the output is of the whole network's images, where there are several, else of all
        apart = len(parts[0]) > 1
        first = output if apart else parts[0]
        results = [first, *(normalized(part) if len(part) > 1 else part for part in parts[1:])]
        if any(len(part) == 1 for part in parts):
            together = normalized(x) if apart else output
            rows = _Reordered.apply(together, there, back).split([len(part) for part in parts])
            results = [
                row if len(row) == 1 else result for row, result in zip(rows, results, strict=True)
            ]
        result: Tensor = _Reordered.apply(torch.cat(results), back, there)
        return result

    return [norm.register_forward_pre_hook(only_whole), norm.register_forward_hook(all_apart)]


class _Sorted(NamedTuple):
    """A batch, the images of each network by themselves, and the orders there and back."""

    batch: Tensor
    parts: tuple[Tensor, ...]
    there: Tensor
    back: Tensor


def _sort(x: Tensor, order: Order) -> _Sorted:
    there, back = order.there.to(x.device), order.back.to(x.device)
    return _Sorted(x, _Reordered.apply(x, there, back).split(order.sizes.tolist()), there, back)


class _Reordered(torch.autograd.Function):
    """``x[order]`` for an order that has every row once, and the one that undoes it.

    Its gradient is the same the other way round, where that of indexing adds up rows that may come
    more than once: most of the time of a nested step of ResNet-20.
    """

    @staticmethod
    def forward(ctx: Any, x: Tensor, order: Tensor, undone: Tensor) -> Tensor:
        ctx.save_for_backward(order, undone)
        return x[order]

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, None, None]:
        order, undone = ctx.saved_tensors
        return _Reordered.apply(grad, undone, order), None, None


def batch_norms_behind(anatomy: Anatomy, places: Iterable[tuple[str, str]]) -> list[str]:
    """The BatchNorms that read something else where neurons are silenced; all, if it is not traced.

    Args:
        anatomy: of the network.
        places: ``("input", name)`` or ``("output", name)`` of the modules where they are.
    """
    names = [name for name, m in anatomy.modules.items() if isinstance(m, _BatchNorm)]
    traced = anatomy.trace
    if traced is None:
        return names
    starts = []
    for place, name in places:
        for call in traced.calls(name):
            starts += [call] if place == "input" else [*call.users]
    behind = {*traced.descendants(starts)}
    return [name for name in names if not behind.isdisjoint(traced.calls(name))]
