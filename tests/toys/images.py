"""Real images."""

import torch

from lightning_modules.files import TEST_IMAGES, TEST_LABELS, read


def mnist(folder, n):
    """The first images of MNIST's test set as the networks see them, and their labels."""
    pixels, labels = (
        torch.tensor(read(folder / "MNIST" / "raw", "MNIST", file)[:n])
        for file in (TEST_IMAGES, TEST_LABELS)
    )
    return pixels.unsqueeze(1).float().div(255).sub(0.1307).div(0.3081), labels.long()
