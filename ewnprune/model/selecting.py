"""Layers that read some features of a wider input: torch's own, with an index in front.

They need nothing of this package to run: what is saved as ``torch.export``, ONNX or TorchScript
holds torch's operations alone.
"""

from typing import Any

from torch import Tensor, nn


class SelectLinear(nn.Linear):
    """A Linear layer that takes its columns from a wider input itself.

    Attributes:
        input_index: the features that it reads, ``(in_features,)``.
    """

    input_index: Tensor

    def forward(self, input: Tensor) -> Tensor:
        chosen = input.index_select(-1, self.input_index)
        return nn.functional.linear(chosen, self.weight, self.bias)


class SelectConv1d(nn.Conv1d):
    """A convolution that takes its channels from a wider input itself."""

    input_index: Tensor

    def forward(self, input: Tensor) -> Tensor:
        chosen = input.index_select(-2, self.input_index)
        outputs: Tensor = self._conv_forward(chosen, self.weight, self.bias)
        return outputs


class SelectConv2d(nn.Conv2d):
    """A convolution that takes its channels from a wider input itself."""

    input_index: Tensor

    def forward(self, input: Tensor) -> Tensor:
        chosen = input.index_select(-3, self.input_index)
        outputs: Tensor = self._conv_forward(chosen, self.weight, self.bias)
        return outputs


class SelectConv3d(nn.Conv3d):
    """A convolution that takes its channels from a wider input itself."""

    input_index: Tensor

    def forward(self, input: Tensor) -> Tensor:
        chosen = input.index_select(-4, self.input_index)
        outputs: Tensor = self._conv_forward(chosen, self.weight, self.bias)
        return outputs


_SELECTING: dict[type[nn.Module], type[nn.Module]] = {
    nn.Linear: SelectLinear,
    nn.Conv1d: SelectConv1d,
    nn.Conv2d: SelectConv2d,
    nn.Conv3d: SelectConv3d,
}


def selects_inputs(layer: nn.Module) -> bool:
    """Whether a layer takes its inputs from a wider one itself."""
    return bool(selecting_kind(layer))


def selecting_kind(layer: nn.Module) -> str:
    """The name of torch's class that it is beside that; empty for a layer that does not."""
    kinds = (plain.__name__ for plain, s in _SELECTING.items() if isinstance(layer, s))
    return next(kinds, "")


def can_select(layer: nn.Module) -> bool:
    """Whether a layer is of a kind that can be made to."""
    return isinstance(layer, tuple(_SELECTING)) and not selects_inputs(layer)


def select_inputs(layer: Any, keep: Tensor) -> None:
    """Have a layer, cut down to some of its inputs, read the whole width again, in place.

    Args:
        layer: the layer, with a weight for the inputs that stay alone.
        keep: which of all inputs these are, ``(inputs,)``.

    >>> import torch
    >>> layer = nn.Linear(2, 1)
    >>> select_inputs(layer, torch.tensor([True, False, True]))
    >>> layer, layer(torch.zeros(5, 3)).shape
    (SelectLinear(in_features=2, out_features=1, bias=True), torch.Size([5, 1]))
    """
    own = type(layer)
    kind = next(select for plain, select in _SELECTING.items() if isinstance(layer, plain))
    # a user's own class stays what it is otherwise
    layer.__class__ = kind if own in _SELECTING else type(own.__name__, (kind, own), {})
    layer.register_buffer("input_index", keep.nonzero().flatten().to(layer.weight.device))
