"""Stand-ins for recurrent layers where couplings are looked for, which end at such a layer.

torch-pruning goes through the operations of each step in time, and loses count or finds no end.
"""

from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.utils.rnn import PackedSequence

from ewnprune.model.copying import copy_network
from ewnprune.model.operations import is_stock
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
        if is_recurrent(layer) and is_stock(layer):
            _stand_in(layer)
            made |= {part: name for part in layer.modules() if isinstance(part, nn.Linear)}
    return copy, made


def _stand_in(layer: Any) -> None:
    weight, size = layer.weight_hh_l0, layer.proj_size or layer.hidden_size
    like = {"device": weight.device, "dtype": weight.dtype}
    keeps = [nn.Linear(1, size, **like)]
    if isinstance(layer, nn.LSTM):
        keeps.append(nn.Linear(1, layer.hidden_size, **like))
    layer.__class__ = _StandIn
    layer._parameters.clear()
    layer.reads = nn.Linear(layer.input_size, 1, **like)
    layer.gives = nn.Linear(1, size * (1 + layer.bidirectional), **like)
    layer.keeps = nn.ModuleList(keeps)


class _StandIn(nn.Module):
    """Gives values of the shapes that the recurrent layer would give; it has no memory."""

    def flatten_parameters(self) -> None:
        """Nothing, where others put their weights into one piece of memory."""

    def forward(self: Any, input: Any, hx: Any = None) -> Any:
        packed = isinstance(input, PackedSequence)
        values: Tensor = self.reads(input.data if packed else input)
        last = self._last_step(values, input)
        rows = self.num_layers * (1 + self.bidirectional)
        states = [torch.stack([layer(last)] * rows) for layer in self.keeps]
        for place, given in enumerate(tensors_in(hx)):  # so that it is seen who makes them
            states[place] = states[place] + given
        newest = states[0][-1 - self.bidirectional :]
        outputs = self.gives(values) + (newest.mean(1) if newest.ndim > 2 else newest).flatten()
        outputs = input._replace(data=outputs) if packed else outputs
        return outputs, tuple(states) if len(states) > 1 else states[0]

    def _last_step(self: Any, values: Tensor, input: Any) -> Tensor:
        """One row for each sample; of a sequence by itself, one."""
        if isinstance(input, PackedSequence):
            return values[: int(input.batch_sizes[0])]
        return values.mean(1 if self.batch_first and values.ndim == 3 else 0)
