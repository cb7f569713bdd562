"""Networks that the benchmarks take apart and torchvision does not have."""

import torch
from torch import Tensor, nn
from torch.nn import functional


class UNet(nn.Module):
    """Two levels down and up again, with BatchNorm and concatenated skips."""

    def __init__(self, width: int = 32) -> None:
        super().__init__()
        self.one = _twice(3, width)
        self.two = _twice(width, 2 * width)
        self.three = _twice(2 * width, 4 * width)
        self.up_two = nn.ConvTranspose2d(4 * width, 2 * width, 2, stride=2)
        self.left_two = _twice(4 * width, 2 * width)
        self.up_one = nn.ConvTranspose2d(2 * width, width, 2, stride=2)
        self.left_one = _twice(2 * width, width)
        self.out = nn.Conv2d(width, 2, 1)

    def forward(self, x: Tensor) -> Tensor:
        one = self.one(x)
        two = self.two(functional.max_pool2d(one, 2))
        x = self.up_two(self.three(functional.max_pool2d(two, 2)))
        x = self.up_one(self.left_two(torch.cat([two, x], dim=1)))
        return self.out(self.left_one(torch.cat([one, x], dim=1)))


def _twice(inputs: int, outputs: int) -> nn.Sequential:
    layers = []
    for n in (inputs, outputs):
        layers += [nn.Conv2d(n, outputs, 3, padding=1, bias=False), nn.BatchNorm2d(outputs)]
        layers += [nn.ReLU()]
    return nn.Sequential(*layers)


class Attention(nn.Module):
    """Self-attention with a Linear layer each for queries, keys and values."""

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.num_heads = heads
        self.query, self.key, self.value, self.out = (nn.Linear(width, width) for _ in range(4))

    def forward(self, x: Tensor) -> Tensor:
        q, k, v = (
            layer(x).unflatten(-1, (self.num_heads, -1)).transpose(1, 2)
            for layer in (self.query, self.key, self.value)
        )
        x = functional.scaled_dot_product_attention(q, k, v)
        return self.out(x.transpose(1, 2).flatten(2))


class Transformer(nn.Module):
    """A classifier of token sequences: embeddings, pre-norm blocks, mean over positions."""

    def __init__(self, words: int = 1000, width: int = 128, heads: int = 8, depth: int = 4) -> None:
        super().__init__()
        self.words, self.places = nn.Embedding(words, width), nn.Embedding(64, width)
        self.blocks = nn.ModuleList(
            nn.ModuleDict(
                {
                    "norm": nn.LayerNorm(width),
                    "attention": Attention(width, heads),
                    "mlp": nn.Sequential(
                        nn.LayerNorm(width),
                        nn.Linear(width, 4 * width),
                        nn.GELU(),
                        nn.Linear(4 * width, width),
                    ),
                }
            )
            for _ in range(depth)
        )
        self.norm, self.head = nn.LayerNorm(width), nn.Linear(width, 10)

    def forward(self, x: Tensor) -> Tensor:
        x = self.words(x) + self.places(torch.arange(x.shape[1], device=x.device))
        for block in self.blocks:
            x = x + block["attention"](block["norm"](x))
            x = x + block["mlp"](x)
        return self.head(self.norm(x).mean(1))


class Recurrent(nn.Module):
    """A classifier of token sequences with an LSTM."""

    def __init__(self, words: int = 1000, width: int = 64) -> None:
        super().__init__()
        self.words, self.lstm = nn.Embedding(words, width), nn.LSTM(width, width, batch_first=True)
        self.hidden, self.head = nn.Linear(width, width), nn.Linear(width, 10)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.hidden(self.lstm(self.words(x))[0][:, -1]).relu())
