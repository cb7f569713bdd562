"""Train in weight space under Lightning: `EWNSGD` and `SWNSGD` in place of a parametrization."""

from types import MethodType
from typing import Any

from torch.optim import Optimizer

from ewnprune.model.layers import LayerPatterns
from ewnprune.training.optimizers import EWNSGD, SWNSGD, neuron_param_groups
from ewnprune.training.parametrizations import EWN, SWN, NeuronParametrization


def hand_out_neuron_groups(
    pl_module: Any,
    parametrization: NeuronParametrization | None,
    layers: LayerPatterns | None,
    exclude: LayerPatterns | None,
) -> None:
    """Have ``self.parameters()`` give parameter groups by neuron in ``configure_optimizers``.

    So the model's own ``configure_optimizers`` makes the weight-space optimizer for the layers
    chosen, schedules included, without knowing of them. Only that call is affected.

    Raises:
        ValueError: no EWN or SWN is given. Later, in ``configure_optimizers``: its optimizer is
            not the one that goes with the parametrization.
    """
    wanted = {EWN: EWNSGD, SWN: SWNSGD}.get(type(parametrization))  # type: ignore[arg-type]
    if wanted is None:
        raise ValueError(
            f"weight_space=True with parametrization={parametrization!r}: expected EWN() or SWN()"
        )

    def configure_optimizers(module: Any) -> Any:
        del module.configure_optimizers  # this wrapper, so that the class's own shows again
        groups = neuron_param_groups(module, layers, exclude)
        module.parameters = lambda recurse=True: iter(groups)
        try:
            made = module.configure_optimizers()
        finally:
            del module.parameters
        first = made
        while isinstance(first, list | tuple | dict) and first:
            first = first["optimizer"] if isinstance(first, dict) else first[0]
        if isinstance(first, Optimizer) and not isinstance(first, wanted):
            raise ValueError(
                f"weight_space=True needs the optimizer {wanted.__name__} and "
                f"configure_optimizers made {type(first).__name__}: on the command line give "
                f"--model.optimizer=ewnprune.{wanted.__name__} --model.optimizer.lr=..."
            )
        return made

    pl_module.configure_optimizers = MethodType(configure_optimizers, pl_module)
