"""ResNet-20 for images of 32 x 32 pixels."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Sequence
from itertools import pairwise
from typing import cast

from torch import Tensor, nn

from lightning_modules.networks import check_sizes, kaiming_normal


class BasicBlock(nn.Module):
    """Two 3 x 3 convolutions with BatchNorm, added to the input: ``relu(x + f(x))``.

    Where size or channels change, a 1 x 1 convolution with BatchNorm takes the place of ``x``.
    """

    def __init__(self, n_in: int, n_out: int, stride: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(n_in, n_out, 3, stride=stride, padding=1, bias=False)
        self.norm1 = nn.BatchNorm2d(n_out)
        self.relu1 = nn.ReLU()
        self.conv2 = nn.Conv2d(n_out, n_out, 3, padding=1, bias=False)
        self.norm2 = nn.BatchNorm2d(n_out)
        self.relu2 = nn.ReLU()
        self.shortcut: nn.Module = nn.Identity()
        if stride != 1 or n_in != n_out:
            conv = nn.Conv2d(n_in, n_out, 1, stride=stride, bias=False)
            layers = OrderedDict(conv=conv, norm=nn.BatchNorm2d(n_out))
            self.shortcut = nn.Sequential(layers)

    def forward(self, x: Tensor) -> Tensor:
        y = self.relu1(self.norm1(self.conv1(x)))
        return cast(Tensor, self.relu2(self.shortcut(x) + self.norm2(self.conv2(y))))


class ResNet20(nn.Sequential):
    """ResNet-20, the form for CIFAR of He et al. (2016), https://arxiv.org/abs/1512.03385.

    A 3 x 3 convolution, three stages of three blocks of two 3 x 3 convolutions each, the mean over
    the image and a linear layer. The second and third stage halve the image. There the shortcut is
    a 1 x 1 convolution (their option B): channels padded with zeros (option A) have no layer that
    makes them, so that no tool could tell which of them go together. 272,474 parameters and
    40.8 million multiply-adds, of which 2,752 and 0.26 million are the two shortcuts'.

    Args:
        channels: Number of filters of each stage, first to last.
        num_classes: Number of outputs.
        in_channels: Number of channels of an image.

    Shape:
        Input ``(B, in_channels, H, W)``; output ``(B, num_classes)``.

    Raises:
        ValueError: If a size is not a positive whole number.

    Example:
        >>> import torch
        >>> from lightning_modules import ResNet20
        >>> ResNet20()(torch.zeros(2, 3, 32, 32)).shape
        torch.Size([2, 10])
    """

    def __init__(
        self,
        channels: Sequence[int] = (16, 32, 64),
        num_classes: int = 10,
        in_channels: int = 3,
    ) -> None:
        check_sizes("channels", *channels)
        check_sizes("num_classes", num_classes)
        check_sizes("in_channels", in_channels)
        layers: OrderedDict[str, nn.Module] = OrderedDict()
        layers["conv"] = nn.Conv2d(in_channels, channels[0], 3, padding=1, bias=False)
        layers["norm"] = nn.BatchNorm2d(channels[0])
        layers["relu"] = nn.ReLU()
        for i, (n_in, n_out) in enumerate(pairwise([channels[0], *channels]), start=1):
            first = BasicBlock(n_in, n_out, stride=1 if i == 1 else 2)
            rest = [BasicBlock(n_out, n_out, stride=1) for _ in range(2)]
            layers[f"stage{i}"] = nn.Sequential(first, *rest)
        layers["pool"] = nn.AdaptiveAvgPool2d(1)
        layers["flatten"] = nn.Flatten()
        layers["fc"] = nn.Linear(channels[-1], num_classes)
        super().__init__(layers)
        kaiming_normal(self)
