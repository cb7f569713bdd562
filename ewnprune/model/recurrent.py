"""What belongs to a hidden unit of a recurrent layer: torch's RNN, LSTM and GRU.

Their hidden units are numbered as the rows of ``h_n`` are: layer after layer, in each the forward
direction and then the backward one, ``hidden_size`` units each. A unit has a row in each gate (four
in an LSTM, three in a GRU) of ``weight_ih``, ``weight_hh`` and both biases. Its own layer and
direction read it by a column of ``weight_hh``, and both directions of the next layer by one of
``weight_ih``. With zeros in its rows and biases, and a state that starts at zero, it gives zero at
every step.
"""

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.functional import pad

RECURRENT: tuple[type[nn.Module], ...] = (nn.RNN, nn.LSTM, nn.GRU)


def is_recurrent(module: nn.Module) -> bool:
    """Whether a module is one of torch's recurrent layers, of which hidden units can go."""
    return isinstance(module, RECURRENT)


def parts(layer: Any) -> int:
    """How many layers and directions there are, each with hidden units of its own.

    >>> parts(nn.LSTM(3, 4, num_layers=2, bidirectional=True))
    4
    """
    return int(layer.num_layers) * (2 if layer.bidirectional else 1)


def _suffixes(layer: Any) -> Iterator[tuple[int, int, str]]:
    """Layer, direction, and how the names of their tensors end."""
    for depth in range(layer.num_layers):
        for direction, end in enumerate(("", "_reverse")[: 1 + layer.bidirectional]):
            yield depth, direction, f"l{depth}{end}"


def weight_names(layer: Any) -> list[str]:
    """Names of the weights."""
    kinds = ("weight_ih", "weight_hh")
    return [f"{kind}_{end}" for _, _, end in _suffixes(layer) for kind in kinds]


def hidden_rows(layer: Any, tensors: Mapping[str, Tensor] | None = None) -> Tensor:
    """The incoming weights of each hidden unit, over all gates, ``(units, fan_in)``.

    Zeros fill the rows of layers that read less than others.

    Args:
        layer: the recurrent layer.
        tensors: others in place of its weights, by their names.

    >>> hidden_rows(nn.GRU(3, 4)).shape  # 3 gates, 3 inputs and 4 units
    torch.Size([4, 21])
    """
    tensors = {name: getattr(layer, name) for name in weight_names(layer)} | dict(tensors or {})
    blocks = []
    for _, _, end in _suffixes(layer):
        both = [tensors[f"weight_ih_{end}"], tensors[f"weight_hh_{end}"]]
        blocks.append(_of_units(torch.cat(both, dim=1), layer.hidden_size))
    return _stacked(blocks)


def hidden_biases(layer: Any) -> Tensor | None:
    """The norm of each hidden unit's biases, over all gates, ``(units,)``; None without biases."""
    if not layer.bias:
        return None
    norms = []
    for _, _, end in _suffixes(layer):
        both = torch.stack([getattr(layer, f"bias_ih_{end}"), getattr(layer, f"bias_hh_{end}")], 1)
        norms.append(torch.linalg.vector_norm(_of_units(both, layer.hidden_size), dim=1))
    return torch.cat(norms)


def _of_units(tensor: Tensor, size: int) -> Tensor:
    """A tensor with rows gate after gate, with one row per unit."""
    return tensor.view(-1, size, *tensor.shape[1:]).transpose(0, 1).flatten(1)


def hidden_columns(layer: Any) -> Tensor:
    """What the layer itself multiplies each hidden unit with, ``(units, fan_out)``.

    That is its column of ``weight_hh``, and those of ``weight_ih`` in the next layer; zeros fill
    the rows of the last layer, which has no next one.
    """
    size, blocks = layer.hidden_size, []
    for depth, direction, end in _suffixes(layer):
        read = [getattr(layer, f"weight_hh_{end}").T]
        if depth + 1 < layer.num_layers:
            reading = [end for below, _, end in _suffixes(layer) if below == depth + 1]
            columns = slice(direction * size, (direction + 1) * size)
            read += [getattr(layer, f"weight_ih_{end}")[:, columns].T for end in reading]
        blocks.append(torch.cat(read, dim=1))
    return _stacked(blocks)


def _stacked(blocks: Sequence[Tensor]) -> Tensor:
    """Rows of several widths below each other, filled with zeros."""
    width = max(block.shape[1] for block in blocks)
    return torch.cat([pad(block, (0, width - block.shape[1])) for block in blocks])


def input_columns(layer: Any) -> Tensor:
    """What a recurrent layer multiplies each of its inputs with, ``(inputs, fan_out)``."""
    ends = [end for depth, _, end in _suffixes(layer) if not depth]
    return torch.cat([getattr(layer, f"weight_ih_{end}").T for end in ends], dim=1)


def kept_entries(layer: Any, units: Tensor | None, inputs: Tensor | None) -> dict[str, Tensor]:
    """Which entries of each tensor stay, in its shape, where only some units and inputs do.

    Args:
        layer: the recurrent layer.
        units: which hidden units stay, ``(units,)``; None keeps all.
        inputs: which inputs stay, ``(inputs,)``; None keeps all.

    >>> kept = kept_entries(nn.RNN(2, 3), torch.tensor([True, True, False]), None)
    >>> kept["weight_hh_l0"].int().tolist()
    [[1, 1, 0], [1, 1, 0], [0, 0, 0]]
    """
    names = layer._flat_weights_names
    kept = {
        name: torch.ones(getattr(layer, name).shape, dtype=torch.bool, device="cpu")
        for name in names
    }
    if inputs is not None:
        for depth, _, end in _suffixes(layer):
            if not depth:
                kept[f"weight_ih_{end}"] &= inputs.cpu()
    if units is None:
        return kept
    table = units.cpu().view(-1, 1 + layer.bidirectional, layer.hidden_size)
    for depth, direction, end in _suffixes(layer):
        own = table[depth, direction]
        rows = own.repeat(len(getattr(layer, f"weight_hh_{end}")) // layer.hidden_size)
        kept[f"weight_ih_{end}"] &= rows[:, None]
        kept[f"weight_hh_{end}"] &= rows[:, None] & own
        if depth:
            kept[f"weight_ih_{end}"] &= table[depth - 1].flatten()
        if layer.bias:
            kept[f"bias_ih_{end}"] &= rows
            kept[f"bias_hh_{end}"] &= rows
    return kept


def shrink_recurrent(layer: Any, units: Tensor | None, inputs: Tensor | None) -> None:
    """Cut a recurrent layer down to some hidden units and inputs, in place.

    Args:
        layer: a copy, whose tensors may be shared: they are all replaced, since on a GPU torch
            moves them into one piece of memory.
        units: see `kept_entries`; as many stay in each layer and direction.
        inputs: see `kept_entries`.
    """
    for name, keep in kept_entries(layer, units, inputs).items():
        old = layer._parameters[name]
        value = old.detach()[keep.to(old.device)]
        if keep.ndim > 1:
            value = value.view(-1, int(keep.any(0).sum()))
        layer._parameters[name] = nn.Parameter(value, requires_grad=old.requires_grad)
    if units is not None:
        layer.hidden_size = int(units.sum()) // parts(layer)
    if inputs is not None:
        layer.input_size = int(inputs.sum())
    layer._init_flat_weights()


def silence_hidden(layer: Any, units: Tensor) -> None:
    """Set to zero all that belongs to the hidden units that do not stay, at full width, in place.

    Args:
        layer: a copy, whose tensors may be shared: they are all replaced.
        units: which stay, ``(units,)``.
    """
    for name, keep in kept_entries(layer, units, None).items():
        old = layer._parameters[name]
        value = torch.where(keep.to(old.device), old.detach(), 0)
        layer._parameters[name] = nn.Parameter(value, requires_grad=old.requires_grad)
    layer._init_flat_weights()
