"""Sums over all samples, kept for several networks at once and over all processes."""

import torch
from torch import Tensor
from torchmetrics import Metric


class Tally(Metric):
    """Correct predictions, loss and samples of several networks, summed over all processes.

    Args:
        networks: how many networks.
        device: where the outputs will be; sums of losses are kept in float64 where it has it.
    """

    full_state_update = False
    correct: Tensor
    loss: Tensor
    total: Tensor
    left_out: Tensor

    def __init__(self, networks: int, device: torch.device) -> None:
        super().__init__()
        precise = torch.float32 if device.type == "mps" else torch.float64
        zeros = torch.zeros(networks, dtype=torch.int64, device=device)
        self.add_state("correct", zeros, dist_reduce_fx="sum")
        self.add_state("loss", zeros.to(precise), dist_reduce_fx="sum")
        self.add_state("total", torch.tensor(0, device=device), dist_reduce_fx="sum")
        self.add_state("left_out", torch.tensor(0, device=device), dist_reduce_fx="sum")

    def update(self, correct: Tensor, loss: Tensor, total: Tensor, samples: int) -> None:
        """Add one batch: sums over its samples, ``(networks,)`` each, and how many count of all."""
        self.correct += correct
        self.loss += loss
        self.total += total
        self.left_out += samples - total

    def compute(self) -> tuple[list[int], list[float], int, int]:
        """Correct predictions and mean loss of each network, samples counted and left out.

        Raises:
            ValueError: all are left out.
        """
        total, left_out = int(self.total), int(self.left_out)
        if left_out and not total:
            raise ValueError(
                f"none of {left_out} targets is a class: expected class indices from 0"
            )
        return self.correct.tolist(), (self.loss / total).tolist(), total, left_out
