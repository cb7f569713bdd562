"""Networks that several tests look at: small members of the families that people prune."""

import torch
from torch import nn
from torchvision import models
from torchvision.models.convnext import CNBlockConfig

from ewnprune import separate_attention

CONVNEXT = [CNBlockConfig(8, 16, 2), CNBlockConfig(16, 24, 1), CNBlockConfig(24, None, 1)]


class UNet(nn.Module):
    """Skips that are concatenated, a residual and a transposed convolution; classes per pixel."""

    def __init__(self):
        super().__init__()
        self.down1, self.norm1 = nn.Conv2d(3, 6, 3, padding=1), nn.BatchNorm2d(6)
        self.down2 = nn.Conv2d(6, 10, 3, padding=1, stride=2)
        self.middle = nn.Conv2d(10, 10, 3, padding=1)
        self.up = nn.ConvTranspose2d(10, 8, 2, stride=2)
        self.join = nn.Conv2d(14, 8, 3, padding=1)
        self.out = nn.Conv2d(8, 2, 1)

    def forward(self, x):
        high = self.norm1(self.down1(x)).relu()
        low = self.down2(high).relu()
        low = low + self.middle(low).relu()
        return self.out(self.join(torch.cat([high, self.up(low)], dim=1)).relu())


class Skip(nn.Module):
    """Two first layers read the same input, normalized by constants of the model's own."""

    def __init__(self):
        super().__init__()
        self.long, self.short = nn.Linear(10, 8), nn.Linear(10, 5)
        self.head = nn.Linear(8, 5)
        self.register_buffer("mean", torch.full((10,), 3.0))
        self.register_buffer("scale", torch.linspace(1, 2, 10))

    def forward(self, x):
        x = (x - self.mean) / self.scale
        return self.short(x) + self.head(self.long(x).relu())


class Residual(nn.Module):
    """Two layers whose neurons are added, so that they go together."""

    def __init__(self):
        super().__init__()
        self.first, self.second, self.head = nn.Linear(3, 4), nn.Linear(4, 4), nn.Linear(4, 2)

    def forward(self, x):
        x = self.first(x)
        return self.head(x + self.second(x).relu())


class Block(nn.Module):
    """A transformer's block, with queries, keys and values by one layer."""

    def __init__(self, width, heads):
        super().__init__()
        self.norm1, self.norm2 = nn.LayerNorm(width), nn.LayerNorm(width)
        self.heads = heads
        self.qkv, self.proj = nn.Linear(width, 3 * width), nn.Linear(width, width)
        self.mlp = nn.Sequential(
            nn.Linear(width, 2 * width), nn.GELU(), nn.Linear(2 * width, width)
        )

    def forward(self, x):
        q, k, v = (
            part.unflatten(-1, (self.heads, -1)).transpose(1, 2)
            for part in self.qkv(self.norm1(x)).chunk(3, -1)
        )
        mixed = nn.functional.scaled_dot_product_attention(q, k, v).transpose(1, 2).flatten(2)
        x = x + self.proj(mixed)
        return x + self.mlp(self.norm2(x))


class Transformer(nn.Module):
    """Words in, classes out."""

    def __init__(self, width=16, heads=4, blocks=2):
        super().__init__()
        self.words = nn.Embedding(20, width)
        self.places = nn.Parameter(torch.randn(6, width))
        self.blocks = nn.Sequential(*(Block(width, heads) for _ in range(blocks)))
        self.norm, self.head = nn.LayerNorm(width), nn.Linear(width, 5)

    def forward(self, words):
        return self.head(self.norm(self.blocks(self.words(words) + self.places)).mean(1))


class Recurrent(nn.Module):
    """Words through two kinds of recurrent layers, a norm and a hidden layer, to classes."""

    def __init__(self):
        super().__init__()
        self.words, self.into = nn.Embedding(20, 8), nn.Linear(8, 10)
        self.lower = nn.LSTM(10, 12, num_layers=2, batch_first=True, bidirectional=True)
        self.upper = nn.GRU(24, 10, batch_first=True)
        self.norm, self.hidden = nn.LayerNorm(34), nn.Linear(34, 12)
        self.head = nn.Linear(12, 5)

    def forward(self, words):
        lower, (last, _) = self.lower(self.into(self.words(words)).relu())
        upper, _ = self.upper(lower)
        mixed = torch.cat([upper[:, -1], last[-2], last[-1]], dim=1)
        return self.head(self.hidden(self.norm(mixed)).relu())


class TNet(nn.Module):
    """Learns a square matrix from all points: a small one of Qi et al., arXiv 1612.00593."""

    def __init__(self, width):
        super().__init__()
        self.width = width
        self.conv1, self.norm1 = nn.Conv1d(width, 8, 1), nn.BatchNorm1d(8)
        self.conv2, self.norm2 = nn.Conv1d(8, 16, 1), nn.BatchNorm1d(16)
        self.fc1, self.norm3 = nn.Linear(16, 12), nn.BatchNorm1d(12)
        self.fc2 = nn.Linear(12, width * width)

    def forward(self, points):
        x = self.norm1(self.conv1(points)).relu()
        x = self.norm2(self.conv2(x)).relu()
        x = self.norm3(self.fc1(x.max(2).values)).relu()
        matrix = self.fc2(x).view(-1, self.width, self.width)
        return matrix + torch.eye(self.width, dtype=x.dtype, device=x.device)


class PointNet(nn.Module):
    """Points ``(B, 3, N)`` to classes, with a learned transform of points and one of features."""

    def __init__(self, features=True):
        super().__init__()
        self.turn, self.bend = TNet(3), TNet(10) if features else None
        self.conv1, self.norm1 = nn.Conv1d(3, 10, 1), nn.BatchNorm1d(10)
        self.conv2, self.norm2 = nn.Conv1d(10, 14, 1), nn.BatchNorm1d(14)
        self.conv3, self.norm3 = nn.Conv1d(14, 20, 1), nn.BatchNorm1d(20)
        self.fc1, self.norm4, self.fc2 = nn.Linear(20, 12), nn.BatchNorm1d(12), nn.Linear(12, 5)

    def forward(self, points):
        x = torch.bmm(points.transpose(1, 2), self.turn(points)).transpose(1, 2)
        x = self.norm1(self.conv1(x)).relu()
        if self.bend is not None:
            x = torch.bmm(x.transpose(1, 2), self.bend(x)).transpose(1, 2)
        x = self.norm2(self.conv2(x)).relu()
        x = self.norm3(self.conv3(x)).max(2).values
        return self.fc2(self.norm4(self.fc1(x)).relu())


def chain():
    return nn.Sequential(
        nn.Conv2d(3, 10, 3), nn.BatchNorm2d(10), nn.ReLU(inplace=True), nn.MaxPool2d(2),
        nn.Conv2d(10, 12, 3, groups=2), nn.Tanh(), nn.Flatten(), nn.Linear(12 * 25, 20),
        nn.Dropout(), nn.Sigmoid(), nn.Linear(20, 5),
    )  # fmt: skip


def resnet18():
    return models.resnet18(num_classes=5)


def resnext():
    return models.ResNet(
        models.resnet.Bottleneck, [1, 1, 1, 1], num_classes=5, groups=4, width_per_group=4
    )


def mobilenet():
    return models.mobilenet_v3_small(num_classes=5)


def densenet():
    return models.DenseNet(8, (2, 3), 16, num_classes=5)


def convnext():
    return models.ConvNeXt(CONVNEXT, num_classes=5, layer_scale=1.0)


def vit():
    return models.VisionTransformer(32, 8, 2, 3, 24, 48, num_classes=5)


def separate_vit():
    return separate_attention(vit())


def group_norm():
    layers = [nn.Conv2d(3, 8, 3), nn.GroupNorm(2, 8), nn.ReLU(), nn.Conv2d(8, 12, 3, groups=2)]
    return nn.Sequential(*layers, nn.Flatten(), nn.Linear(12 * 4 * 4, 5))


SHAPES = {UNet: (3, 16, 16), group_norm: (3, 8, 8), chain: (3, 16, 16), PointNet: (3, 30)}


def convolution_first(seed=0):
    torch.manual_seed(seed)
    return nn.Sequential(
        nn.Conv2d(1, 4, 3), nn.ReLU(), nn.Flatten(), nn.Linear(16, 5), nn.ReLU(), nn.Linear(5, 2)
    )


def in_float64(build):
    """What a function gives, a network and its samples, the same each time."""
    torch.manual_seed(0)
    network, x = build()
    return network.double().eval(), x.double()


def make(build, dtype=torch.float64, samples=2):
    """The network in eval mode, with norms and heads that matter, and inputs."""
    torch.manual_seed(0)
    network = build().to(dtype).eval()
    for module in network.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.running_mean.normal_()
            module.running_var.uniform_(0.5, 2)
        if isinstance(module, nn.BatchNorm2d | nn.LayerNorm | nn.GroupNorm):
            nn.init.normal_(module.weight, 1, 0.3)
            nn.init.normal_(module.bias)
        if isinstance(module, nn.Linear) and not module.weight.any():
            nn.init.normal_(module.weight)  # torchvision's ViT starts with a head of zeros
    if build in (Transformer, Recurrent):
        return network, torch.randint(20, (samples, 6))
    return network, torch.randn(samples, *SHAPES.get(build, (3, 32, 32)), dtype=dtype)
