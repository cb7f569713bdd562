"""Plain networks for small images; any other `torch.nn.Module` does as well."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Sequence
from itertools import pairwise

from torch import nn


class MLP(nn.Sequential):
    """Fully connected ReLU network.

    The default is the 784-1024-10 network of Morwani & Ramaswamy, "Inductive Bias of Gradient
    Descent for Weight Normalized Smooth Homogeneous Neural Nets" (https://arxiv.org/abs/2010.12909):
    Kaiming normal weights, hidden biases that start at zero, no bias on the output.

    Args:
        in_features: Length of an input once flattened.
        hidden: Number of neurons of each hidden layer, first to last; with ``(300, 100)`` and
            ``output_bias=True`` it is LeNet-300-100.
        num_classes: Number of outputs.
        hidden_bias: Whether hidden layers have a bias.
        output_bias: Whether the output layer has a bias.

    Shape:
        Input ``(B, ...)`` whose trailing dimensions hold ``in_features`` numbers; output
        ``(B, num_classes)``.

    Raises:
        ValueError: If a size is not a positive whole number, or `hidden` is empty.

    Example:
        >>> import torch
        >>> from lightning_modules import MLP
        >>> MLP(hidden=(300, 100))(torch.zeros(2, 1, 28, 28)).shape
        torch.Size([2, 10])
    """

    def __init__(
        self,
        in_features: int = 784,
        hidden: Sequence[int] = (1024,),
        num_classes: int = 10,
        hidden_bias: bool = True,
        output_bias: bool = False,
    ) -> None:
        check_sizes("hidden", *hidden)
        check_sizes("in_features", in_features)
        check_sizes("num_classes", num_classes)
        layers: OrderedDict[str, nn.Module] = OrderedDict(flatten=nn.Flatten())
        for i, (n_in, n_out) in enumerate(pairwise([in_features, *hidden]), start=1):
            layers[f"fc{i}"] = nn.Linear(n_in, n_out, bias=hidden_bias)
            layers[f"relu{i}"] = nn.ReLU()
        layers[f"fc{len(hidden) + 1}"] = nn.Linear(hidden[-1], num_classes, bias=output_bias)
        super().__init__(layers)
        kaiming_normal(self)


class CNN(nn.Sequential):
    """Small convolutional network.

    Each block is a 3 x 3 convolution, BatchNorm, ReLU and 2 x 2 max pooling; then comes a linear
    layer.

    Args:
        channels: Number of filters of each block, first to last.
        num_classes: Number of outputs.
        in_channels: Number of channels of an image.
        image_size: Height and width of an image in pixels; each block halves it, rounding down.

    Shape:
        Input ``(B, in_channels, image_size, image_size)``; output ``(B, num_classes)``.

    Raises:
        ValueError: If a size is not a positive whole number, `channels` is empty, or it has more
            blocks than the image can be halved.

    Example:
        >>> import torch
        >>> from lightning_modules import CNN
        >>> CNN()(torch.zeros(2, 1, 28, 28)).shape
        torch.Size([2, 10])
    """

    def __init__(
        self,
        channels: Sequence[int] = (16, 32),
        num_classes: int = 10,
        in_channels: int = 1,
        image_size: int = 28,
    ) -> None:
        check_sizes("channels", *channels)
        check_sizes("num_classes", num_classes)
        check_sizes("in_channels", in_channels)
        check_sizes("image_size", image_size)
        side = image_size // 2 ** len(channels)
        if side == 0:
            raise ValueError(
                f"channels={tuple(channels)} means {len(channels)} poolings, but "
                f"image_size={image_size} can be halved only {image_size.bit_length() - 1} times: "
                "give fewer channels or larger images"
            )
        layers: OrderedDict[str, nn.Module] = OrderedDict()
        for i, (n_in, n_out) in enumerate(pairwise([in_channels, *channels]), start=1):
            # no bias: BatchNorm subtracts the mean, and adds a bias of its own
            layers[f"conv{i}"] = nn.Conv2d(n_in, n_out, kernel_size=3, padding=1, bias=False)
            layers[f"norm{i}"] = nn.BatchNorm2d(n_out)
            layers[f"relu{i}"] = nn.ReLU()
            layers[f"pool{i}"] = nn.MaxPool2d(2)
        layers["flatten"] = nn.Flatten()
        layers["fc"] = nn.Linear(channels[-1] * side * side, num_classes)
        super().__init__(layers)
        kaiming_normal(self)


class LeNet5(nn.Sequential):
    """LeNet-5 as Caffe has it, the network of published tables on pruning.

    Two 5 x 5 convolutions without padding, each followed by ReLU and 2 x 2 max pooling, and two
    linear layers with a ReLU between them. Caffe's own has no ReLU behind the convolutions; those
    that were pruned have, as of Louizos et al. (https://arxiv.org/abs/1705.08665) on. With biases
    its multiply-adds are ``(25 + 1) 24^2 c1 + (25 c1 + 1) 8^2 c2 + (16 c2 + 1) h + (h + 1) 10``,
    2,308,230.

    Args:
        channels: Number of filters of the two convolutions.
        hidden: Number of neurons of the hidden linear layer.
        num_classes: Number of outputs.

    Shape:
        Input ``(B, 1, 28, 28)``; output ``(B, num_classes)``.

    Raises:
        ValueError: If a size is not a positive whole number, or `channels` are not two.

    Example:
        >>> import torch
        >>> from lightning_modules import LeNet5
        >>> LeNet5()(torch.zeros(2, 1, 28, 28)).shape
        torch.Size([2, 10])
    """

    def __init__(
        self, channels: tuple[int, int] = (20, 50), hidden: int = 500, num_classes: int = 10
    ) -> None:
        check_sizes("channels", *channels)
        check_sizes("hidden", hidden)
        check_sizes("num_classes", num_classes)
        if len(channels) != 2:
            raise ValueError(f"channels must be two numbers, such as (20, 50), got {channels}")
        first, second = channels
        layers: OrderedDict[str, nn.Module] = OrderedDict()
        layers["conv1"] = nn.Conv2d(1, first, kernel_size=5)
        layers["relu1"] = nn.ReLU()
        layers["pool1"] = nn.MaxPool2d(2)
        layers["conv2"] = nn.Conv2d(first, second, kernel_size=5)
        layers["relu2"] = nn.ReLU()
        layers["pool2"] = nn.MaxPool2d(2)
        layers["flatten"] = nn.Flatten()
        layers["fc1"] = nn.Linear(16 * second, hidden)
        layers["relu3"] = nn.ReLU()
        layers["fc2"] = nn.Linear(hidden, num_classes)
        super().__init__(layers)
        kaiming_normal(self)


def check_sizes(name: str, *sizes: int) -> None:
    """Raises ValueError unless `sizes` are one or more positive whole numbers."""
    if not sizes or any(not isinstance(size, int) or size < 1 for size in sizes):
        got = sizes[0] if len(sizes) == 1 else sizes
        raise ValueError(f"{name} must be one or more positive whole numbers, got {got}")


def kaiming_normal(network: nn.Module) -> None:
    """Starts linear layers and convolutions as He et al. (2015) do, and their biases at zero."""
    for layer in network.modules():
        if isinstance(layer, nn.Linear | nn.Conv2d):
            nn.init.kaiming_normal_(layer.weight)
            if layer.bias is not None:
                nn.init.zeros_(layer.bias)
