"""Find attention that is made of Linear layers: which of their neurons are which head's.

No names are trusted. The inputs of the layer that reads the heads are derived by the outputs of the
layers before it: one input channel depends on all queries and keys of its head, and on one value.
"""

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from ewnprune.model.layers import LAYER_TYPES, LINEAR, num_neurons
from ewnprune.model.preserve import hooked
from ewnprune.model.recurrent import RECURRENT
from ewnprune.model.tensors import clone, map_tensors
from ewnprune.model.tracing import Forward

_ALIKE = "its heads share queries, keys or values otherwise than in turn, or cannot be told apart"


@dataclass(frozen=True)
class Attention:
    """Linear layers that make queries, keys and values, and the one that reads the heads.

    Attributes:
        host: name of the innermost module that all of them lie in.
        reader: name of the layer that reads the heads, side by side.
        heads: how many there are.
        width: channels of each.
        rows: names of the layers that make them, each with the places of its neurons,
            ``(parts, heads, width)``: three parts where one layer makes queries, keys and values.
            Where heads share keys and values they have the same places of those.
        values: the layer and its part that are the values.
        shared: how many heads share keys and values, one after the other.
        unclear: why the heads cannot be told apart; empty if they can.
    """

    host: str
    reader: str
    heads: int
    width: int
    rows: dict[str, Tensor]
    values: tuple[str, int]
    shared: int = 1
    unclear: str = ""


def find_attention(model: nn.Module, forward: Forward, inputs: Any) -> list[Attention]:
    """All attention of a model, in eval mode, as seen on an example of two positions or more."""
    generator = torch.Generator().manual_seed(0)
    names = {module: name for name, module in model.named_modules()}
    found = []
    with torch.enable_grad(), _outputs_as_leaves(model) as calls:
        forward(model, clone(inputs))
        for place, call in enumerate(calls):
            once = sum(other.layer is call.layer for other in calls) == 1
            if once and place and call.read.requires_grad:
                attention = _look(call, calls[:place], names, generator)
                found += [attention] if attention is not None else []
    return found


@dataclass(frozen=True)
class _Call:
    """A Linear layer as called: what it read, and what it gave, as a leaf of the graph."""

    layer: nn.Module
    read: Tensor
    gave: Tensor


@contextmanager
def _outputs_as_leaves(model: nn.Module) -> Iterator[list[_Call]]:
    """Cut the graph of derivatives behind each Linear layer: they reach from one to the next.

    Behind convolutions and recurrent layers it ends.
    """
    calls: list[_Call] = []

    def cut(layer: Any, args: tuple[Any, ...], kwargs: dict[str, Any], output: Tensor) -> Tensor:
        read = [*args, *kwargs.values()][0]  # a subclass may call it otherwise
        calls.append(_Call(layer, read.clone(), output.detach().requires_grad_()))
        return calls[-1].gave.clone()  # copies, since both may be written to in place

    def end(layer: nn.Module, args: Any, output: Any) -> Any:
        return map_tensors(Tensor.detach, output)

    layers = [module for module in model.modules() if isinstance(module, LINEAR)]
    handles = [layer.register_forward_hook(cut, with_kwargs=True) for layer in layers]
    others = (*LAYER_TYPES, *RECURRENT)
    ends = [m for m in model.modules() if isinstance(m, others) and not isinstance(m, LINEAR)]
    handles += [layer.register_forward_hook(end) for layer in ends]
    with hooked(handles):
        yield calls


def _look(
    call: _Call, before: Sequence[_Call], names: Mapping[nn.Module, str], generator: torch.Generator
) -> Attention | None:
    """The attention whose heads a layer reads, if it reads any."""
    count = call.read.shape[-1]
    one = _support(call, before, range(1), generator)
    makers = [earlier for earlier in before if one[earlier.layer].any()]
    hits = sorted(int(one[maker.layer].sum()) for maker in makers)
    layers = [names[maker.layer] for maker in makers]
    result = partial(Attention, _common(names[call.layer], *layers), names[call.layer])
    nothing = {name: torch.empty(0, 1, 1, dtype=torch.int, device="cpu") for name in layers}
    if hits == [1] and num_neurons(makers[0].layer) == 3 * count:
        return result(1, count, nothing, ("", 0), unclear="the example has one position only")
    width = (sum(hits) - 1) // 2
    # one value; of queries and of keys all that the head has, made by three layers or fewer
    expected = ([1, width, width], [1, 2 * width], [width, width + 1], [2 * width + 1])
    if hits not in expected or width < 2 or count % width:
        return None
    heads = [
        _support(call, before, range(start, start + width), generator)
        for start in range(0, count, width)
    ]
    rows: dict[str, Tensor] = {}
    values = []
    sharing = {1}
    for maker, name in zip(makers, layers, strict=True):
        places = [head[maker.layer].nonzero().flatten() for head in heads]
        parts = len(places[0]) // width
        same = all(len(place) == parts * width for place in places)
        whole = torch.arange(num_neurons(maker.layer), device="cpu")
        if not same or not torch.equal(torch.cat(places).unique(), whole):
            return result(len(heads), width, nothing, ("", 0), unclear=_ALIKE)
        rows[name] = torch.stack([place.view(parts, width) for place in places], dim=1)
        sharing |= {_sharing(part) for part in rows[name]}
        first = one[maker.layer][rows[name][:, 0]].sum(1)
        values += [(name, part) for part in range(parts) if first[part] == 1]
    if len(values) != 1:
        unclear = "its values cannot be told from the rest"
        return result(len(heads), width, nothing, ("", 0), unclear=unclear)
    if len(sharing) > 2 or 0 in sharing:
        return result(len(heads), width, nothing, ("", 0), unclear=_ALIKE)
    return result(len(heads), width, rows, values[0], max(sharing))


def _sharing(places: Tensor) -> int:
    """How many heads, one after the other, have the same places; 0 where that is not so of all.

    >>> _sharing(torch.tensor([[0, 1], [0, 1], [2, 3], [2, 3]]))
    2
    """
    heads, width = places.shape
    count = heads * width // int(places.unique().numel())
    firsts = places[:: max(1, count)]
    return count if torch.equal(firsts.repeat_interleave(count, 0), places) else 0


def _support(
    call: _Call, before: Sequence[_Call], channels: range, generator: torch.Generator
) -> dict[nn.Module, Tensor]:
    """Which outputs of earlier layers some inputs of a layer depend on, ``(outputs,)`` for each."""
    read = call.read[..., channels.start : channels.stop]
    weights = torch.rand(read.shape, generator=generator, device="cpu").to(read) + 0.5
    slopes = torch.autograd.grad(
        (read * weights).sum(), [c.gave for c in before], retain_graph=True, allow_unused=True
    )
    support: dict[nn.Module, Tensor] = {
        c.layer: torch.zeros(num_neurons(c.layer), dtype=torch.bool, device="cpu") for c in before
    }
    for earlier, slope in zip(before, slopes, strict=True):
        if slope is not None:
            support[earlier.layer] |= (slope != 0).flatten(0, -2).any(0).cpu()
    return support


def _common(*names: str) -> str:
    """The innermost module that all these lie in."""
    paths = [name.split(".")[:-1] for name in names]
    shared = [parts[0] for parts in zip(*paths, strict=False) if len(set(parts)) == 1]
    for length in range(len(shared), 0, -1):
        if all(path[:length] == shared[:length] for path in paths):
            return ".".join(shared[:length])
    return ""
