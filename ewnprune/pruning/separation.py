"""Attention whose heads can be removed: torch's, with queries, keys and values as layers."""

import torch
from torch import Tensor, nn

from ewnprune.model.copying import copy_network
from ewnprune.model.layers import type_name
from ewnprune.model.operations import stock_kind


def separate_attention(model: nn.Module) -> nn.Module:
    """A copy of a model with `SeparateAttention` for each `torch.nn.MultiheadAttention`.

    The outputs are the same, to rounding. torch's own module holds one width for its inputs, its
    heads and its outputs, and refuses any other: ``embed_dim`` must be the width of the queries,
    and the packed projection of three times that. So heads can go only where they are layers of
    their own. What is saved as ``torch.export`` or ONNX needs nothing of ewnprune; a state dict
    has other keys than before, and loads into a model treated likewise.

    Raises:
        ValueError: there is no MultiheadAttention, or one with ``add_bias_kv``, ``add_zero_attn``
            or, in a subclass, a forward pass of its own.

    >>> x = torch.randn(2, 5, 8)
    >>> layer = nn.TransformerEncoderLayer(8, 2, 16, batch_first=True).eval()
    >>> torch.allclose(separate_attention(layer)(x), layer(x), atol=1e-6)
    True
    """
    model = copy_network(model)
    found = {
        name: module
        for name, module in model.named_modules()
        if isinstance(module, nn.MultiheadAttention)
    }
    if not found:
        raise ValueError(f"{type_name(model)} has no torch.nn.MultiheadAttention to separate")
    separate: dict[nn.Module, SeparateAttention] = {}
    for name, module in found.items():
        if stock_kind(module, (nn.MultiheadAttention,)) is None:
            raise ValueError(
                f"{name!r} ({type_name(module)}) has a forward pass of its own, which "
                "SeparateAttention has not"
            )
        if module.bias_k is not None or module.add_zero_attn:
            raise ValueError(
                f"{name!r} has add_bias_kv or add_zero_attn, which SeparateAttention has not"
            )
        separate[module] = SeparateAttention(module)
    if model in separate:
        return separate[model]
    for parent in [*model.modules()]:
        for key, child in [*parent._modules.items()]:
            if child is not None and child in separate:  # under every name that it has
                setattr(parent, key, separate[child])
        if isinstance(parent, nn.TransformerEncoder):
            # its nested tensors of padded batches are for torch's own kernel
            parent.use_nested_tensor = False
    return model


class SeparateAttention(nn.Module):
    """Multi-head attention with a Linear layer each for queries, keys, values and outputs.

    It is called as `torch.nn.MultiheadAttention` is. Heads and their dimensions are as many as
    its layers have; the products are divided by the root of the width that heads had at first.

    Args:
        source: the module whose weights to take.
    """

    # torch.nn.TransformerEncoderLayer looks at these to see that it must call the module
    in_proj_bias = None
    _qkv_same_embed_dim = False

    def __init__(self, source: nn.MultiheadAttention) -> None:
        super().__init__()
        self.num_heads = source.num_heads
        self.batch_first = source.batch_first
        self.dropout = source.dropout
        self.scale = source.head_dim**-0.5
        packed = source.in_proj_weight
        with torch.inference_mode(False), torch.enable_grad():  # parts train where the whole does
            weights = (
                (source.q_proj_weight, source.k_proj_weight, source.v_proj_weight)
                if packed is None
                else packed.chunk(3)
            )
            biases = [None] * 3 if source.in_proj_bias is None else source.in_proj_bias.chunk(3)
        self.query, self.key, self.value = (
            _linear(weight, bias) for weight, bias in zip(weights, biases, strict=True)
        )
        out = source.out_proj
        self.out_proj = _linear(out.weight, out.bias)
        self.train(source.training)

    def forward(
        self,
        query: Tensor,
        key: Tensor,
        value: Tensor,
        key_padding_mask: Tensor | None = None,
        need_weights: bool = True,
        attn_mask: Tensor | None = None,
        average_attn_weights: bool = True,
        is_causal: bool = False,
    ) -> tuple[Tensor, Tensor | None]:
        """See `torch.nn.MultiheadAttention`, as for the arguments."""
        if is_causal and attn_mask is None:
            raise ValueError("is_causal is a hint on attn_mask, as in torch: give that too")
        swap = query.ndim == 3 and not self.batch_first
        if swap:
            query, key, value = (x.transpose(0, 1) for x in (query, key, value))
        q, k, v = (
            layer(x).unflatten(-1, (self.num_heads, -1)).transpose(-2, -3)
            for layer, x in ((self.query, query), (self.key, key), (self.value, value))
        )
        mask = self._mask(key_padding_mask, attn_mask, q)
        rate = self.dropout if self.training else 0.0
        weights = None
        if need_weights:
            logits = q @ k.transpose(-1, -2) * self.scale
            weights = (logits if mask is None else logits + mask).softmax(-1)
            mixed = nn.functional.dropout(weights, rate) @ v
            weights = weights.mean(-3) if average_attn_weights else weights
        else:
            mixed = nn.functional.scaled_dot_product_attention(
                q, k, v, mask, dropout_p=rate, scale=self.scale
            )
        outputs = self.out_proj(mixed.transpose(-2, -3).flatten(-2))
        return outputs.transpose(0, 1) if swap else outputs, weights

    def _mask(self, padding: Tensor | None, attention: Tensor | None, q: Tensor) -> Tensor | None:
        """What to add to the logits, to be broadcast with ``([batch,] heads, queries, keys)``."""
        total = None
        if attention is not None and attention.ndim == 3 and q.ndim == 4:
            attention = attention.unflatten(0, (-1, self.num_heads))  # one for each head
        if padding is not None:
            padding = padding[..., None, None, :]
        for mask in (attention, padding):
            if mask is None:
                continue
            if mask.dtype == torch.bool:
                mask = torch.zeros_like(mask, dtype=q.dtype).masked_fill(mask, -torch.inf)
            total = mask if total is None else total + mask
        return total


def _linear(weight: Tensor, bias: Tensor | None) -> nn.Linear:
    """A layer with values of its own, which train where the ones given do."""
    outputs, inputs = weight.shape
    layer = nn.Linear(inputs, outputs, bias is not None, weight.device, weight.dtype)
    with torch.no_grad():
        layer.weight.copy_(weight)
        layer.weight.requires_grad_(weight.requires_grad)
        if bias is not None:
            layer.bias.copy_(bias)
            layer.bias.requires_grad_(bias.requires_grad)
    return layer
