"""Weight normalization per neuron, for ``torch.nn.utils.parametrize``.

A neuron is one row of the weight seen as a matrix. Its weight is a scale times a direction,

* standard weight normalization (SWN): ``w = gamma * v / ||v||``,
* exponential weight normalization (EWN): ``w = exp(alpha) * v / ||v||``.

Source: Morwani & Ramaswamy, "Inductive Bias of Gradient Descent for Weight Normalized Smooth
Homogeneous Neural Nets", eqs. (1)-(4), https://arxiv.org/abs/2010.12909. SWN is Salimans & Kingma,
https://arxiv.org/abs/1602.07868, and keeps the form that
``torch.nn.utils.parametrizations.weight_norm`` gives it, state-dict keys included.

A further parametrization of a scale and a direction is one more subclass of `NeuronParametrization`
with two short methods; one of another form overrides ``forward``, ``right_inverse`` and ``masked``,
as `DGating` and `Powerpropagation` do.
"""

import copy
from typing import Self

import torch
from torch import Tensor, nn
from torch.utils.hooks import RemovableHandle

from ewnprune.model.layers import layer_weight, neuron_dim, neuron_groups
from ewnprune.training.lengths import of_length, row_norms


class NeuronParametrization(nn.Module):
    """A weight as ``scale(s) * v / ||v||``, with one number ``s`` and one vector ``v`` per neuron.

    ``s`` has the weight's shape with size 1 everywhere but in ``dim``, as in torch's own
    ``weight_norm``; ``v`` has the weight's shape. Norm and scale are computed in at least float32
    and the result is cast back, so bfloat16 and float16 weights keep their precision (torch's own
    do not: https://github.com/pytorch/pytorch/issues/107914).

    A zero row has no direction. It keeps ``v = 0`` and so stays zero under training, with finite
    gradients: a pruned neuron stays pruned.

    Args:
        dim: the dimension of the weight that counts the neurons; ``None`` takes the output
            dimension of the layer it is attached to.
    """

    groups = 1
    batchnorm = False
    has_scale = True  # False where the form is another than scale(s) * v / ||v||
    num_originals = 2  # of which the last has the weight's shape, and is zero where the weight is
    inputs = False
    load_hook: RemovableHandle  # set by reparametrize: takes plain weights in state dicts

    def __init__(self, dim: int | None = None) -> None:
        super().__init__()
        self.dim = dim

    def scale(self, s: Tensor) -> Tensor:
        """The signed length of each neuron's weight, from its parameter ``s``."""
        raise NotImplementedError

    def scale_inverse(self, norm: Tensor) -> Tensor:
        """The parameter ``s`` of neurons with the given norms, which are >= 0 and may be 0."""
        raise NotImplementedError

    def for_layer(self, layer: nn.Module) -> Self:
        """A copy of this parametrization, bound to the output dimension of ``layer``."""
        bound, weight = copy.deepcopy(self), layer_weight(layer)
        if bound.dim is None:
            bound.dim, bound.groups = neuron_dim(layer), neuron_groups(layer)
        elif not -weight.dim() <= bound.dim < weight.dim():
            raise ValueError(
                f"{type(self).__name__}(dim={self.dim}): expected a dimension of a weight of shape "
                f"{tuple(weight.shape)}; leave dim out to take the output dimension"
            )
        return bound

    def for_inputs(self, layer: nn.Module) -> Self:
        """A copy bound to the other dimension: one number per input of ``layer``."""
        bound = copy.deepcopy(self)
        bound.dim = 1 - neuron_dim(layer)
        return bound

    def forward(self, *originals: Tensor) -> Tensor:
        """The weight, in the shape and dtype of ``v``, from ``s`` and ``v``."""
        s, v = originals
        length = self.scale(at_least_float32(s))
        if v.dim() == 1:  # of a BatchNorm: one number has a sign and a length, and no direction
            # detached: decay alone would move it, where others unfreeze it
            return (length * v.detach().sgn()).to(v.dtype)
        rows = self._split(at_least_float32(v))
        return of_length(rows, length, self._reduced(rows)).reshape(v.shape).to(v.dtype)

    def right_inverse(self, weight: Tensor) -> tuple[Tensor, ...]:
        """``(s, v)`` that give this weight, with ``||v|| = 1`` as the paper's theory assumes."""
        norm, v = self.norm_and_direction(self._split(at_least_float32(weight)))
        return self.scale_inverse(norm).to(weight.dtype), v.reshape(weight.shape).to(weight.dtype)

    def norm_and_direction(self, rows: Tensor) -> tuple[Tensor, Tensor]:
        """The length of each row, and the row over its length; 0 and 0 of a zero row."""
        # the squares of tiny entries underflow: take the norm of the rescaled row
        largest = rows.abs()
        if self._reduced(rows):  # an empty list would mean "all"
            largest = largest.amax(self._reduced(rows), keepdim=True)
        divisor = torch.where(largest > 0, largest, 1.0)
        norm = divisor * row_norms(rows / divisor, self._reduced(rows))
        return norm, rows / divisor / torch.where(norm > 0, norm / divisor, 1.0)

    def masked(self, keep: Tensor, *originals: Tensor) -> tuple[Tensor, ...]:
        """``(s, v)`` of the same weight with zeros where ``keep``, shaped as ``v``, is False.

        What stays of ``v`` is as it was, and so is ``s`` of neurons that nothing goes from.

        >>> import torch
        >>> gamma, v = SWN(dim=0).right_inverse(torch.tensor([[3.0, 4.0], [0.0, 2.0]]))
        >>> SWN(dim=0)(*SWN(dim=0).masked(torch.tensor([[True, False], [True, True]]), gamma, v))
        tensor([[3., 0.],
                [0., 2.]])
        """
        s, v = originals
        rows = self._split(at_least_float32(v))
        kept = torch.where(self._split(keep), rows, 0)
        before, after = row_norms(rows, self._reduced(rows)), row_norms(kept, self._reduced(rows))
        share = after / torch.where(before > 0, before, 1.0)
        scale = self.scale(at_least_float32(s))
        changed = self.scale_inverse(scale * share).to(s.dtype)
        return torch.where(after == before, s, changed), kept.reshape(v.shape).to(v.dtype)

    def extra_repr(self) -> str:
        return "" if self.dim is None else f"dim={self.dim}"

    def _split(self, weight: Tensor) -> Tensor:
        return weight if self.groups == 1 else weight.unflatten(0, (self.groups, -1))

    def _reduced(self, rows: Tensor) -> list[int]:
        if self.dim is None:
            raise ValueError(
                f"{type(self).__name__}() is bound to no layer yet: give dim, or attach it with "
                "ewnprune.reparametrize(model, ...)"
            )
        kept = {self.dim % rows.dim()} if self.groups == 1 else {0, self.dim + 1}
        return [d for d in range(rows.dim()) if d not in kept]


class SWN(NeuronParametrization):
    """Standard weight normalization, ``w = gamma * v / ||v||``.

    Gradient flow moves the norm as plain training does, at a rate that does not depend on the norm
    itself (``d||w||/dt = -(w / ||w||) . g``), so it brings no relative sparsity of its own.

    >>> import torch
    >>> gamma, v = SWN(dim=0).right_inverse(torch.tensor([[3.0, 4.0], [0.0, 2.0]]))
    >>> gamma.T, v
    (tensor([[5., 2.]]), tensor([[0.6000, 0.8000],
            [0.0000, 1.0000]]))
    """

    def scale(self, s: Tensor) -> Tensor:
        return s

    def scale_inverse(self, norm: Tensor) -> Tensor:
        return norm.clone()


class EWN(NeuronParametrization):
    """Exponential weight normalization, ``w = exp(alpha) * v / ||v||``.

    With ``||v|| = 1`` gradient flow on ``(alpha, v)`` is plain gradient flow with the learning
    rate of each neuron multiplied by ``||w||^2``: large neurons grow, small ones freeze. This is
    the paper's relative sparsity. The norm is positive for every ``alpha``.

    A BatchNorm that directly follows a layer undoes the length of its weights: the layer is a
    direction, and the BatchNorm's scale ``gamma`` the length. With ``batchnorm=True`` that scale is
    ``+-exp(alpha)``, and the weights of the layer are left plain.

    A first layer can have its lengths by input feature: with ``inputs=True`` the column of feature
    ``j`` is ``exp(alpha_j) * v_j / ||v_j||``, a gate ``exp(alpha_j)`` on the feature and a layer
    that reads it with weights of length 1, as one. What the loss does not hold of the inputs then
    goes as neurons go elsewhere, and the layer's neurons have no length of their own.

    Args:
        dim: see `NeuronParametrization`.
        batchnorm: whether to put the scale of a BatchNorm that directly follows a layer in the
            place of the layer's own length; layers that none follows are as without.
        inputs: whether layers that read the model's inputs have a length per input feature.

    >>> import torch
    >>> weight = torch.tensor([[3.0, 4.0], [0.0, 2.0]])
    >>> alpha, v = EWN(dim=0).right_inverse(weight)
    >>> alpha.T  # log 5 and log 2
    tensor([[1.6094, 0.6931]])
    >>> torch.allclose(EWN(dim=0)(alpha, v), weight)
    True
    >>> EWN(dim=0).right_inverse(torch.tensor([1.0, -2.0]))  # the scale of a BatchNorm
    (tensor([0.0000, 0.6931]), tensor([ 1., -1.]))
    """

    def __init__(
        self, dim: int | None = None, batchnorm: bool = False, inputs: bool = False
    ) -> None:
        super().__init__(dim)
        self.batchnorm, self.inputs = batchnorm, inputs

    def extra_repr(self) -> str:
        asked = [f"{name}=True" for name in ("batchnorm", "inputs") if getattr(self, name)]
        return ", ".join(filter(None, [super().extra_repr(), *asked]))

    def scale(self, s: Tensor) -> Tensor:
        return s.exp()

    def scale_inverse(self, norm: Tensor) -> Tensor:
        # log 0 is not finite: a zero row (v = 0) gets the smallest normal float32 as its scale
        return norm.clamp_min(torch.finfo(torch.float32).tiny).log()

    def get_extra_state(self) -> Tensor:
        """A mark in the state dict: torch's ``weight_norm`` uses the same keys for gamma."""
        return torch.tensor(1, dtype=torch.uint8, device="cpu")

    def set_extra_state(self, state: Tensor) -> None:
        """Nothing to restore: the mark tells which formula the keys beside it belong to."""


def at_least_float32(x: Tensor) -> Tensor:
    """The tensor itself, or where it is of 16 bits in float32."""
    return x.float() if x.dtype in (torch.float16, torch.bfloat16) else x
