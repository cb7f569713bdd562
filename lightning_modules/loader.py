"""Batches of images that lie in memory: slices of one tensor, no workers, no work per image."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional


class ImageLoader:
    """Iterates over the images of one tensor in batches, normalised: ``(x / 255 - mean) / std``.

    The order of an epoch depends on `seed` and the epoch alone. Lightning sets the epoch; elsewhere
    call `set_epoch` before each one. With `state_dict` and `load_state_dict` a run goes on in the
    middle of an epoch. Each of `world_size` processes gets a disjoint share and the same number of
    batches; while shuffling, the few images that cannot be shared evenly sit that epoch out.

    Args:
        images: Pixels, ``(N, H, W)`` or ``(N, C, H, W)`` uint8; batches come out on its device.
        labels: Classes, ``(N,)``; None gives batches of images alone.
        batch_size: Number of images in a batch of each process; the last batch may differ.
        mean: Mean pixel of the data set, where white is 1, or that of each channel.
        std: Standard deviation of its pixels, or that of each channel.
        shuffle: Whether each epoch has an order of its own.
        seed: Chooses the orders, the shifts and the flips.
        shift: Each image is moved by up to so many pixels each way, at random and anew in every
            epoch; what moves in is black (0). It is what a random crop of an image padded by as
            many pixels gives.
        flip: Whether half of the images, drawn anew in every epoch, are mirrored left to right.
        rank: Number of this process, from 0.
        world_size: Number of processes.
        current_epoch: Called for the epoch when an iteration starts; None leaves it to `set_epoch`.

    Raises:
        ValueError: If there are fewer images than processes, or `shift` is negative.
    """

    batch_sampler = None  # Lightning asks for it wherever there is a sampler

    def __init__(
        self,
        images: Tensor,
        labels: Tensor | None,
        batch_size: int,
        *,
        mean: float | Sequence[float],
        std: float | Sequence[float],
        shuffle: bool = False,
        seed: int = 0,
        shift: int = 0,
        flip: bool = False,
        rank: int = 0,
        world_size: int = 1,
        current_epoch: Callable[[], int] | None = None,
    ) -> None:
        if len(images) < world_size:
            raise ValueError(f"{len(images)} images cannot be shared by {world_size} processes")
        if shift < 0:
            raise ValueError(f"shift must not be negative, got {shift}")
        self.images, self.labels = images, labels
        self.batch_size = batch_size
        self.mean, self.std = mean, std
        self.shuffle, self.seed, self.shift, self.flip = shuffle, seed, shift, flip
        self.rank, self.world_size = rank, world_size
        self.current_epoch = current_epoch
        self.epoch = 0
        self._batch = 0  # batches given out in this epoch
        self._resume = (-1, 0)  # epoch and number of batches that a loaded state asks to pass over

    @property
    def sampler(self) -> ImageLoader:
        """The loader itself: Lightning calls `set_epoch` on a loader's ``sampler``."""
        return self

    def set_epoch(self, epoch: int) -> None:
        """Chooses the order that the next iteration follows."""
        self.epoch = epoch

    def __len__(self) -> int:
        """Number of batches of an epoch, the same in every process."""
        share = len(self.images) // self.world_size
        return -(-share // self.batch_size)

    def __iter__(self) -> Iterator[Any]:
        """Yields ``(x, y)``, or ``x`` where there are no labels; ``x`` is ``(B, C, H, W)`` float32.

        Nothing happens before the first batch is asked for: Lightning calls `iter` first and sets
        the epoch afterwards.
        """
        if self.current_epoch is not None:
            self.epoch = self.current_epoch()
        share = self._order()[self.rank :: self.world_size].to(self.images.device)
        epoch, done = self._resume
        self._resume = (-1, 0)
        for i in range(done if epoch == self.epoch else 0, len(self)):
            self._batch = i + 1
            # one process may have an image more than another, never a batch more
            last = i == len(self) - 1
            index = share[i * self.batch_size : None if last else (i + 1) * self.batch_size]
            images = self.images[index]
            if images.dim() == 3:
                images = images.unsqueeze(1)
            # by number of the batch, so that a resumed epoch goes on with the same draws
            draw = (self.seed, self.epoch, i, self.rank)
            if self.shift:
                images = _shifted(images, self.shift, draw)
            if self.flip:
                images = _flipped(images, (*draw, 1))
            x = self.normalized(images)
            yield x if self.labels is None else (x, self.labels[index])

    def normalized(self, images: Tensor) -> Tensor:
        """Images of uint8 as batches have them, float32 with mean 0 and deviation 1."""
        x = images.float().div_(255)
        return x.sub_(_per_channel(self.mean, x)).div_(_per_channel(self.std, x))

    def state_dict(self) -> dict[str, int]:
        """Where the iteration stands."""
        return {"epoch": self.epoch, "batch": self._batch}

    def load_state_dict(self, state: dict[str, int]) -> None:
        """Makes the next iteration, if it is over the same epoch, go on from there."""
        self._resume = (state["epoch"], state["batch"])

    def _order(self) -> Tensor:
        n = len(self.images)
        if not self.shuffle:
            return torch.arange(n)
        # NumPy mixes seed and epoch; their sum would make seed 0 in epoch 1 seed 1 in epoch 0
        order = torch.from_numpy(np.random.default_rng((self.seed, self.epoch)).permutation(n))
        return order[: n - n % self.world_size]


def _shifted(images: Tensor, shift: int, seed: tuple[int, ...]) -> Tensor:
    """Each of the images ``(B, C, H, W)`` moved by its own draw from -shift to shift, both ways."""
    count, channels, height, width = images.shape
    draws = np.random.default_rng(seed).integers(2 * shift + 1, size=(2, count, 1, 1, 1))
    down, right = torch.from_numpy(draws).to(images.device)
    rows = down + torch.arange(height, device=images.device).view(1, 1, -1, 1)
    columns = right + torch.arange(width, device=images.device).view(1, 1, 1, -1)
    each = torch.arange(count, device=images.device).view(-1, 1, 1, 1)
    channel = torch.arange(channels, device=images.device).view(1, -1, 1, 1)
    return functional.pad(images, (shift,) * 4)[each, channel, rows, columns]


def _flipped(images: Tensor, seed: tuple[int, ...]) -> Tensor:
    """Half of the images ``(B, C, H, W)``, drawn one by one, mirrored left to right."""
    draws = np.random.default_rng(seed).random(len(images)) < 0.5
    mirrored = torch.from_numpy(draws).to(images.device).view(-1, 1, 1, 1)
    return torch.where(mirrored, images.flip(3), images)


def _per_channel(value: float | Sequence[float], images: Tensor) -> float | Tensor:
    if isinstance(value, int | float):
        return value
    return torch.tensor(value, dtype=images.dtype, device=images.device).view(-1, 1, 1)
