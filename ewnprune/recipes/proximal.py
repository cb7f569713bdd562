"""Penalties on the length of each neuron, by a proximal step after every optimizer step."""

import math
from collections.abc import Callable
from typing import Any

import torch
from pytorch_lightning import LightningModule, Trainer
from torch import Tensor

from ewnprune.callback.ordinary import ordinary_epochs, ordinary_steps, steps_done
from ewnprune.model.cells import to_weight
from ewnprune.model.layers import LayerPatterns, neuron_dim, neuron_rows, select_layers
from ewnprune.model.parametrized import parametrization_on, sources_of
from ewnprune.recipes.each_step import EachStep
from ewnprune.training.attach import attached_parametrizations


class ProximalPenalty(EachStep):
    """``strength * sum_u p(||(w_u, b_u)||)`` is added to the loss, for a ``p`` of the subclass.

    After each optimizer step the length ``r`` of a neuron's weights and bias, as one vector,
    becomes the ``x >= 0`` that minimises ``(x - r)^2 / 2 + step * strength * p(x)``, where ``step``
    is the learning rate, divided by ``1 - momentum`` where the optimizer has momentum, so that
    ``strength`` means the same with and without (Parikh & Boyd, "Proximal Algorithms", section 4.2,
    https://doi.org/10.1561/2400000003). A subclass gives the minimiser, in `shortened`.

    A layer under weight normalization has the very same step: ``gamma`` or ``exp(alpha)`` is the
    length of its weights, and what is shortened. That is a step on the weights, not one on
    ``alpha``, which `LogNormPenalty` takes; list it behind `AlphaLearningRate`, which would take it
    for one. A neuron of EWN has no length 0: it gets the smallest, 1e-38. Where the lengths are
    those of input features, under ``EWN(inputs=True)``, these are shortened, and no bias with them.

    Args:
        strength: the factor, >= 0.
        layers: which layers, see `select_layers`; by default all but the last.
        exclude: which of them to leave.
        until: fraction of the training in [0, 1], after which there is no penalty and what is left
            settles without a pull, as it does while a pruned network is finetuned.

    Raises:
        ValueError: a number out of range; at the start of a fit, a layer under a parametrization
            other than SWN and EWN.
    """

    def __init__(
        self,
        strength: float,
        layers: LayerPatterns | None = None,
        exclude: LayerPatterns | None = None,
        until: float = 1.0,
    ) -> None:
        if not strength >= 0:
            raise ValueError(f"strength={strength}: expected a number >= 0")
        if not 0 <= until <= 1:
            raise ValueError(f"until={until}: expected a fraction of the training in [0, 1]")
        self.strength, self.layers, self.exclude = strength, layers, exclude
        self.until = until

    def shortened(self, lengths: Tensor, strength: float) -> Tensor:
        """By what the length of each neuron is multiplied, in [0, 1]; 0 for one without length."""
        raise NotImplementedError

    def on_fit_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self._chosen = select_layers(pl_module, self.layers, self.exclude).chosen
        scaled = [k for k, p in attached_parametrizations(pl_module).items() if p.has_scale]
        for name, layer in self._chosen.items():
            if "weight" not in layer._parameters and name not in scaled:
                raise ValueError(
                    f"{type(self).__name__} on layer {name!r}, which has a parametrization other "
                    f"than SWN and EWN: remove that, or leave the layer with exclude={name!r}"
                )

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self._epochs, self._last_step = ordinary_epochs(trainer), math.inf
        if self.until < 1:
            self._last_step = self.until * ordinary_steps(
                trainer, f"{type(self).__name__} with until"
            )

    def after_step(self, trainer: Trainer, optimizer: torch.optim.Optimizer) -> None:
        over = trainer.current_epoch >= self._epochs or steps_done(trainer) >= self._last_step
        if not self.strength or over:
            return
        steps: dict[int, float] = {}
        for group in optimizer.param_groups:
            step = float(group["lr"]) / (1 - group.get("momentum", 0.0))
            # what is frozen has no gradient
            steps |= {id(p): step for p in group["params"] if p.grad is not None}
        for layer in self._chosen.values():
            step = steps.get(id(_length_parameter(layer)))
            if step is not None:
                shorten(layer, lambda r, t=step * self.strength: self.shortened(r, t))  # type: ignore[misc]


@torch.no_grad()
def shorten(layer: Any, shortened: Callable[[Tensor], Tensor]) -> None:
    """Multiply every neuron's weights and bias by a factor of their length, as one vector.

    A parametrization with lengths of another dimension than that of the neurons, such as that of
    the inputs, has these multiplied, and leaves the bias.

    Args:
        layer: a layer, plain or under a parametrization of this package.
        shortened: from the lengths to the factors.

    >>> layer = torch.nn.Linear(2, 2, bias=False)
    >>> _ = layer.weight.data.copy_(torch.tensor([[3.0, 4.0], [0.3, 0.4]]))
    >>> shorten(layer, lambda lengths: (lengths > 1).float())
    >>> layer.weight.data
    tensor([[3., 4.],
            [0., 0.]])
    """
    lengths_of_weights, multiply_weights = _weights(layer)
    bias = layer.bias if _trains_bias(layer) and _has_lengths_of_neurons(layer) else None
    kept = shortened(lengths_of_weights if bias is None else lengths_of_weights.hypot(bias))
    multiply_weights(kept)
    if bias is not None:
        bias.mul_(kept)


def _length_parameter(layer: Any) -> Tensor:
    return sources_of(layer, "weight")[0]


def _trains_bias(layer: Any) -> bool:
    return layer.bias is not None and bool(layer.bias.requires_grad)


def _has_lengths_of_neurons(layer: Any) -> bool:
    attached: Any = parametrization_on(layer)
    return attached is None or attached.dim % layer.weight.dim() == neuron_dim(layer)


def _weights(layer: Any) -> tuple[Tensor, Callable[[Tensor], None]]:
    """The length of each neuron's weights, and how to multiply them."""
    parametrization: Any = parametrization_on(layer)
    if parametrization is not None:
        s = _length_parameter(layer)
        scale = parametrization.scale(s)

        def rescale(kept: Tensor) -> None:
            s.copy_(parametrization.scale_inverse(scale * kept.view_as(s)))

        return scale.abs().flatten(), rescale
    rows = neuron_rows(layer)

    def multiply(kept: Tensor) -> None:
        factor = kept.unsqueeze(1).expand_as(rows)
        if rows.data_ptr() == layer.weight.data_ptr():  # a view of the weight, as it mostly is
            rows.mul_(factor)
        else:
            layer.weight.mul_(to_weight(layer, factor))

    return torch.linalg.vector_norm(rows, dim=1), multiply
