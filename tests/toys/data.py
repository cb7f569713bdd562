"""Data that a small network learns within seconds."""

import pytorch_lightning as pl
import torch
from torch.utils.data import DataLoader, TensorDataset

from lightning_modules.loader import ImageLoader


def points(n=64, seed=0):
    """Six numbers a sample, of the first class where the signs of the first two differ."""
    x = torch.randn(n, 6, generator=torch.Generator().manual_seed(seed))
    return TensorDataset(x, (x[:, 0] * x[:, 1] > 0).long())


def loader(n=64, seed=0, batch_size=16):
    return DataLoader(points(n, seed), batch_size=batch_size)  # by name, as Lightning copies it


def images(n, seed, batch_size):
    """Images of six pixels, shuffled by seed 0, which go on in the middle of an epoch."""
    images = torch.randint(256, (n, 2, 3), generator=torch.Generator().manual_seed(seed))
    x = images.flatten(1) / 255 - 0.5
    labels = (x[:, 0] * x[:, 1] > 0).long()
    options = {"mean": 0.5, "std": 0.25, "shuffle": seed == 0, "seed": seed}
    return ImageLoader(images.byte(), labels, batch_size, **options)


class Points(pl.LightningDataModule):
    """The same for every stage, as a command line names it: `--data=toys.data.Points`."""

    def train_dataloader(self):
        return loader(40, batch_size=4)

    val_dataloader = test_dataloader = predict_dataloader = train_dataloader
