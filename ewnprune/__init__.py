"""Train networks so that they can be pruned, and see how well they were.

Source of the method: Morwani & Ramaswamy, "Inductive Bias of Gradient Descent for Weight
Normalized Smooth Homogeneous Neural Nets", https://arxiv.org/abs/2010.12909.
"""

import sys
from importlib import import_module
from types import ModuleType
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from ewnprune.attention import SeparateAttention as SeparateAttention
    from ewnprune.attention import separate_attention as separate_attention
    from ewnprune.callback import AsymptoticRelations as AsymptoticRelations
    from ewnprune.callback import WeightNormPruning as WeightNormPruning
    from ewnprune.controller import LossController as LossController
    from ewnprune.controller import LossDrivenRate as LossDrivenRate
    from ewnprune.curve import Count as Count
    from ewnprune.curve import Curve as Curve
    from ewnprune.curve import CurvePoint as CurvePoint
    from ewnprune.curve_files import read_curve as read_curve
    from ewnprune.curve_files import write_curve as write_curve
    from ewnprune.figure import plot_curve as plot_curve
    from ewnprune.layers import Selection as Selection
    from ewnprune.layers import select_layers as select_layers
    from ewnprune.loss_driven import LossDrivenTraining as LossDrivenTraining
    from ewnprune.losses import LogCrossEntropyLoss as LogCrossEntropyLoss
    from ewnprune.losses import LogExponentialLoss as LogExponentialLoss
    from ewnprune.masks import SPARSITIES as SPARSITIES
    from ewnprune.optim import EWNSGD as EWNSGD
    from ewnprune.optim import SWNSGD as SWNSGD
    from ewnprune.optim import neuron_param_groups as neuron_param_groups
    from ewnprune.parametrizations import EWN as EWN
    from ewnprune.parametrizations import SWN as SWN
    from ewnprune.parametrizations import NeuronParametrization as NeuronParametrization
    from ewnprune.removal import mask_neurons as mask_neurons
    from ewnprune.removal import remove_neurons as remove_neurons
    from ewnprune.repair import remove_and_repair as remove_and_repair
    from ewnprune.reparametrize import attached_parametrizations as attached_parametrizations
    from ewnprune.reparametrize import fold as fold
    from ewnprune.reparametrize import reparametrize as reparametrize
    from ewnprune.scores import Neurons as Neurons
    from ewnprune.state_dict import fold_state_dict as fold_state_dict
    from ewnprune.state_dict import unfold_state_dict as unfold_state_dict
    from ewnprune.structured import remove_coupled_neurons as remove_coupled_neurons
    from ewnprune.sweep import sparsity_curve as sparsity_curve

__version__ = "0.1.0"

# torch takes a second to import and Lightning several: what is asked for is imported when it is
_NAMES = {
    "attention": "SeparateAttention separate_attention",
    "callback": "AsymptoticRelations WeightNormPruning",
    "controller": "LossController LossDrivenRate",
    "curve": "Count Curve CurvePoint",
    "curve_files": "read_curve write_curve",
    "figure": "plot_curve",
    "layers": "Selection select_layers",
    "loss_driven": "LossDrivenTraining",
    "losses": "LogCrossEntropyLoss LogExponentialLoss",
    "masks": "SPARSITIES",
    "optim": "EWNSGD SWNSGD neuron_param_groups",
    "parametrizations": "EWN NeuronParametrization SWN",
    "removal": "mask_neurons remove_neurons",
    "repair": "remove_and_repair",
    "reparametrize": "attached_parametrizations fold reparametrize",
    "scores": "Neurons",
    "state_dict": "fold_state_dict unfold_state_dict",
    "structured": "remove_coupled_neurons",
    "sweep": "sparsity_curve",
}
_MODULES = {name: module for module, names in _NAMES.items() for name in names.split()}


class _Package(ModuleType):
    def __setattr__(self, name: str, value: object) -> None:
        # importing the module ewnprune.reparametrize would put it before the function of that name
        if not (name in _MODULES and isinstance(value, ModuleType)):
            super().__setattr__(name, value)


sys.modules[__name__].__class__ = _Package


def __getattr__(name: str) -> Any:
    if name not in _MODULES:
        raise AttributeError(f"module 'ewnprune' has no attribute {name!r}")
    globals()[name] = getattr(import_module(f"ewnprune.{_MODULES[name]}"), name)
    return globals()[name]


def __dir__() -> list[str]:
    return sorted({*globals(), *_MODULES})
