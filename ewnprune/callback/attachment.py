"""What a fit attaches to the model's layers, and takes off again."""

from collections.abc import Iterable, Mapping
from typing import Any

import torch
from torch import Tensor, nn

from ewnprune.callback.loggers import log_norms
from ewnprune.callback.module_hooks import goes_along
from ewnprune.callback.refusals import refuse_other_optimizers, refuse_unheld
from ewnprune.model.layers import LayerPatterns, Selection, select_layers
from ewnprune.model.sharding import is_sharded, whole
from ewnprune.training.attach import (
    attached_parametrizations,
    check_attached,
    fold,
    reparametrize,
)
from ewnprune.training.norms import neuron_norms, norm_statistics
from ewnprune.training.parametrizations import EWN, SWN, NeuronParametrization
from ewnprune.training.places import leave_frozen
from ewnprune.training.weight_space import mark_neurons, unmark


class Attachment:
    """A parametrization on the chosen layers; or their weights marked, to train in weight space.

    Args:
        parametrization: ``EWN()`` or another; None attaches nothing.
        weight_space: attach nothing, and mark the weights for `EWNSGD` or `SWNSGD`.
        layers: which layers.
        exclude: which of them to leave.

    Raises:
        ValueError: ``weight_space`` without EWN or SWN.

    Attributes:
        initial_norms: the neurons' norms when they were attached to, by layer; those of the start
            of the run where it was resumed.
    """

    def __init__(
        self,
        parametrization: NeuronParametrization | None,
        weight_space: bool,
        layers: LayerPatterns | None,
        exclude: LayerPatterns | None,
    ) -> None:
        in_space = type(parametrization) in (EWN, SWN) and not (
            parametrization.batchnorm or parametrization.inputs  # type: ignore[union-attr]
        )
        if weight_space and not in_space:
            raise ValueError(
                f"weight_space=True with parametrization={parametrization!r}: expected EWN() or "
                "SWN()"
            )
        self.parametrization, self.weight_space = parametrization, weight_space
        self.layers, self.exclude = layers, exclude
        self.initial_norms: dict[str, Tensor] = {}

    @property
    def method(self) -> str:
        """Name of the method: ``"plain"``, or the parametrization's class."""
        return "plain" if self.parametrization is None else type(self.parametrization).__name__

    def attach(self, model: nn.Module) -> Selection:
        """Attach, unless it is there already: by the user, before sharding.

        What a fit that was cut off has left comes off first.

        Raises:
            ValueError: something else is attached, or a layer is not fit for it.
        """
        unmark(model)
        if goes_along(model) and not is_sharded(model):
            fold(model)
        present = {type(p) for p in attached_parametrizations(model).values()}
        if present - ({type(self.parametrization)} if not self.weight_space else set()):
            raise ValueError(
                f"the model has {', '.join(sorted(kind.__name__ for kind in present))} on layers "
                f"already and this fit is {self.method}: call ewnprune.fold(model) first"
            )
        # frozen and recurrent ones are pruned too
        pruned = select_layers(model, self.layers, self.exclude, recurrent=True)
        if self.parametrization is None:
            selection = pruned
        elif self.weight_space:
            selection = leave_frozen(model, select_layers(model, self.layers, self.exclude))
        elif present:
            selection = check_attached(model, self.parametrization, self.layers, self.exclude)
        else:
            selection = reparametrize(model, self.parametrization, self.layers, self.exclude)
        if self.weight_space:
            mark_neurons(model, self.layers, self.exclude)
        norms = {name: whole(neuron_norms(layer)) for name, layer in pruned.chosen.items()}
        self.initial_norms = {name: values.cpu() for name, values in norms.items()}
        return selection

    def check_optimizers(self, model: nn.Module, optimizers: Iterable[Any]) -> None:
        """Check that the optimizers train what was attached, and the way that was asked for.

        Raises:
            RuntimeError: they hold parameters made before.
            ValueError: they are not those that go with training in weight space.
        """
        if self.weight_space:
            refuse_other_optimizers(self.parametrization, optimizers)
        refuse_unheld(model, optimizers)

    def detach(self, model: nn.Module, copies: Iterable[nn.Module] = ()) -> bool:
        """Fold, and take the marks off. A sharded model stays attached, and that is False.

        Its checkpoints can be folded, by `fold_state_dict`.

        Args:
            model: the model.
            copies: of it, that others have made.
        """
        unmark(model)
        if is_sharded(model):
            return False
        for one in (model, *copies):
            fold(one)
        return True

    @torch.no_grad()
    def log_norms(self, trainer: Any, pl_module: Any) -> None:
        """Log the norms of the chosen layers' neurons, inside the module's hook of an epoch."""
        recurrent = self.parametrization is None  # what is attached to has none
        layers = select_layers(pl_module, self.layers, self.exclude, recurrent).chosen
        norms = {name: whole(neuron_norms(layer)) for name, layer in layers.items()}
        statistics = {name: norm_statistics(values) for name, values in norms.items()}
        pl_module.log_dict(
            {f"norms/{name}/{key}": v for name, row in statistics.items() for key, v in row.items()}
        )
        if trainer.is_global_zero:
            log_norms(trainer.loggers, norms, trainer.global_step)

    def state_dict(self) -> dict[str, Any]:
        """What a checkpoint keeps beside the originals."""
        return {"initial_norms": self.initial_norms}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Take up the norms that the run began with; none where it ran without the callback."""
        self.initial_norms = state.get("initial_norms", {})
