"""The network before it was pruned, which the pruned one learns from."""

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from ewnprune.callback.distillation import Distillation, Distilling, where_to_distill
from ewnprune.callback.measuring import Measuring
from ewnprune.model.copying import copy_network, plain_network
from ewnprune.model.preserve import evaluating
from ewnprune.model.tensors import clone


def where_taught(measuring: Measuring, trainer: Any, pl_module: Any, batches: Any) -> str:
    """`where_to_distill`, on the first of some batches."""
    # fetching a batch draws random numbers, which training must not notice
    with evaluating(pl_module, batches), trainer.precision_plugin.forward_context():
        inputs, _ = measuring.batch(next(iter(batches)))
        return where_to_distill(pl_module, measuring.forward, inputs)


class Teacher:
    """A copy of a network's layers that gives soft targets, one pass for each batch.

    Args:
        options: how they are learned.
        measuring: how a batch is taken apart, and the network called.
        pl_module: the network, not pruned yet; or with other weights, where there is a state.
        state: the weights that the teacher had when the run was interrupted.
    """

    def __init__(
        self,
        options: Distillation,
        measuring: Measuring,
        pl_module: Any,
        state: Mapping[str, Tensor] | None = None,
    ) -> None:
        self.options, self.measuring = options, measuring
        self.network = copy_network(plain_network(pl_module)).eval().requires_grad_(False)
        if state is not None:  # not load_state_dict: the layers' hooks would make originals of it
            for name, value in self._tensors().items():
                value.data.copy_(state[name])
        self._pupil: Distilling | None = None

    @torch.no_grad()
    def before_batch(self, trainer: Any, pl_module: Any, batch: Any, place: str) -> None:
        """Have the next training step learn what the teacher says of its batch.

        Args:
            trainer: the Trainer.
            pl_module: the pruned network.
            batch: what it is about to see.
            place: which module makes its outputs.
        """
        forward = self.measuring.forward
        # a context of its own: autocast would keep weights cast without gradients for the step
        with trainer.precision_plugin.forward_context():
            inputs, _ = self.measuring.batch(batch)
            targets = forward(self.network, clone(inputs))
        if self._pupil is None:
            self._pupil = Distilling(self.options, pl_module, place)
        self._pupil.expect(targets, torch.ones(len(targets), dtype=torch.bool, device="cpu"))

    def let_go(self) -> None:
        """Leave the module as it was."""
        if self._pupil is not None:
            self._pupil.let_go()
            self._pupil = None

    def state_dict(self) -> dict[str, Tensor]:
        """Its weights, on the CPU."""
        return {name: value.detach().cpu() for name, value in self._tensors().items()}

    def _tensors(self) -> dict[str, Tensor]:
        return {**dict(self.network.named_parameters()), **dict(self.network.named_buffers())}
