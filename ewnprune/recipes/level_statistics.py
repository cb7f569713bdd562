"""BatchNorm for images that see different networks: each normalized by those that see the same."""

from collections.abc import Callable, Iterable
from typing import Any

from torch import Tensor, nn
from torch.nn import functional
from torch.nn.modules.batchnorm import _BatchNorm
from torch.utils.hooks import RemovableHandle

from ewnprune.model.anatomy import Anatomy

Draws = Callable[[], Tensor | None]
"""The number of the network that each image of the batch sees, 0 for the whole one; or None."""


def normalize_apart(norm: nn.Module, draws: Draws) -> list[RemovableHandle]:
    """Have a BatchNorm in training normalize the images of each network by themselves.

    Its running statistics are of the images that see the whole network. Where a network has one
    image alone, which has no variance, that image is normalized as one of the batch.

    Args:
        norm: a BatchNorm.
        draws: gives the network of each image; None leaves the batch whole.

    Returns:
        Handles that undo it.

    >>> import torch
    >>> norm, x = nn.BatchNorm1d(1), torch.tensor([[1.0], [3.0], [10.0], [20.0]])
    >>> handles = normalize_apart(norm, lambda: torch.tensor([0, 0, 1, 1]))
    >>> norm(x).flatten().round(), norm.running_mean
    (tensor([-1.,  1., -1.,  1.], grad_fn=<RoundBackward0>), tensor([0.2000]))
    """
    kept: list[Tensor] = []

    def only_whole(module: nn.Module, args: tuple[Any, ...]) -> tuple[Any, ...] | None:
        numbers = draws()
        kept.clear()
        if numbers is None or not module.training or len(numbers) != len(args[0]):
            return None
        kept.append(args[0])
        whole = (numbers == 0).to(args[0].device)
        return (args[0][whole], *args[1:]) if whole.sum() > 1 else None

    def all_apart(module: Any, args: tuple[Any, ...], output: Tensor) -> Tensor | None:
        numbers = draws()
        if not kept or numbers is None:
            return None
        x, numbers = kept.pop(), numbers.to(args[0].device)
        given = len(args[0]) < len(x)  # the output is of the whole network's images
        parts = output if not given else functional.batch_norm(x, None, None, *_affine(module))
        result = parts.clone()
        for number in numbers.unique().tolist():
            rows = numbers == number
            if number == 0 and given:
                result[rows] = output
            elif rows.sum() > 1:
                result[rows] = functional.batch_norm(x[rows], None, None, *_affine(module))
        return result

    return [norm.register_forward_pre_hook(only_whole), norm.register_forward_hook(all_apart)]


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


def _affine(module: Any) -> tuple[Any, ...]:
    return module.weight, module.bias, True, 0.0, module.eps
