"""Who reads the hidden units of recurrent layers: tried out, whatever lies between.

The network is run with made-up outputs of its recurrent layers, and run again with those of some
units changed; all other layers give what they gave the first time. So a change reaches the inputs
of the layers that read these units, and no other. Units are numbered in binary: for each digit
those with a 1 are changed, and then those with a 0, so that each input tells the number of the one
unit that it depends on, or that there are several.
"""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.utils.rnn import PackedSequence

from ewnprune.model.layers import num_neurons, spatial_dims
from ewnprune.model.normalization import normalization_of
from ewnprune.model.operations import is_stock
from ewnprune.model.preserve import hooked
from ewnprune.model.recurrent import is_recurrent
from ewnprune.model.tensors import clone, identical, map_tensors, same, tensors_in
from ewnprune.model.tracing import Forward

_FACTOR = -1.7
"""What changed outputs are multiplied by: a ReLU lets one of the two through."""


@dataclass
class Reading:
    """Where the hidden units of one recurrent layer go.

    Attributes:
        places: for each module that reads them its inputs, and the unit that each depends on.
        unknown: why it is not known who reads them; empty if it is.
    """

    places: dict[str, tuple[list[int], list[int]]] = field(default_factory=dict)
    unknown: str = ""


def hidden_readers(
    network: nn.Module, names: Sequence[str], forward: Forward, inputs: Any
) -> dict[str, Reading]:
    """Find who reads the hidden units of some recurrent layers.

    Readers are Linear layers, convolutions, recurrent layers, and normalizations on the way. Such
    as read across channels hand on their inputs here, so that it is seen who reads each channel.
    A layer with a forward of its own is none, but what makes several units into one number.

    Args:
        network: a plain network, in eval mode; without gradients.
        names: the recurrent layers.
        forward: gives the outputs from network and inputs.
        inputs: an example.
    """
    trial = _Trial(network)
    with trial.watching():
        trial.run(forward, inputs)
        return {name: _reading(trial, name, forward, inputs) for name in names}


def _reading(trial: "_Trial", name: str, forward: Forward, inputs: Any) -> Reading:
    layer = trial.network.get_submodule(name)
    units = torch.arange(num_neurons(layer), device="cpu")
    ones: list[_Seen] = []
    zeros: list[_Seen] = []
    for digit in range(max(1, int(units[-1]).bit_length())):
        bits = (units >> digit) % 2 == 1
        ones.append(trial.with_changed(layer, bits, forward, inputs))
        zeros.append(trial.with_changed(layer, ~bits, forward, inputs))
    seen = [*ones, *zeros]
    if any(each.lost for each in seen):
        return Reading(unknown="its forward pass goes another way with other values of them")
    if any(each.outputs for each in seen):
        return Reading(unknown="its hidden units are outputs of the model")
    reading = Reading()
    for key in seen[0].inputs:
        which = sum(each.inputs[key].long() << digit for digit, each in enumerate(ones))
        others = sum(each.inputs[key].long() << digit for digit, each in enumerate(zeros))
        assert isinstance(which, Tensor) and isinstance(others, Tensor)
        reads = (which | others) != 0
        reader, is_state = key[0], key[1] > 0
        if is_state and reads.any() and reader != name:
            return Reading(unknown=f"its hidden units are states of {reader!r}")
        last = (1 << len(ones)) - 1
        if (reads & ((which & others != 0) | (which | others != last))).any():
            return Reading(unknown=f"inputs of {reader!r} depend on several of its hidden units")
        if is_state and not torch.equal(which[reads], units[reads.nonzero().flatten()]):
            return Reading(unknown="its states are handed on in another order")
        if reads.any() and not is_state:
            reading.places[reader] = (reads.nonzero().flatten().tolist(), which[reads].tolist())
    return reading


@dataclass
class _Seen:
    """What was another than the first time.

    Attributes:
        inputs: for each module which of its inputs (0), or of its states (1, 2).
        outputs: whether the network's outputs were.
        lost: whether modules were called otherwise.
    """

    inputs: dict[tuple[str, int], Tensor] = field(default_factory=dict)
    outputs: bool = False
    lost: bool = False


class _Trial:
    """Runs of one network under which recurrent layers give what they are told to."""

    def __init__(self, network: nn.Module) -> None:
        self.network = network
        self.names = {module: name for name, module in network.named_modules()}
        self.generator = torch.Generator().manual_seed(0)
        self.read: dict[tuple[str, int], list[Tensor]] = {}
        self.first: dict[tuple[str, int], list[Tensor]] = {}
        self.gave: dict[nn.Module, list[Any]] = {}
        self.calls: dict[nn.Module, int] = {}
        self.outputs: list[Tensor] = []
        self.layer: nn.Module | None = None
        self.units = torch.empty(0)

    @contextmanager
    def watching(self) -> Iterator[None]:
        handles = []
        for module in self.names:
            norm = normalization_of(module)
            if is_stock(module):
                hook: Any = self._hold
            elif norm is not None and norm.dim is not None:
                hook = partial(self._hand_on, across=norm.across)
            else:
                continue
            handles.append(module.register_forward_hook(hook, with_kwargs=True))
        with hooked(handles):
            yield

    def run(self, forward: Forward, inputs: Any) -> None:
        self.calls.clear()
        self.outputs = tensors_in(forward(self.network, clone(inputs)))
        self.first, self.read = self.read, {}

    def with_changed(self, layer: nn.Module, units: Tensor, forward: Forward, inputs: Any) -> _Seen:
        """What is another with the outputs of these units changed."""
        self.calls.clear()
        self.read.clear()
        self.layer, self.units = layer, units
        outputs = tensors_in(forward(self.network, clone(inputs)))
        seen = _Seen(outputs=not same(outputs, self.outputs, identical))
        for key, before in self.first.items():
            after = self.read.get(key, [])
            if [t.shape for t in before] != [t.shape for t in after]:
                seen.lost = True
                break
            each = [_differ(one, other) for one, other in zip(before, after, strict=True)]
            if len({len(part) for part in each}) > 1:
                seen.lost = True
                break
            seen.inputs[key] = torch.stack(each).any(0).cpu()
        return seen

    def _hold(self, module: Any, args: Any, kwargs: Any, output: Any) -> Any:
        """Note what a layer reads, and have it give what it gave at the same call before."""
        name = self.names[module]
        given = args[0] if args else kwargs["input"]
        if is_recurrent(module):
            states = kwargs.get("hx", args[1] if len(args) > 1 else None)
            for place, state in enumerate(tensors_in(states), 1):
                # (layers and directions, [samples,] units)
                self._note(name, place, state.movedim(-1, 1).flatten(0, 1))
            given = given.data if isinstance(given, PackedSequence) else given
        self._note(name, 0, given.movedim(-1 - spatial_dims(module), 0))
        call = self.calls[module] = self.calls.get(module, -1) + 1
        gave = self.gave.setdefault(module, [])
        if len(gave) == call:
            gave.append(map_tensors(self._made_up, output) if is_recurrent(module) else output)
        if module is not self.layer:
            return clone(gave[call])
        return _with_changed(module, gave[call], self.units)

    def _hand_on(self, module: Any, args: Any, kwargs: Any, output: Any, across: bool) -> Any:
        given = [*args, *kwargs.values()][0]
        record = normalization_of(module)
        assert record is not None and record.dim is not None
        self._note(self.names[module], 0, given.movedim(record.dim, 0))
        return given.clone() if across else output

    def _note(self, name: str, place: int, rows: Tensor) -> None:
        self.read.setdefault((name, place), []).append(rows.reshape(len(rows), -1).clone())

    def _made_up(self, output: Tensor) -> Tensor:
        if not output.is_floating_point():
            return output  # lengths of packed sequences
        return 0.5 * torch.randn(output.shape, generator=self.generator, device="cpu").to(output)


def _with_changed(layer: Any, gave: Any, units: Tensor) -> Any:
    """The outputs of a recurrent layer, sequence and states, with those of some units changed."""
    sequence, states = gave
    last = units[-layer.hidden_size * (1 + layer.bidirectional) :]
    if isinstance(sequence, PackedSequence):
        sequence = sequence._replace(data=_change(sequence.data, last))
    else:
        sequence = _change(sequence, last)
    rows = units.unflatten(0, (-1, layer.hidden_size))
    return sequence, map_tensors(
        lambda state: _change(state, rows if state.ndim == 2 else rows[:, None]), states
    )


def _change(values: Tensor, where: Tensor) -> Tensor:
    return torch.where(where.to(values.device), _FACTOR * values, values)


def _differ(rows: Tensor, others: Tensor) -> Tensor:
    return ((rows != others) & ~(rows.isnan() & others.isnan())).any(1)
