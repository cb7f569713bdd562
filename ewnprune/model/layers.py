"""Which layers have neurons, and where in the weight a neuron lies."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from fnmatch import fnmatchcase
from typing import Any, cast

import torch
from torch import Tensor, nn

from ewnprune.model.in_out import InOutLinear
from ewnprune.model.recurrent import RECURRENT, hidden_rows, is_recurrent, parts

_TRANSPOSED = (nn.ConvTranspose1d, nn.ConvTranspose2d, nn.ConvTranspose3d, InOutLinear)
_CONVOLUTIONS = (nn.Conv1d, nn.Conv2d, nn.Conv3d, *_TRANSPOSED[:3])
LINEAR = (nn.Linear, InOutLinear)
LAYER_TYPES = cast(tuple[type[nn.Module], ...], (*LINEAR, *_CONVOLUTIONS))

Pattern = str | type[nn.Module]
LayerPatterns = Pattern | Sequence[Pattern]


@dataclass(frozen=True)
class Selection:
    """Layers chosen and layers left, by module name.

    Attributes:
        chosen: the layers, in the order of ``model.named_modules()``.
        left: the other layers with weights of their own, each with its reason.
        scales: the BatchNorm whose scale stands for the length of a chosen layer's neurons, by
            the layer's name.
        gates: chosen layers with a length for each input feature, in place of one for each neuron.
    """

    chosen: dict[str, nn.Module] = field(default_factory=dict)
    left: dict[str, str] = field(default_factory=dict)
    scales: dict[str, str] = field(default_factory=dict)
    gates: tuple[str, ...] = ()

    def __str__(self) -> str:
        lines = [
            f"  chosen  {name}: {type_name(layer)}, {num_neurons(layer)} neurons"
            + (f", by the scale of {self.scales[name]}" if name in self.scales else "")
            + (f", a gate for each of {num_inputs(layer)} inputs" if name in self.gates else "")
            for name, layer in self.chosen.items()
        ]
        lines += [f"  left    {name}: {reason}" for name, reason in self.left.items()]
        return "\n".join(lines)


def select_layers(
    model: nn.Module,
    layers: LayerPatterns | None = None,
    exclude: LayerPatterns | None = None,
    recurrent: bool = False,
) -> Selection:
    """Choose the layers to work on.

    Args:
        model: any module; lazy layers must have been initialised.
        layers: globs over module names (``"encoder.*"``), layer types (``nn.Conv2d``), or a
            sequence of both. By default every Linear and convolution but the last one.
        exclude: the same, for layers to leave; it wins over ``layers``.
        recurrent: whether RNN, LSTM and GRU are layers too, as they are where hidden units can be
            removed; otherwise patterns may name them, and they are left.

    Raises:
        ValueError: a pattern matches no layer, nothing is left to choose, or a chosen layer is
            lazy and has no weights yet.

    >>> net = nn.Sequential(nn.Linear(4, 3), nn.ReLU(), nn.Linear(3, 2))
    >>> print(select_layers(net))
      chosen  0: Linear, 3 neurons
      left    2: the last layer: its outputs are the model's
    >>> list(select_layers(net, layers=[nn.Linear], exclude="0").chosen)
    ['2']
    """
    kinds = (*LAYER_TYPES, *RECURRENT)
    found: dict[str, nn.Module] = {}
    found |= {name: module for name, module in model.named_modules() if isinstance(module, kinds)}
    rowwise = [name for name, module in found.items() if isinstance(module, LAYER_TYPES)]
    if not (found if recurrent else rowwise):
        raise ValueError(
            f"{type_name(model)} has no layer to choose: expected at least one Linear or "
            f"convolution{' or recurrent layer' if recurrent else ''}; give a model that has one"
        )
    wanted = _match(found, layers, "layers") if layers is not None else set(found)
    unwanted = _match(found, exclude, "exclude") if exclude is not None else set()
    last = (rowwise or [*found])[-1]
    selection = Selection()
    for name, layer in found.items():
        if name in unwanted:
            selection.left[name] = "excluded"
        elif name not in wanted:
            selection.left[name] = "not among the layers asked for"
        elif is_recurrent(layer) and not recurrent:
            selection.left[name] = "a recurrent layer"
        elif is_recurrent(layer) and layer.proj_size:
            selection.left[name] = "its hidden units are projected (proj_size)"
        elif layers is None and name == last:
            selection.left[name] = "the last layer: its outputs are the model's"
        elif isinstance(getattr(layer, "weight", None), nn.parameter.UninitializedParameter):
            raise ValueError(
                f"layer {name!r} is lazy and has no weights yet: run one batch through the model "
                f"first, or leave it with exclude={name!r}"
            )
        else:
            selection.chosen[name] = layer
    if not selection.chosen:
        plain = "" if recurrent or len(rowwise) == len(found) else ", recurrent ones apart"
        raise ValueError(
            f"no layer is left to choose among {listing(found)}{plain}: name some with "
            "layers=..., or exclude fewer"
        )
    return selection


def _match(found: dict[str, nn.Module], patterns: LayerPatterns, argument: str) -> set[str]:
    several = [patterns] if isinstance(patterns, str | type) else patterns
    if not isinstance(several, Iterable):
        raise TypeError(
            f"{argument}={patterns!r}: expected a glob over layer names, a layer type, or some"
        )
    matched: set[str] = set()
    for pattern in several:
        if isinstance(pattern, str):
            hits = {name for name in found if fnmatchcase(name, pattern)}
        elif isinstance(pattern, type):
            hits = {name for name, layer in found.items() if isinstance(layer, pattern)}
        else:
            raise TypeError(
                f"{argument}={pattern!r}: expected a glob over layer names or a layer type"
            )
        if not hits:
            raise ValueError(
                f"{argument}={pattern!r} matches no layer: the model's Linear, convolution and "
                f"recurrent layers are {listing(found)}"
            )
        matched |= hits
    return matched


def listing(names: Iterable[str], limit: int = 12) -> str:
    """Names in a message: the first ones, as many as fit in two lines, and how many there are more.

    >>> listing(["fc1", "fc2", "fc3"], 2)
    "'fc1', 'fc2' and 1 more"
    """
    names = list(names)
    shown = names[:1]
    for name in names[1:limit]:
        if len(", ".join(map(repr, [*shown, name]))) > 140:
            break
        shown.append(name)
    more = len(names) - len(shown)
    return ", ".join(map(repr, shown)) + (f" and {more} more" if more else "")


def type_name(module: nn.Module) -> str:
    """Class name of a module, without torch's ``Parametrized`` and ``FSDP`` prefixes."""
    return plain_type(module).__name__


def plain_type(module: nn.Module) -> type[nn.Module]:
    """Class of a module before torch gave it another, for parametrizations or for FSDP2."""
    made = ("torch.nn.utils.parametrize", "torch.distributed.")
    return next(cls for cls in type(module).__mro__ if not cls.__module__.startswith(made))


def layer_weight(layer: nn.Module) -> Tensor:
    """``layer.weight``: a parameter, or what the parametrization on it computes."""
    return cast(Tensor, layer.weight)


def num_neurons(layer: nn.Module) -> int:
    """Output units of a Linear, output channels of a convolution, all hidden units of an LSTM.

    >>> num_neurons(nn.Conv2d(3, 8, 5)), num_neurons(nn.LSTM(3, 8, bidirectional=True))
    (8, 16)
    """
    if is_recurrent(layer):
        return parts(layer) * cast(int, layer.hidden_size)
    return int(getattr(layer, _size_names(layer)[1]))


def set_sizes(layer: nn.Module, inputs: int, neurons: int) -> None:
    """Note how many inputs and neurons a layer has now."""
    for name, size in zip(_size_names(layer), (inputs, neurons), strict=True):
        setattr(layer, name, size)


def _size_names(layer: nn.Module) -> tuple[str, str]:
    """The attributes in which a layer keeps how many inputs and how many neurons it has."""
    if isinstance(layer, InOutLinear):
        return "nx", "nf"
    if isinstance(layer, nn.Linear):
        return "in_features", "out_features"
    return "in_channels", "out_channels"


def neuron_dim(layer: nn.Module) -> int:
    """Dimension of ``layer.weight`` that counts the neurons (per group, when transposed)."""
    return 1 if isinstance(layer, _TRANSPOSED) else 0


def neuron_groups(layer: nn.Module) -> int:
    """Groups that the neurons are split into along dimension 0 of the weight.

    Only a transposed convolution has them there: its weight is ``(in, out / groups, *kernel)``.
    """
    return conv_groups(layer) if isinstance(layer, _TRANSPOSED) else 1


def neuron_rows(layer: nn.Module, weight: Tensor | None = None) -> Tensor:
    """The weight as a matrix with one row per neuron, ``(neurons, fan_in)``.

    Args:
        layer: a Linear or a convolution, or a recurrent layer, see `hidden_rows`.
        weight: a tensor of the shape of ``layer.weight``, which is the default.

    >>> neuron_rows(nn.ConvTranspose2d(4, 6, 3, groups=2)).shape  # each output sees 2 inputs
    torch.Size([6, 18])
    """
    if is_recurrent(layer):
        return hidden_rows(layer)
    weight = layer_weight(layer) if weight is None else weight
    if isinstance(layer, _TRANSPOSED):
        weight = weight.unflatten(0, (neuron_groups(layer), -1)).transpose(1, 2).flatten(0, 1)
    return torch.flatten(weight, 1)


def spatial_dims(layer: nn.Module) -> int:
    """Dimensions that follow the neurons' one in a layer's input and output: 2 in a Conv2d."""
    return 0 if isinstance(layer, (*LINEAR, *RECURRENT)) else len(layer.kernel_size)  # type: ignore[arg-type]


def num_inputs(layer: Any) -> int:
    """Input units of a Linear, input channels of a convolution."""
    if is_recurrent(layer):
        return int(layer.input_size)
    return int(getattr(layer, _size_names(layer)[0]))


def conv_groups(layer: Any) -> int:
    """Groups of a convolution; a Linear has one."""
    return 1 if isinstance(layer, (*LINEAR, *RECURRENT)) else int(layer.groups)


def is_depthwise(layer: Any) -> bool:
    """Whether every output channel of a convolution reads the input channel of its own number."""
    return 1 < conv_groups(layer) == num_inputs(layer) == num_neurons(layer)
