"""Scores: what a neuron, or a single weight, is worth. The lowest scores go first.

A score is a plain function of `Neurons`, the neurons of one layer. It returns one number per
neuron, ``(n,)``, and whole neurons are removed; or one number per weight, ``(n, fan_in)``, and
single weights are. A BatchNorm that directly follows a layer undoes the length of its rows, so
scores of neurons take the weights with it folded in. Every public function of this module is a
score that the command line and `sparsity_curve` know by its name; any other is given as
``"package.module.function"``.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field

import torch
from torch import Tensor

__all__ = [
    "Neurons",
    "OutgoingUnknownError",
    "activation",
    "magnitude",
    "norm",
    "norm_change",
    "norm_product",
    "norm_shuffled",
    "norm_with_bias",
    "norm_with_bias_product",
    "random",
    "random_weights",
    "raw_norm",
    "taylor",
]

FROM_DATA = ("activation", "taylor")
"""The scores that go by what neurons do on data."""

Measured = Mapping[str, Mapping[str, Tensor]]
"""What neurons do on data: by what it is, and by layer, one number per neuron, ``(n,)``."""


@dataclass(frozen=True)
class Neurons:
    """The ``n`` neurons of one layer, as a score sees them.

    Attributes:
        layer: the layer's name in the model.
        rows: incoming weights, ``(n, fan_in)``, float32 or float64; of a hidden unit of a
            recurrent layer those of all gates, from the inputs and from the hidden units. Where a
            BatchNorm directly follows, and keeps running statistics, they are those of the layer
            with it folded in: times ``gamma / sqrt(running_var + eps)``, the length that they have
            in the function.
        bias: biases ``(n,)``, likewise; None in a layer without, unless a BatchNorm gives some. Of
            a hidden unit the norm of all it has.
        outgoing: outgoing weights ``(n, fan_out)``, likewise, over all layers that read the
            neurons; None where those are not known. The hidden units' own layer, and the next one
            inside of the module, read them too.
        no_outgoing: why `outgoing` is None.
        initial_norm: norms of the layer's own rows at initialisation, ``(n,)``; None where not
            given.
        seed: seed of this layer, for scores that draw numbers.
        raw_rows: the layer's own rows, without a BatchNorm; None where those are `rows`.
        measured: what was measured of them on data, by name, ``(n,)`` each; see `measure_neurons`.
        no_measured: what to do where `measured` lacks something.
    """

    layer: str
    rows: Tensor
    bias: Tensor | None = None
    outgoing: Tensor | None = None
    no_outgoing: str = "not given"
    initial_norm: Tensor | None = None
    seed: int = 0
    raw_rows: Tensor | None = None
    measured: Mapping[str, Tensor] = field(default_factory=dict)
    no_measured: str = (
        "give measured=ewnprune.measure_neurons(model, loader), with loss_fn= for taylor where "
        "the task is no classification, or choose another score"
    )


class OutgoingUnknownError(ValueError):
    """A score wants the outgoing weights of neurons that nobody knows the readers of.

    Args:
        score: its name.
        neurons: the neurons of one layer.
    """

    def __init__(self, score: str, neurons: Neurons) -> None:
        self.layer, self.reason = neurons.layer, neurons.no_outgoing
        super().__init__(
            f"score {score!r} needs the outgoing weights of layer {neurons.layer!r}, which are "
            f"not known ({neurons.no_outgoing}): leave that layer out, or choose another score"
        )


def norm(neurons: Neurons) -> Tensor:
    """Norm of the incoming weights, ``||w_u||``.

    >>> norm(Neurons("hidden", torch.tensor([[3.0, 4.0], [0.0, 1.0]])))
    tensor([5., 1.])
    """
    return _row_norms(neurons.rows)


def norm_with_bias(neurons: Neurons) -> Tensor:
    """Norm of the incoming weights with the bias counted in, ``sqrt(||w_u||^2 + b_u^2)``."""
    return norm(neurons) if neurons.bias is None else norm(neurons).hypot(neurons.bias)


def norm_product(neurons: Neurons) -> Tensor:
    """Incoming norm times outgoing norm, ``||w_u|| ||a_u||``.

    Rescaling a ReLU neuron (``w_u`` and its bias by ``c > 0``, ``a_u`` by ``1 / c``) changes
    neither the function nor this score.

    Raises:
        OutgoingUnknownError: the outgoing weights are not known.
    """
    return norm(neurons) * _outgoing_norm(neurons, "norm_product")


def norm_with_bias_product(neurons: Neurons) -> Tensor:
    """`norm_with_bias` times the outgoing norm; as unchanged by rescaling as `norm_product`.

    Raises:
        OutgoingUnknownError: the outgoing weights are not known.
    """
    return norm_with_bias(neurons) * _outgoing_norm(neurons, "norm_with_bias_product")


def norm_change(neurons: Neurons) -> Tensor:
    """Norm of the layer's own weights minus that at initialisation, signed.

    The paper's second criterion, https://arxiv.org/abs/2010.12909, section 7.

    Raises:
        ValueError: the norms at initialisation are not given.
    """
    if neurons.initial_norm is None:
        raise ValueError(
            f"score 'norm_change' needs the norms of layer {neurons.layer!r} at initialisation, "
            "which the checkpoints of a fit with WeightNormPruning hold: give one with --ckpt_path "
            "(in Python: initial_norms={layer name: norms}), or choose another score"
        )
    return raw_norm(neurons) - neurons.initial_norm


def raw_norm(neurons: Neurons) -> Tensor:
    """Norm of the layer's own weights; `norm` but where a BatchNorm directly follows.

    There it says nothing of what a neuron contributes: the BatchNorm gives the same for weights
    of any length.

    >>> raw_norm(Neurons("hidden", torch.tensor([[6.0, 8.0]]), raw_rows=torch.tensor([[3.0, 4.0]])))
    tensor([5.])
    """
    return _row_norms(_raw_rows(neurons))


def activation(neurons: Neurons) -> Tensor:
    """Mean absolute output of the neuron over data, with a BatchNorm; see `measure_neurons`.

    Raises:
        ValueError: nothing was measured.
    """
    return _measured(neurons, "activation")


def taylor(neurons: Neurons) -> Tensor:
    """Mean change of a sample's loss without the neuron, to first order, over data.

    Of each sample it is ``|output x gradient|``, summed over positions first. Molchanov et al.
    (2017), https://arxiv.org/abs/1611.06440; see `measure_neurons`.

    Raises:
        ValueError: nothing was measured.
    """
    return _measured(neurons, "taylor")


def random(neurons: Neurons) -> Tensor:
    """One random number per neuron: the baseline that every score must beat."""
    return _uniform(neurons, (len(neurons.rows),))


def norm_shuffled(neurons: Neurons) -> Tensor:
    """The norms, dealt to the neurons of the layer at random.

    With scope ``"global"`` this removes as many neurons of each layer as `norm` does, but which
    ones is left to chance: random pruning with the same layer-wise ratios. Su et al. (2020),
    https://arxiv.org/abs/2009.11094. Neurons that are coupled (added to those of other layers) take
    their layers' mean, each dealt by itself: means lie closer together, and ratios are other ones.
    """
    values = norm(neurons)
    generator = torch.Generator().manual_seed(neurons.seed)
    order = torch.randperm(len(values), generator=generator, device="cpu")
    return values[order.to(values.device)]


def magnitude(neurons: Neurons) -> Tensor:
    """Absolute value of each single weight of the layer's own, ``(n, fan_in)``.

    >>> magnitude(Neurons("hidden", torch.tensor([[3.0, -4.0]])))
    tensor([[3., 4.]])
    """
    return _raw_rows(neurons).abs()


def random_weights(neurons: Neurons) -> Tensor:
    """One random number per weight, ``(n, fan_in)``."""
    return _uniform(neurons, tuple(neurons.rows.shape))


def _raw_rows(neurons: Neurons) -> Tensor:
    return neurons.rows if neurons.raw_rows is None else neurons.raw_rows


def _row_norms(rows: Tensor) -> Tensor:
    norms: Tensor = torch.linalg.vector_norm(rows, dim=1)
    return norms


def _outgoing_norm(neurons: Neurons, score: str) -> Tensor:
    if neurons.outgoing is None:
        raise OutgoingUnknownError(score, neurons)
    return _row_norms(neurons.outgoing)


def _measured(neurons: Neurons, score: str) -> Tensor:
    if score not in neurons.measured:
        raise ValueError(
            f"score {score!r} goes by data, and none were measured for layer {neurons.layer!r}: "
            f"{neurons.no_measured}"
        )
    return neurons.measured[score]


def _uniform(neurons: Neurons, shape: tuple[int, ...]) -> Tensor:
    # on the CPU, so that a seed gives the same numbers on every device
    generator = torch.Generator().manual_seed(neurons.seed)
    return torch.rand(shape, generator=generator, dtype=torch.float64, device="cpu")
