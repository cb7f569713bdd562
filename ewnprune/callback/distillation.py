"""Soft targets beside labels, in a LightningModule's own training step.

The step is the user's, and so is its loss. What is added is the Kullback-Leibler divergence of
softened class probabilities, times the square of the temperature, so that its gradient keeps its
size (Hinton, Vinyals & Dean, 2015, https://arxiv.org/abs/1503.02531). The outputs are those that
the step computes anyway: they are seen where a module of the network makes them.
"""

from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from ewnprune.callback.compiled import compiled_parts
from ewnprune.callback.training_step import TrainingStep
from ewnprune.model.layers import type_name
from ewnprune.model.preserve import evaluating, hooked
from ewnprune.model.tensors import clone, first_samples
from ewnprune.model.tracing import Forward


@dataclass(frozen=True)
class Distillation:
    """How a pruned network learns from the whole one, beside the labels.

    An image that the pruned network sees teaches it ``(1 - weight)`` of the loss that the module
    computes, and ``weight`` of the divergence from the whole network's outputs. These are logits
    ``(B, C, ...)``, and the module's loss is the mean over the batch. Losses that are logged are
    the module's own.

    Args:
        temperature: by which logits are divided, > 0; high ones soften.
        weight: in [0, 1]; with 1 the labels are left out, with 0 it is training as usual.

    Raises:
        ValueError: a number out of range.
    """

    temperature: float = 2.0
    weight: float = 0.5

    def __post_init__(self) -> None:
        if not (isinstance(self.temperature, int | float) and self.temperature > 0):
            raise ValueError(f"distill: temperature={self.temperature}: expected a number > 0")
        if not (isinstance(self.weight, int | float) and 0 <= self.weight <= 1):
            raise ValueError(f"distill: weight={self.weight}: expected a fraction in [0, 1]")


def soft_losses(outputs: Tensor, targets: Tensor, temperature: float) -> Tensor:
    """``T^2 KL(softmax(targets / T) || softmax(outputs / T))`` of each image, ``(B,)``.

    Args:
        outputs: logits ``(B, C, ...)`` of the network that learns; the mean over what follows.
        targets: logits of the other, of the same shape.
        temperature: ``T``.

    >>> logits = torch.tensor([[0.0, 0.0], [2.0, 0.0]])
    >>> soft_losses(logits, logits.flip(1), 2.0)
    tensor([0.0000, 1.8485])
    """
    own, given = (
        (x if x.dtype == torch.float64 else x.float()).div(temperature).log_softmax(1)
        for x in (outputs, targets)
    )
    each = (given.exp() * (given - own)).sum(1)
    return temperature**2 * each.reshape(len(each), -1).mean(1)


def where_to_distill(pl_module: Any, forward: Forward, inputs: Any) -> str:
    """The innermost module whose own output is what ``forward`` gives: its training is seen there.

    Args:
        pl_module: a LightningModule.
        forward: from model and inputs to outputs.
        inputs: of a batch.

    Raises:
        ValueError: there is none, the outputs are no logits, or the module is compiled or steps by
            itself.
    """
    if not pl_module.automatic_optimization:
        raise ValueError(
            f"distill: {type_name(pl_module)} optimizes by itself, and its loss is not given away: "
            "expected a training_step that returns the loss"
        )
    compiled = compiled_parts(pl_module)
    if compiled:
        raise ValueError(
            f"distill: torch.compile runs {compiled[0] or type_name(pl_module)!r}, and what it "
            "gives in a training step is not seen: train without torch.compile, or without distill"
        )
    made: list[tuple[str, Any]] = []

    def seen(name: str) -> Any:
        return lambda module, args, output: made.append((name, output))

    handles = [
        module.register_forward_hook(seen(name)) for name, module in pl_module.named_modules()
    ]
    with hooked(handles), evaluating(pl_module):
        outputs = forward(pl_module, clone(first_samples(inputs)))
    if not isinstance(outputs, Tensor) or outputs.ndim < 2:
        what = f"of shape {(*outputs.shape,)}" if isinstance(outputs, Tensor) else type(outputs)
        raise ValueError(f"distill: the outputs are {what}: expected logits (B, C), see forward=")
    times = Counter(name for name, _ in made)
    found = [name for name, output in made if output is outputs and times[name] == 1]
    if not found:
        raise ValueError(
            "distill: the outputs are made outside of the network's modules, where a training step "
            "is not seen: expected forward= to return what a module returns"
        )
    return found[0]


class Distilling:
    """A LightningModule whose training step learns soft targets too, until it is let go.

    Args:
        options: how.
        pl_module: the module, from the start of its training.
        place: the module that makes the outputs, by name.
    """

    def __init__(self, options: Distillation, pl_module: Any, place: str) -> None:
        self.options, self._pl_module = options, pl_module
        self._where = place or type_name(pl_module)
        self._targets: Tensor | None = None
        self._rows: Tensor | None = None
        self._outputs: list[Tensor] = []
        self._watching = False
        self._handle = pl_module.get_submodule(place).register_forward_hook(self._watch)
        self._step = TrainingStep(pl_module, self._learning)

    def expect(self, targets: Tensor, rows: Tensor) -> None:
        """What training steps are to learn from now on: an optimizer may ask for several a batch.

        Args:
            targets: the other network's logits, for the images that learn them.
            rows: which images of the batch do, ``(B,)``.
        """
        self._targets, self._rows = targets, rows.to(targets.device)

    def expect_nothing(self) -> None:
        """Forget what was expected, when the batch is over."""
        self._targets = self._rows = None

    def let_go(self) -> None:
        """Leave the module as it was."""
        self._handle.remove()
        self._step.let_go()

    def _learning(self, step: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
        self._watching = self._pl_module.trainer.training  # validation may call it too
        try:
            return self._added(step(*args, **kwargs))
        finally:
            self._watching, self._outputs = False, []

    def _watch(self, module: nn.Module, args: Any, output: Any) -> Any:
        if not self._watching or self._targets is None:
            return None
        assert self._rows is not None
        self._outputs.append(output)
        if not isinstance(output, Tensor) or len(output) != len(self._rows):
            return None  # told of when the step is over
        seen = output.view_as(output)
        labels = torch.where(self._rows, 1 - self.options.weight, 1.0).to(output.dtype)
        labels = labels.view(-1, *[1] * (output.ndim - 1))
        if seen.requires_grad:  # labels count less for these images, and no value changes
            seen.register_hook(lambda gradient: gradient * labels)
        return seen

    def _added(self, result: Any) -> Any:
        """What the step returned, with the soft loss added."""
        learns = self._watching and self._targets is not None
        if not learns or result is None:  # or the batch is skipped
            return result
        assert self._rows is not None and self._targets is not None
        fitting = [x for x in self._outputs if isinstance(x, Tensor) and len(x) == len(self._rows)]
        if len(self._outputs) != 1 or not fitting:
            raise ValueError(
                f"distill: training_step calls {self._where} {len(self._outputs)} times, on "
                f"{[len(x) for x in fitting] or 'other'} images of a batch of {len(self._rows)}: "
                "expected once, on all of them"
            )
        soft = soft_losses(fitting[0][self._rows], self._targets, self.options.temperature)
        term = self.options.weight * soft.sum() / len(self._rows)
        if isinstance(result, Mapping):
            return {**result, "loss": result["loss"] + term}
        return result + term
