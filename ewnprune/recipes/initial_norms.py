"""Small initial norms, from which the rich-get-richer dynamics of EWN set in early.

It is a callback, to be listed before `WeightNormPruning`; on the command line it goes under
``trainer.callbacks`` and is.
"""

import math

import torch
from pytorch_lightning import Callback, LightningModule, Trainer

from ewnprune.model.layers import LayerPatterns, layer_weight, select_layers
from ewnprune.training.attach import attached_parametrizations


class InitialNorms(Callback):
    """Multiply the weights of the chosen layers by a factor before training.

    Under EWN the learning rate that a neuron sees is proportional to its squared norm
    (https://arxiv.org/abs/2010.12909, corollary 1): from small norms the first neurons to grow run
    away from the others, as in the small-initialization ("rich") regime of plain training. The
    initial function changes: the layer's part of it is multiplied by the factor.

    Args:
        factor: > 0.
        layers: which layers, see `select_layers`; by default all but the last.
        exclude: which of them to leave.

    Raises:
        ValueError: a factor that is not positive; at the start of a fit, layers that are not
            there, or reparametrized already (list this callback before WeightNormPruning).
    """

    def __init__(
        self,
        factor: float,
        layers: LayerPatterns | None = None,
        exclude: LayerPatterns | None = None,
    ) -> None:
        if not (factor > 0 and math.isfinite(factor)):
            raise ValueError(f"factor={factor}: expected a number > 0, such as 0.1")
        self.factor, self.layers, self.exclude = factor, layers, exclude

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        if stage != "fit":
            return
        # weights of a checkpoint, if there is one, are loaded after this and win
        for name, layer in select_layers(pl_module, self.layers, self.exclude).chosen.items():
            if name in attached_parametrizations(pl_module):
                raise ValueError(
                    f"InitialNorms: layer {name!r} is reparametrized already: list InitialNorms "
                    "before WeightNormPruning in the Trainer's callbacks"
                )
            with torch.no_grad():
                layer_weight(layer).mul_(self.factor)
