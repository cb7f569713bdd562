"""The ways that a forward pass may take: where it decides by values, each answer is tried.

A model that asks whether a mask has a zero in it (transformers) takes another way for another
batch. What holds of a network on an example must hold on each of them.
"""

from functools import partial
from typing import Any

import torch
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode

from ewnprune.model.tensors import clone
from ewnprune.model.tracing import Forward

MOST = 16
"""Ways that are tried at most."""

_ASKED = (torch.ops.aten._local_scalar_dense.default, torch.ops.aten.equal.default)
_TAKEN_OUT = (Tensor.tolist, Tensor.numpy, Tensor.__array__)


def ways_of(model: nn.Module, forward: Forward, inputs: Any) -> list[Forward]:
    """Forward passes that take each way that yes and no lead to, the example's own way first.

    Args:
        model: the model, in eval mode; without gradients.
        forward: gives the outputs from model and inputs.
        inputs: the example.

    Returns:
        None at all where the ways cannot be told: it decides by numbers, not by yes or no; there
        are too many; or some end in an error on this example.
    """
    ways: list[Forward] = []
    open_: list[tuple[bool, ...]] = [()]
    while open_:
        given = open_.pop(0)
        asked = _Answers(given)
        try:
            with _Taken(asked), asked:
                forward(model, clone(inputs))
        except Exception:
            if not given:
                raise
            return []  # any code of the user, which is led where it would not have gone
        if asked.numbers or len(ways) == MOST:
            return []
        ways.append(partial(_take, forward, given) if given else forward)
        answers = tuple(asked.answers)
        open_ += [(*answers[:i], not answers[i]) for i in range(len(given), len(answers))]
    return ways


def _take(forward: Forward, given: tuple[bool, ...], model: nn.Module, inputs: Any) -> Any:
    with _Answers(given):
        return forward(model, inputs)


class _Answers(TorchDispatchMode):
    """Gives the first answers to yes or no as it is told, and the others as they are.

    Attributes:
        answers: all answers that were given.
        numbers: whether numbers were asked for, which may decide as well.
    """

    def __init__(self, given: tuple[bool, ...]) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.given, self.answers, self.numbers = given, list[bool](), False

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        result = func(*args, **(kwargs or {}))
        if func not in _ASKED:
            return result
        if not isinstance(result, bool):
            self.numbers = True
            return result
        if len(self.answers) < len(self.given):
            result = self.given[len(self.answers)]
        self.answers.append(result)
        return result


class _Taken(TorchFunctionMode):
    """Notes values that are taken out of tensors past torch's operations."""

    def __init__(self, asked: _Answers) -> None:
        super().__init__()
        self.asked = asked

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        self.asked.numbers = self.asked.numbers or func in _TAKEN_OUT
        return func(*args, **(kwargs or {}))
