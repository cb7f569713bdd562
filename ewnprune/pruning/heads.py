"""The heads of attention as groups of coupled channels, and the way to cut them out."""

from collections.abc import Sequence
from typing import Any, Literal

import torch
from torch import Tensor, nn

from ewnprune.model.attention import Attention
from ewnprune.model.tensors import without
from ewnprune.pruning.groups import Group, Places
from ewnprune.pruning.surgery import shrink_layer

Heads = Literal["keep", "whole", "dims"]
"""What may go of attention: nothing, whole heads, or the same dimensions of each head."""

# the names that modules of attention keep these numbers under, to be set to what is left
_COUNTS = ("num_heads", "n_heads", "n_head", "nhead", "heads", "num_attention_heads")
_WIDTHS = ("head_dim", "dim_head", "d_head", "head_size", "attention_head_size")
_TOTALS = ("inner_dim", "attn_dim", "all_head_size")


def head_groups(attention: Sequence[Attention], heads: Heads, model: nn.Module) -> list[Group]:
    """The channels of all heads of each attention, as the layer that reads them has them.

    A group is named after the module that its layers lie in, or where that is the whole model or
    holds several, after the layer that reads the heads.
    """
    hosts = [each.host for each in attention]
    names = [
        each.host if each.host and hosts.count(each.host) == 1 else f"heads of {each.reader}"
        for each in attention
    ]
    return [_group(each, name, heads, model) for each, name in zip(attention, names, strict=True)]


def _group(attention: Attention, name: str, heads: Heads, model: nn.Module) -> Group:
    size = attention.heads * attention.width
    channels = tuple(range(size))
    group = Group(name, size, blocks=attention.heads, attention=attention)
    for maker, rows in attention.rows.items():
        index = tuple(rows.flatten().tolist())
        group.makers[maker] = Places(model.get_submodule(maker), index, channels * len(rows))
    reader = model.get_submodule(attention.reader)
    group.readers[attention.reader] = Places(reader, channels, channels)
    group.whole = heads == "whole"
    if attention.unclear:
        group.stays = f"its neurons are those of attention, and {attention.unclear}"
    elif heads == "keep":
        group.stays = (
            f"its neurons are those of the {attention.heads} heads of {name!r}: heads='whole' "
            "removes heads, heads='dims' dimensions of each"
        )
    return group


def cut_heads(model: nn.Module, group: Group, channels: Sequence[int]) -> None:
    """Cut channels of heads out of the layers, and set the numbers that the modules keep."""
    attention = group.attention
    assert attention is not None
    for places in group.makers.values():
        layer: Any = places.layer
        shrink_layer(layer, without(layer.out_features, places.of(channels)), None)
    (reader,) = group.readers.values()
    shrink_layer(reader.layer, None, without(group.size, channels))
    left = group.size - len(channels)
    heads = left // group.width if group.whole else group.blocks
    numbers = (
        (_COUNTS, group.blocks, heads),
        (_WIDTHS, group.width, left // heads),
        (_TOTALS, group.size, left),
    )
    for module in model.get_submodule(attention.host).modules():
        for names, before, after in numbers:
            for name in names:
                if getattr(module, name, None) == before:
                    setattr(module, name, after)


def rescale_queries(group: Group, channels: Sequence[int]) -> None:
    """After a cut, make up for attention that divides by the root of the width that is left.

    ``softmax(q k / sqrt(width))`` would otherwise become sharper, as with what
    `torch.nn.functional.scaled_dot_product_attention` does by default.
    """
    attention = group.attention
    assert attention is not None
    left = (group.size - len(channels)) / group.size
    name, part = next(
        (name, part)
        for name, rows in attention.rows.items()
        for part in range(len(rows))
        if (name, part) != attention.values
    )
    kept = without(group.size, channels)
    places = group.makers[name]
    stays = without(len(places.index), places.of(channels))
    rows = (stays.cumsum(0) - 1)[attention.rows[name][part].flatten()[kept]]
    layer: Any = places.layer
    with torch.no_grad():
        for tensor in (layer.weight, layer.bias):
            if isinstance(tensor, Tensor):
                tensor[rows.to(tensor.device)] *= left**0.5
