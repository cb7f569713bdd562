"""Small initial norms, from which the rich-get-richer dynamics of EWN set in early.

It is a callback, to be listed before `WeightNormPruning`; on the command line it goes under
``trainer.callbacks`` and is.
"""

import math

import torch
from pytorch_lightning import Callback, LightningModule, Trainer

from ewnprune.model.layers import LayerPatterns, layer_weight, select_layers


class InitialNorms(Callback):
    """Multiply the weights of the chosen layers by a factor before training.

    Under EWN the learning rate that a neuron sees is proportional to its squared norm
    (https://arxiv.org/abs/2010.12909, corollary 1): from small norms the first neurons to grow run
    away from the others, as in the small-initialization ("rich") regime of plain training. The
    initial function changes: the layer's part of it is multiplied by the factor. Frozen layers stay
    as they are, and so does a model that the callback had in the fit before.

    Args:
        factor: > 0.
        layers: which layers, see `select_layers`; by default all but the last.
        exclude: which of them to leave.

    Raises:
        ValueError: a factor that is not positive; at the start of a fit, layers that are not
            there, or whose weight is no parameter (list this callback before WeightNormPruning).
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
        self._scaled: LightningModule | None = None

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        if stage != "fit" or pl_module is self._scaled:
            return  # a second fit of the same model, and that after a finder's, go on training it
        # weights of a checkpoint, if there is one, are loaded after this and win
        chosen = select_layers(pl_module, self.layers, self.exclude).chosen
        for name, layer in chosen.items():
            if "weight" not in layer._parameters:
                raise ValueError(
                    f"InitialNorms: layer {name!r} is reparametrized already: list InitialNorms "
                    "before WeightNormPruning in the Trainer's callbacks, and remove what "
                    "torch.nn.utils put on"
                )
        weights = {id(layer.weight): layer_weight(layer) for layer in chosen.values()}  # tied once
        with torch.no_grad():
            for weight in weights.values():
                if weight.requires_grad:
                    weight.mul_(self.factor)
        self._scaled = pl_module
