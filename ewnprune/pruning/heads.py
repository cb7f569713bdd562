"""The heads of attention as groups, and the numbers that modules of attention keep."""

from collections.abc import Iterable, Mapping, Sequence
from typing import Any, Literal

import torch
from torch import Tensor, nn

from ewnprune.model.attention import Attention
from ewnprune.model.layers import neuron_dim
from ewnprune.pruning.groups import Group, Places

Heads = Literal["keep", "whole", "dims"]
"""What may go of attention: nothing, whole heads, or the same dimensions of each head."""

# the names that modules of attention keep these numbers under, to be set to what is left
_COUNTS = ("num_heads", "n_heads", "n_head", "nhead", "heads", "num_attention_heads")
_SHARED = ("num_key_value_heads", "num_kv_heads", "n_kv_heads", "n_head_kv", "kv_heads")
_WIDTHS = ("head_dim", "dim_head", "d_head", "head_size", "attention_head_size")
_TOTALS = ("inner_dim", "attn_dim", "all_head_size", "split_size")


def head_groups(attention: Sequence[Attention], heads: Heads) -> list[Group]:
    """The channels of all heads of each attention, as the layer that reads them has them.

    A group is named after the module that its layers lie in, or where that is the whole model or
    holds several, after the layer that reads the heads.
    """
    hosts = [each.host for each in attention]
    names = [
        each.host if each.host and hosts.count(each.host) == 1 else f"heads of {each.reader}"
        for each in attention
    ]
    return [_group(each, name, heads) for each, name in zip(attention, names, strict=True)]


def _group(attention: Attention, name: str, heads: Heads) -> Group:
    size = attention.heads * attention.width
    group = Group(name, size, blocks=attention.heads, attention=attention)
    if heads == "whole":  # those that share keys and values go together
        group.blocks //= attention.shared
    for maker, rows in attention.rows.items():
        group.makers[maker] = Places(
            rows.flatten().long(), torch.arange(size, device="cpu").repeat(len(rows))
        )
    group.readers[attention.reader] = Places.blocks(size)
    group.whole = heads == "whole"
    if attention.unclear:
        group.stays = f"its neurons are those of attention, and {attention.unclear}"
    elif heads == "keep":
        group.stays = (
            f"its neurons are those of the {attention.heads} heads of {name!r}: heads='whole' "
            "removes heads, heads='dims' dimensions of each"
        )
    return group


def cut_heads(network: nn.Module, groups: Iterable[Group], units: Mapping[str, Tensor]) -> None:
    """After a cut: have attention count the heads that are left."""
    for group in groups:
        if group.attention is not None and group.name in units and not units[group.name].all():
            _set_counts(network, group, int(units[group.name].sum()))
            if group.rescale:
                _rescale_queries(network, group, group.channels(units[group.name].cpu()))


def _set_counts(network: nn.Module, group: Group, units: int) -> None:
    """Set the numbers that modules of attention keep, where so many units of heads are left."""
    attention = group.attention
    assert attention is not None
    heads = units * attention.shared if group.whole else attention.heads
    width = attention.width if group.whole else units
    numbers = (
        (_COUNTS, attention.heads, heads),
        (_SHARED, attention.heads // attention.shared, heads // attention.shared),
        (_WIDTHS, attention.width, width),
        (_TOTALS, group.size, heads * width),
    )
    for module in network.get_submodule(attention.host).modules():
        for names, before, after in numbers:
            for name in names:
                if getattr(module, name, None) == before:
                    setattr(module, name, after)


def _rescale_queries(network: nn.Module, group: Group, channels: Tensor) -> None:
    """After a cut, make up for attention that divides by the root of the width that is left.

    ``softmax(q k / sqrt(width))`` would otherwise become sharper, as with what
    `torch.nn.functional.scaled_dot_product_attention` does by default.

    Args:
        network: the network, cut.
        group: the heads.
        channels: which of their channels stayed, ``(size,)``.
    """
    attention = group.attention
    assert attention is not None
    left = float(channels.sum()) / group.size
    name, part = next(
        (name, part)
        for name, rows in attention.rows.items()
        for part in range(len(rows))
        if (name, part) != attention.values
    )
    places = group.makers[name]
    stays = places.keep(int(places.index.max()) + 1, channels)
    rows = (stays.cumsum(0) - 1)[attention.rows[name][part].flatten()[channels].long()]
    layer: Any = network.get_submodule(name)
    for key in ("weight", "bias"):
        tensor = getattr(layer, key)
        if tensor is not None:
            scaled = tensor.detach().clone()
            dim = neuron_dim(layer) if key == "weight" else 0
            scaled.movedim(dim, 0)[rows.to(tensor.device)] *= left**0.5
            layer._parameters[key] = nn.Parameter(scaled, tensor.requires_grad)
