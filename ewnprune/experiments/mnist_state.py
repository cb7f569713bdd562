"""A run of the paper's training on MNIST: what it holds, how it begins, and its files."""

import copy
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple, NoReturn

import numpy as np
import torch
from torch import Tensor, nn
from torch.optim import SGD, Optimizer

from ewnprune.experiments.descent import Method
from ewnprune.experiments.mnist_digits import Digits
from ewnprune.experiments.two_layer import TwoLayer
from ewnprune.files import replacing
from ewnprune.training.loss_rate import Decision, LossController, LossDrivenRate
from ewnprune.training.norms import effective_number
from ewnprune.training.optimizers import EWNSGD, SWNSGD, neuron_param_groups
from lightning_modules import MLP

SAVE_EVERY = 60  # seconds
CHUNK = 1000  # images: their hidden layer stays in a CPU's cache
_MAX_KEPT = 10_000


def network(hidden: int, seed: int) -> MLP:
    """The network at its start."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return MLP(784, (hidden,))


def _optimizer(method: Method, model: nn.Module) -> Optimizer:
    if method == "none":
        return SGD(model.parameters(), lr=1.0)  # the controller sets the rate
    return (EWNSGD if method == "EWN" else SWNSGD)(neuron_param_groups(model), lr=1.0)


@torch.no_grad()
def each_log_loss(model: nn.Module, data: Digits) -> Tensor:
    """Log of the cross-entropy of each image, ``(N,)`` in float64."""
    net, parts = TwoLayer.of(model), zip(data.x.split(CHUNK), data.y.split(CHUNK), strict=True)
    return torch.cat([net.log_losses(x, y).double() for x, y in parts])


def log_mean_loss(model: nn.Module, data: Digits) -> float:
    """Log of the mean cross-entropy over all images."""
    return each_log_loss(model, data).logsumexp(0).item() - float(np.log(len(data.y)))


class Run(NamedTuple):
    """A network in training, and one row for each epoch tried."""

    method: Method
    seed: int
    controller: LossController
    epochs: list[dict[str, Any]]

    @property
    def model(self) -> nn.Module:
        return self.controller.model

    def state(self) -> dict[str, Any]:
        """Everything needed to go on, as copies."""
        state = {
            "model": self.model.state_dict(),
            "optimizer": self.controller.optimizer.state_dict(),
            "controller": self.controller.state_dict(),
            "epochs": self.epochs,
        }
        return copy.deepcopy(state)

    def load(self, state: dict[str, Any]) -> None:
        """Go on from there."""
        self.model.load_state_dict(state["model"])
        self.controller.optimizer.load_state_dict(state["optimizer"])
        self.controller.load_state_dict(state["controller"])
        self.epochs[:] = state["epochs"]

    def record(self, decision: Decision, images: int, seconds: float) -> None:
        """Add a row."""
        norms = TwoLayer.of(self.model).weight.norm(dim=1)
        self.epochs.append(
            {
                "epoch": len(self.epochs) + 1, "accepted": int(decision.accepted),
                "attempted_log_loss": decision.attempted, "log_loss": decision.log_loss,
                "lr": decision.lr, "effective_fraction": effective_number(norms) / len(norms),
                "images": images, "seconds": seconds, **self.norms(),
            }
        )  # fmt: skip

    def norms(self) -> dict[str, float]:
        """How large the weights are, and ``n = ||v||^2``, by which directions turn more slowly."""
        net, n = TwoLayer.of(self.model), self.squared_norms()
        found = (net.weight.norm(dim=1).max(), net.out.norm(), n.median(), n.max())
        names = ("largest_norm", "output_norm", "n_median", "n_max")
        return dict(zip(names, torch.stack(found).tolist(), strict=True))

    def squared_norms(self) -> Tensor:
        """``||v||^2`` of each hidden neuron, ``(hidden, 1)``, where the optimizer keeps it."""
        weight = self.model.get_parameter("fc1.weight")
        start = torch.ones_like(weight[:, :1], requires_grad=False)
        if self.method == "none":
            return start
        n: Tensor = self.controller.optimizer.state[weight].setdefault("n", start)
        return n


def begin(
    method: Method, seed: int, data: Digits, hidden: int, depths: Sequence[int], folder: Path
) -> tuple[Run, list[int]]:
    """A run as it starts, or as it was when it was interrupted, and the depths still to pass."""
    folder.mkdir(parents=True, exist_ok=True)
    model = network(hidden, seed).to(data.x)
    start = log_mean_loss(model, data)
    rate = LossDrivenRate(lr=0.01)
    run = Run(method, seed, LossController(model, _optimizer(method, model), start, rate), [])
    if (folder / "state.pt").exists():
        run.load(torch.load(folder / "state.pt", weights_only=True, map_location="cpu"))
    else:
        save(folder / "depth0.pt", {"weights": model.state_dict(), "log_loss": start})
    left = missing(depths, folder)
    save_passed(run, left, folder)  # it may have been cut off between the one file and the other
    return run, left


def missing(depths: Sequence[int], folder: Path) -> list[int]:
    """Depths that a run has not passed, the least first."""
    return [d for d in sorted(depths) if not (folder / f"depth{d}.pt").exists()]


def exhausted(run: Run) -> bool:
    """Whether it may try no more epochs."""
    return int(run.controller.state.accepted) >= _MAX_KEPT


def give_up(run: Run, folder: Path, depth: int) -> NoReturn:
    """Say that a run which is exhausted has not passed this depth."""
    raise RuntimeError(
        f"{folder.name} kept {_MAX_KEPT} epochs and is at log L = {run.controller.log_loss:.2f}, "
        f"not yet at -{depth}: leave this method out, or ask for a lesser depth"
    )


def save_passed(run: Run, depths: list[int], folder: Path) -> None:
    """Save the weights if a depth was passed, and take it off the list.

    The state first: once the last depth is there, nothing of the run is written any more.
    """
    if depths and run.controller.log_loss < -depths[0]:
        save(folder / "state.pt", run.state())
    while depths and run.controller.log_loss < -depths[0]:
        counts = {"kept": int(run.controller.state.accepted), "attempted": len(run.epochs)}
        seconds = sum(row["seconds"] for row in run.epochs)
        found = {"weights": run.model.state_dict(), "log_loss": run.controller.log_loss}
        found |= {**counts, "seconds": seconds, **run.norms()}
        save(folder / f"depth{depths.pop(0)}.pt", found)


def nats(run: Run, goal: int) -> int:
    """How far it is on its way to the goal, for the bar."""
    return int(min(max(0, -run.controller.log_loss), goal))


def save(path: Path, content: dict[str, Any]) -> None:
    """Write a file that `torch.load` reads with ``weights_only``; whole, or not at all."""
    with replacing(path) as temporary:
        torch.save(content, temporary)
