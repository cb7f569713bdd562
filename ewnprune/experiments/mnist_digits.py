"""The images of MNIST: their order in an epoch, and which of them count in it."""

from typing import NamedTuple, cast

import numpy as np
import torch
from torch import Tensor

from lightning_modules import MNISTDataModule

BATCH = 128
LEFT_OUT, HARMLESS = 1e-7, 1e-6  # shares of the loss; the former is the rounding of float32
ALL_ABOVE = -8.0  # log L; `python -m benchmarks.left_out` says why


class Digits(NamedTuple):
    """Images ``(N, 784)``, normalized, and labels ``(N,)``."""

    x: Tensor
    y: Tensor


def load_digits(data_dir: str | None, device: str = "cpu") -> tuple[Digits, Digits]:
    """All 60,000 training and 10,000 test images, fetched if need be."""
    data = MNISTDataModule(data_dir, val_size=0)
    data.prepare_data()
    data.setup()
    parts = []
    for loader in (data.train_dataloader(), data.test_dataloader()):
        x = loader.normalized(loader.images).flatten(1)
        parts.append(Digits(x.to(device), cast(Tensor, loader.labels).to(device)))
    return parts[0], parts[1]


def may_leave_out(log_loss: float) -> float:
    """The share of the loss that the images left out may have in what is done next."""
    return LEFT_OUT if log_loss < ALL_ABOVE else 0.0


def counting(each: Tensor, left_out: float | Tensor) -> Tensor:
    """Which images count: all but the easiest ones, which together have this share of the loss.

    Args:
        each: log loss of each image, ``(N,)`` or, of several runs, ``(runs, N)``.
        left_out: share, or one for each run, ``(runs, 1)``.
    """
    easiest = each.argsort(dim=-1, descending=True, stable=True).flip(-1)
    share = (each - each.logsumexp(-1, keepdim=True)).exp().gather(-1, easiest).cumsum(-1)
    return torch.ones_like(each, dtype=torch.bool).scatter(-1, easiest, ~(share < left_out))


def share_of(which: Tensor, each: Tensor) -> Tensor:
    """What these images add to the loss, as a fraction of it; the same shapes as `counting`."""
    return (each.masked_fill(~which, -torch.inf).logsumexp(-1) - each.logsumexp(-1)).exp()


def shuffled(images: int, seed: int, number: int) -> Tensor:
    """The order of the images in an epoch, by its number among those tried."""
    return torch.from_numpy(np.random.default_rng((seed, number)).permutation(images))
