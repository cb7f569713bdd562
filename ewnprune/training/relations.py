"""Asymptotic relations between the weights of neurons and their gradients.

Far down in the loss, and where gradients converge in direction, ``w_u`` turns antiparallel to its
gradient ``g_u``. Then ``||w_u|| ||g_u||`` becomes equal over the neurons that grow under EWN, and
``||g_u|| / ||w_u||`` under SWN and plain training. Source: Morwani & Ramaswamy,
https://arxiv.org/abs/2010.12909. Scaling the loss scales all gradients alike, so how far these
numbers spread over neurons does not depend on it.
"""

from dataclasses import dataclass

import torch
from torch import Tensor, nn

from ewnprune.model.layers import layer_weight, neuron_rows
from ewnprune.model.parametrized import parametrization_on, sources_of
from ewnprune.training.parametrizations import NeuronParametrization


@dataclass(frozen=True)
class Relations:
    """What the asymptotic relations are about, per neuron: tensors of shape ``(..., neurons)``.

    Attributes:
        norm: ``||w_u||``.
        gradient: ``||g_u||``.
        product: ``||w_u|| ||g_u||``.
        quotient: ``||g_u|| / ||w_u||``.
        cosine: of the angle between ``w_u`` and ``g_u``; 0 where one of them is zero.
    """

    norm: Tensor
    gradient: Tensor
    product: Tensor
    quotient: Tensor
    cosine: Tensor


def relate(weight: Tensor, gradient: Tensor) -> Relations:
    """The relations of neurons with these weights and gradients, ``(..., neurons, inputs)``.

    >>> r = relate(torch.tensor([[3.0, 4.0]]), torch.tensor([[-0.6, -0.8]]))
    >>> r.product, r.quotient, r.cosine
    (tensor([5.]), tensor([0.2000]), tensor([-1.]))
    """
    norm, slope = weight.norm(dim=-1), gradient.norm(dim=-1)
    product = norm * slope
    cosine = (weight * gradient).sum(-1) / torch.where(product > 0, product, 1.0)
    return Relations(norm, slope, product, slope / norm, cosine)


def spread(values: Tensor, norm: Tensor, at_least: float = 0.5) -> float:
    """Largest over smallest value, among neurons at least so long as a fraction of the longest.

    NaN where a norm is NaN, in training that has diverged: no neuron is the longest then.

    >>> spread(torch.tensor([6.0, 2.0, 4.0]), norm=torch.tensor([1.0, 0.1, 0.8]))
    1.5
    """
    counted = values[norm >= at_least * norm.max()]
    return (counted.max() / counted.min()).item() if len(counted) else float("nan")


def gradient_rows(layer: nn.Module) -> Tensor | None:
    """Gradient with respect to the weight of a layer, parametrized or plain.

    Under EWN and SWN it follows from the gradients of ``s`` and ``v``: the part along ``v`` is that
    of ``s`` over ``scale'(s)``, the part across it that of ``v`` times ``||v|| / scale(s)``.

    Returns:
        One row per neuron, ``(neurons, inputs)``, or None where there is no gradient.

    Raises:
        ValueError: the layer is under a parametrization of another form.
    """
    weight = layer_weight(layer)
    attached = parametrization_on(layer)
    if attached is None:
        return None if weight.grad is None else neuron_rows(layer, weight.grad)
    if not (isinstance(attached, NeuronParametrization) and attached.has_scale):
        raise ValueError(
            f"the asymptotic relations are of EWN, SWN and plain training, and a layer is under "
            f"{type(attached).__name__}: leave it with exclude=, or leave AsymptoticRelations out"
        )
    s, v = sources_of(layer, "weight")[:2]
    if s.grad is None or v.grad is None:
        return None
    with torch.enable_grad():
        leaf = s.detach().requires_grad_()
        scale = attached.scale(leaf)
        (slope,) = torch.autograd.grad(scale.sum(), leaf)

    split = weight.shape if attached.groups == 1 else (attached.groups, -1, *weight.shape[1:])

    def per_row(x: Tensor) -> Tensor:  # from the shape of s or v to (neurons, inputs)
        return neuron_rows(layer, x.expand(v.reshape(split).shape).reshape(weight.shape))

    length = per_row(v.detach().reshape(split).square().sum_to_size(s.shape).sqrt())
    rows, moved = neuron_rows(layer, v.detach()), neuron_rows(layer, v.grad)
    direction = rows / torch.where(length > 0, length, 1.0)
    along = _ratio(per_row(s.grad), per_row(slope))
    return direction * along + moved * _ratio(length, per_row(scale.detach()))


def _ratio(a: Tensor, b: Tensor) -> Tensor:
    """``a / b``, and 0 where b is 0."""
    return torch.where(b != 0, a / torch.where(b != 0, b, 1.0), 0.0)
