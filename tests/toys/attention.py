"""Attention as people write it, each with four heads of six dimensions, and a network around."""

from torch import nn
from torch.nn import functional as F


class Separate(nn.Module):
    """Queries, keys and values by layers of their own; torch divides by the root of the width."""

    def __init__(self):
        super().__init__()
        self.num_heads = 4
        self.q, self.k, self.v = (nn.Linear(12, 24) for _ in range(3))
        self.out = nn.Linear(24, 12)

    def forward(self, x):
        shape = (*x.shape[:-1], self.num_heads, -1)
        q, k, v = (layer(x).view(shape).transpose(1, 2) for layer in (self.q, self.k, self.v))
        x = F.scaled_dot_product_attention(q, k, v).transpose(1, 2)
        return self.out(x.flatten(2))


class Fused(nn.Module):
    """As timm has it: one layer for all, and a scale that is kept."""

    def __init__(self):
        super().__init__()
        self.num_heads, self.head_dim, self.attn_dim = 4, 6, 24
        self.scale = 6**-0.5
        self.qkv, self.proj = nn.Linear(12, 72, bias=False), nn.Linear(24, 12)

    def forward(self, x):
        b, n, _ = x.shape
        qkv = self.qkv(x).reshape(b, n, 3, self.num_heads, self.head_dim)
        q, k, v = qkv.permute(2, 0, 3, 1, 4).unbind(0)
        x = (q * self.scale @ k.transpose(-2, -1)).softmax(-1) @ v
        return self.proj(x.transpose(1, 2).reshape(b, n, self.attn_dim))


class Interleaved(Fused):
    """As Megatron has it: queries, keys and values of one head after the other; causal."""

    def forward(self, x):
        b, n, _ = x.shape
        qkv = self.qkv(x).view(b, n, self.num_heads, 3 * self.head_dim).transpose(1, 2)
        q, k, v = qkv.chunk(3, dim=-1)
        x = F.scaled_dot_product_attention(q, k, v, is_causal=True)
        return self.proj(x.transpose(1, 2).flatten(2))


class Cross(nn.Module):
    """Queries from one sequence, keys and values, by one layer, from another; no width is kept."""

    def __init__(self):
        super().__init__()
        self.heads = 4
        self.to_q, self.to_kv = nn.Linear(12, 24), nn.Linear(12, 48)
        self.to_out = nn.Sequential(nn.Linear(24, 12), nn.Dropout())

    def forward(self, x):
        q, k, v = self.to_q(x), *self.to_kv(x.flip(1).tanh()).chunk(2, dim=-1)
        q, k, v = (t.unflatten(-1, (self.heads, -1)).transpose(1, 2) for t in (q, k, v))
        return self.to_out(F.scaled_dot_product_attention(q, k, v).transpose(1, 2).flatten(2))


class Grouped(Separate):
    """Heads share keys and values by twos; no number of them is needed."""

    def __init__(self):
        super().__init__()
        self.num_key_value_heads = 2
        self.k, self.v = nn.Linear(12, 12), nn.Linear(12, 12)

    def forward(self, x):
        q, k, v = (
            layer(x).unflatten(-1, (-1, self.q.out_features // self.num_heads)).transpose(1, 2)
            for layer in (self.q, self.k, self.v)
        )
        return self.out(self.attend(q, k, v).transpose(1, 2).flatten(2))

    def attend(self, q, k, v):
        return F.scaled_dot_product_attention(q, k, v, enable_gqa=True)


class Alternating(Grouped):
    """The first head and the third share keys and values, the second and the fourth."""

    def attend(self, q, k, v):
        return F.scaled_dot_product_attention(q, *(t.repeat(1, 2, 1, 1) for t in (k, v)))


class Model(nn.Module):
    def __init__(self, attention, heads=1):
        super().__init__()
        self.first, self.norm = nn.Linear(5, 12), nn.LayerNorm(12)
        self.attn, self.hidden = attention, nn.Linear(12, 16)
        self.back, self.head = nn.Linear(16, 12), nn.Linear(12, 3)

    def forward(self, x):
        x = self.first(x)
        x = x + self.attn(self.norm(x))
        return self.head(x + self.back(self.hidden(x).relu()))
