"""Train networks so that they can be pruned, and see how well they were.

Source of the method: Morwani & Ramaswamy, "Inductive Bias of Gradient Descent for Weight
Normalized Smooth Homogeneous Neural Nets", https://arxiv.org/abs/2010.12909.
"""

from ewnprune.layers import Selection as Selection
from ewnprune.layers import select_layers as select_layers
from ewnprune.parametrizations import EWN as EWN
from ewnprune.parametrizations import SWN as SWN
from ewnprune.parametrizations import NeuronParametrization as NeuronParametrization
from ewnprune.reparametrize import attached_parametrizations as attached_parametrizations
from ewnprune.reparametrize import fold as fold
from ewnprune.reparametrize import reparametrize as reparametrize
from ewnprune.state_dict import fold_state_dict as fold_state_dict
from ewnprune.state_dict import unfold_state_dict as unfold_state_dict

__version__ = "0.1.0"
