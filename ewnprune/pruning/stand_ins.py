"""Stand-ins for recurrent layers where couplings are looked for, which end at such a layer.

torch-pruning goes through the operations of each step in time, and loses count or finds no end.
"""

from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.utils.rnn import PackedSequence

from ewnprune.model.copying import copy_network
from ewnprune.model.recurrent import is_recurrent
from ewnprune.model.tensors import tensors_in


def with_stand_ins(network: nn.Module) -> tuple[nn.Module, dict[nn.Module, str]]:
    """A copy whose recurrent layers read their inputs, and give outputs, by Linear layers.

    Args:
        network: a network; its tensors are shared.

    Returns:
        The copy, and those Linear layers with the names of the recurrent ones.
    """
    copy = copy_network(network, share=True)
    made: dict[nn.Module, str] = {}
    for name, layer in [*copy.named_modules()]:
        if is_recurrent(layer):
            _stand_in(layer)
            made |= {part: name for part in layer.children()}
    return copy, made


def _stand_in(layer: Any) -> None:
    weight, size = layer.weight_hh_l0, layer.hidden_size
    like = {"device": weight.device, "dtype": weight.dtype}
    kind = type(layer)
    layer.__class__ = _StandIn
    layer.of_lstm = issubclass(kind, nn.LSTM)
    layer._parameters.clear()
    layer.reads = nn.Linear(layer.input_size, 1, **like)
    layer.gives = nn.Linear(1, size * (1 + layer.bidirectional), **like)
    layer.keeps = nn.Linear(1, size, **like)


class _StandIn(nn.Module):
    """Gives values of the shapes that the recurrent layer would give; it has no memory."""

    def flatten_parameters(self) -> None:
        """Nothing, where others put their weights into one piece of memory."""

    def forward(self: Any, input: Any, hx: Any = None) -> Any:
        packed = isinstance(input, PackedSequence)
        values: Tensor = self.reads(input.data if packed else input)
        states = self._state(values, packed, input)
        for given in tensors_in(hx):  # so that it is seen who makes them
            states = states + given
        directions = 1 + self.bidirectional
        last = states[-directions:]
        outputs = self.gives(values) + (last.mean(1) if last.ndim > 2 else last).flatten()
        outputs = input._replace(data=outputs) if packed else outputs
        return outputs, (states, states) if self.of_lstm else states

    def _state(self: Any, values: Tensor, packed: bool, input: Any) -> Tensor:
        if packed:
            values = values[: int(input.batch_sizes[0])]
        elif values.ndim == 3:
            values = values.mean(1 if self.batch_first else 0)
        else:
            values = values.mean(0)
        rows = self.num_layers * (1 + self.bidirectional)
        return torch.stack([self.keeps(values)] * rows)
