"""Train networks so that they can be pruned, and see how well they were.

Source of the method: Morwani & Ramaswamy, "Inductive Bias of Gradient Descent for Weight
Normalized Smooth Homogeneous Neural Nets", https://arxiv.org/abs/2010.12909.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from ewnprune.callback.callbacks import AsymptoticRelations as AsymptoticRelations
    from ewnprune.callback.callbacks import WeightNormPruning as WeightNormPruning
    from ewnprune.callback.distillation import Distillation as Distillation
    from ewnprune.callback.finetune import Finetune as Finetune
    from ewnprune.callback.gradual import Gradual as Gradual
    from ewnprune.curve.curve import Curve as Curve
    from ewnprune.curve.figure import plot_curve as plot_curve
    from ewnprune.curve.files import read_curve as read_curve
    from ewnprune.curve.files import write_curve as write_curve
    from ewnprune.curve.from_data import measure_neurons as measure_neurons
    from ewnprune.curve.heat_map import plot_heat_map as plot_heat_map
    from ewnprune.curve.points import CurvePoint as CurvePoint
    from ewnprune.curve.sweep import sparsity_curve as sparsity_curve
    from ewnprune.model.layers import Selection as Selection
    from ewnprune.model.layers import select_layers as select_layers
    from ewnprune.model.size import Count as Count
    from ewnprune.pruning.budget import Budget as Budget
    from ewnprune.pruning.notes import Note as Note
    from ewnprune.pruning.ranking import SPARSITIES as SPARSITIES
    from ewnprune.pruning.removal import remove_neurons as remove_neurons
    from ewnprune.pruning.removal import remove_with_notes as remove_with_notes
    from ewnprune.pruning.removed import Removal as Removal
    from ewnprune.pruning.scores import Neurons as Neurons
    from ewnprune.pruning.separation import SeparateAttention as SeparateAttention
    from ewnprune.pruning.separation import separate_attention as separate_attention
    from ewnprune.pruning.zeroing import mask_neurons as mask_neurons
    from ewnprune.recipes.alpha_rate import AlphaLearningRate as AlphaLearningRate
    from ewnprune.recipes.factor_decay import FactorDecay as FactorDecay
    from ewnprune.recipes.group_hs import GroupHS as GroupHS
    from ewnprune.recipes.group_lasso import GroupLasso as GroupLasso
    from ewnprune.recipes.ham import HAM as HAM
    from ewnprune.recipes.initial_norms import InitialNorms as InitialNorms
    from ewnprune.recipes.log_norm_penalty import LogNormPenalty as LogNormPenalty
    from ewnprune.recipes.log_sum_penalty import LogSumPenalty as LogSumPenalty
    from ewnprune.recipes.loss_driven import LossDrivenTraining as LossDrivenTraining
    from ewnprune.recipes.nested import NestedTraining as NestedTraining
    from ewnprune.recipes.network_slimming import NetworkSlimming as NetworkSlimming
    from ewnprune.recipes.prunable import prunable_recipe as prunable_recipe
    from ewnprune.training.attach import attached_parametrizations as attached_parametrizations
    from ewnprune.training.attach import fold as fold
    from ewnprune.training.attach import reparametrize as reparametrize
    from ewnprune.training.d_gating import DGating as DGating
    from ewnprune.training.loss_rate import LossController as LossController
    from ewnprune.training.loss_rate import LossDrivenRate as LossDrivenRate
    from ewnprune.training.losses import LogCrossEntropyLoss as LogCrossEntropyLoss
    from ewnprune.training.losses import LogExponentialLoss as LogExponentialLoss
    from ewnprune.training.optimizers import EWNSGD as EWNSGD
    from ewnprune.training.optimizers import SWNSGD as SWNSGD
    from ewnprune.training.optimizers import neuron_param_groups as neuron_param_groups
    from ewnprune.training.parametrizations import EWN as EWN
    from ewnprune.training.parametrizations import SWN as SWN
    from ewnprune.training.parametrizations import NeuronParametrization as NeuronParametrization
    from ewnprune.training.powerpropagation import Powerpropagation as Powerpropagation
    from ewnprune.training.state_dict import fold_state_dict as fold_state_dict

__version__ = "0.1.0"

# torch takes a second to import and Lightning several: what is asked for is imported when it is
_NAMES = {
    "callback.callbacks": "AsymptoticRelations WeightNormPruning",
    "callback.distillation": "Distillation",
    "callback.finetune": "Finetune",
    "callback.gradual": "Gradual",
    "curve.curve": "Curve",
    "curve.figure": "plot_curve",
    "curve.files": "read_curve write_curve",
    "curve.from_data": "measure_neurons",
    "curve.heat_map": "plot_heat_map",
    "curve.points": "CurvePoint",
    "curve.sweep": "sparsity_curve",
    "model.layers": "Selection select_layers",
    "model.size": "Count",
    "pruning.budget": "Budget",
    "pruning.ranking": "SPARSITIES",
    "pruning.notes": "Note",
    "pruning.removal": "remove_neurons remove_with_notes",
    "pruning.removed": "Removal",
    "pruning.scores": "Neurons",
    "pruning.separation": "SeparateAttention separate_attention",
    "pruning.zeroing": "mask_neurons",
    "recipes.alpha_rate": "AlphaLearningRate",
    "recipes.factor_decay": "FactorDecay",
    "recipes.group_hs": "GroupHS",
    "recipes.group_lasso": "GroupLasso",
    "recipes.ham": "HAM",
    "recipes.initial_norms": "InitialNorms",
    "recipes.log_norm_penalty": "LogNormPenalty",
    "recipes.log_sum_penalty": "LogSumPenalty",
    "recipes.loss_driven": "LossDrivenTraining",
    "recipes.nested": "NestedTraining",
    "recipes.network_slimming": "NetworkSlimming",
    "recipes.prunable": "prunable_recipe",
    "training.attach": "attached_parametrizations fold reparametrize",
    "training.d_gating": "DGating",
    "training.loss_rate": "LossController LossDrivenRate",
    "training.losses": "LogCrossEntropyLoss LogExponentialLoss",
    "training.optimizers": "EWNSGD SWNSGD neuron_param_groups",
    "training.parametrizations": "EWN NeuronParametrization SWN",
    "training.powerpropagation": "Powerpropagation",
    "training.state_dict": "fold_state_dict",
}
_MODULES = {name: module for module, names in _NAMES.items() for name in names.split()}


def __getattr__(name: str) -> Any:
    if name not in _MODULES:
        raise AttributeError(f"module 'ewnprune' has no attribute {name!r}")
    globals()[name] = getattr(import_module(f"ewnprune.{_MODULES[name]}"), name)
    return globals()[name]


def __dir__() -> list[str]:
    return sorted({*globals(), *_MODULES})
