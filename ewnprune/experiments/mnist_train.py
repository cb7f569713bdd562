"""The paper's training on MNIST, fast: epochs judged one by one, down to any depth of the loss.

Deep down, most images are classified so well that they no longer count: what an image adds to the
gradient is its share of the loss. The easiest images, with a share of 1e-7 together, are therefore
left out for a block of epochs, of the steps and of the loss that is judged. At the end of the block
all are looked at. Should those left out have come to a share of 1e-6, the block is taken back and
done again with all images. So what is left out is below the rounding of float32 throughout.
"""

import copy
import math
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple, NoReturn

import numpy as np
import torch
from torch import Tensor, nn
from torch.optim import SGD, Optimizer
from tqdm import tqdm

from ewnprune.atomic import replacing
from ewnprune.controller import LossController, LossDrivenRate
from ewnprune.experiments.descent import Method
from ewnprune.experiments.two_layer import Descent, TwoLayer
from ewnprune.norms import effective_number
from ewnprune.optim import EWNSGD, SWNSGD, neuron_param_groups
from lightning_modules import MLP

_BATCH = 128
_MAX_KEPT = 10_000
_SAVE_EVERY = 60  # seconds
_BLOCK = 20  # epochs
_LEFT_OUT, _HARMLESS = 1e-7, 1e-6  # shares of the loss; the former is the rounding of float32
_CHUNK = 1000  # images: their hidden layer stays in the cache


class Digits(NamedTuple):
    """Images ``(N, 784)``, normalized, and labels ``(N,)``."""

    x: Tensor
    y: Tensor


class Chosen(NamedTuple):
    """The images that count, those with the largest loss first.

    Attributes:
        digits: images and labels.
        place: ``(N,)``, where each image of the whole data is found in them, -1 if left out.
    """

    digits: Digits
    place: Tensor


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
    net, parts = TwoLayer.of(model), zip(data.x.split(_CHUNK), data.y.split(_CHUNK), strict=True)
    return torch.cat([net.log_losses(x, y).double() for x, y in parts])


def log_mean_loss(model: nn.Module, data: Digits) -> float:
    """Log of the mean cross-entropy over all images."""
    return each_log_loss(model, data).logsumexp(0).item() - float(np.log(len(data.y)))


def choose(each: Tensor, data: Digits, left_out: float) -> Chosen:
    """All images but the easiest ones, which together have a share of ``left_out`` in the loss."""
    hardest = each.argsort(descending=True, stable=True)
    easiest = (each - each.logsumexp(0)).exp()[hardest.flip(0)].cumsum(0)
    chosen = hardest[: len(hardest) - int((easiest < left_out).sum())]
    place = torch.full_like(hardest, -1)
    place[chosen] = torch.arange(len(chosen), device=place.device)
    return Chosen(Digits(data.x[chosen], data.y[chosen]), place)


@torch.no_grad()
def judged_log_loss(model: nn.Module, chosen: Chosen, highest: float) -> float:
    """Log of the mean loss, or a lower bound of it that is above ``highest`` already."""
    total, offset = torch.tensor(-torch.inf, dtype=torch.float64), float(np.log(len(chosen.place)))
    net, (x, y) = TwoLayer.of(model), chosen.digits
    for part in zip(x.split(_CHUNK), y.split(_CHUNK), strict=True):
        losses = net.log_losses(*part).double()
        total = torch.logaddexp(total, losses.logsumexp(0).cpu())
        if total.item() - offset > highest:
            break
    return total.item() - offset


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

    def squared_norms(self) -> Tensor:
        """``||v||^2`` of each hidden neuron, ``(hidden, 1)``, where the optimizer keeps it."""
        weight = self.model.get_parameter("fc1.weight")
        start = torch.ones_like(weight[:, :1], requires_grad=False)
        if self.method == "none":
            return start
        n: Tensor = self.controller.optimizer.state[weight].setdefault("n", start)
        return n


@torch.no_grad()
def epoch(run: Run, chosen: Chosen) -> bool:
    """One pass over all images in batches; those left out add nothing to their batch.

    Returns:
        Whether it came to its end. It does not if a gradient of the output layer overflows: from
        then on its weights, and every loss, are infinite or not numbers.
    """
    controller, (x, y) = run.controller, chosen.digits
    net, lr = TwoLayer.of(run.model), controller.optimizer.param_groups[0]["lr"]
    descent = Descent(run.method, net, run.squared_norms(), lr)
    log_scale = controller.state.log_scale.item()
    order = np.random.default_rng((run.seed, len(run.epochs))).permutation(len(chosen.place))
    for batch in chosen.place[torch.from_numpy(order).to(x.device)].split(_BATCH):
        found = batch[batch >= 0]
        if not len(found):  # the gradient is zero, and a step would change nothing
            continue
        log_size = float(np.log(len(batch)))
        grads, products = net.gradients(x[found], y[found], log_scale + log_size)
        if not grads.out.isfinite().all():
            return False
        descent.step(grads, products)
    return True


def train(
    method: Method,
    seed: int,
    data: Digits,
    hidden: int,
    depths: Sequence[int],
    folder: Path,
    bar: "tqdm[NoReturn]",
) -> None:
    """Train until ``log L`` has passed every depth; goes on where an interrupted run stopped.

    Writes ``depth<d>.pt`` (the weights when ``log L`` first falls below ``-d``, and at the start
    for d = 0), and ``state.pt`` to go on from.

    Raises:
        RuntimeError: 10,000 epochs kept are not enough.
    """
    folder.mkdir(parents=True, exist_ok=True)
    missing = [d for d in sorted(depths) if not (folder / f"depth{d}.pt").exists()]
    if not missing:
        bar.update(max(depths))
        return
    model = network(hidden, seed).to(data.x)
    start = log_mean_loss(model, data)
    rate = LossDrivenRate(lr=0.01)
    run = Run(method, seed, LossController(model, _optimizer(method, model), start, rate), [])
    if (folder / "state.pt").exists():
        run.load(torch.load(folder / "state.pt", weights_only=True, map_location=data.x.device))
    else:
        _save(folder / "depth0.pt", {"weights": model.state_dict(), "log_loss": start})
    # weights of dead neurons become denormal numbers, which slow a CPU down tenfold
    torch.set_flush_denormal(True)
    try:
        _until(missing, run, data, folder, bar)
    finally:
        torch.set_flush_denormal(False)


def _until(depths: list[int], run: Run, data: Digits, folder: Path, bar: "tqdm[NoReturn]") -> None:
    saved = clock = time.monotonic()
    goal = depths[-1]
    bar.update(_nats(run, goal))
    each = each_log_loss(run.model, data)
    while depths and int(run.controller.state.accepted) < _MAX_KEPT:
        begun, before = run.state(), each
        for left_out in (_LEFT_OUT, 0.0):
            chosen = choose(before, data, left_out)
            clock = _block(run, chosen, depths[0], goal, clock, bar)
            each = each_log_loss(run.model, data)
            if not share_left_out(each, chosen) > _HARMLESS:
                break
            bar.update(-_nats(run, goal))
            run.load(begun)
            bar.update(_nats(run, goal))
        while depths and run.controller.log_loss < -depths[0]:
            counts = {"kept": int(run.controller.state.accepted), "attempted": len(run.epochs)}
            seconds = sum(row["seconds"] for row in run.epochs)
            found = {"weights": run.model.state_dict(), "log_loss": run.controller.log_loss}
            _save(folder / f"depth{depths.pop(0)}.pt", {**found, **counts, "seconds": seconds})
        if not depths or time.monotonic() - saved > _SAVE_EVERY:
            saved = time.monotonic()
            _save(folder / "state.pt", run.state())
    if depths:
        raise RuntimeError(
            f"{folder.name} kept {_MAX_KEPT} epochs and is at log L = "
            f"{run.controller.log_loss:.2f}, not yet at -{depths[0]}: leave this method out, or "
            "ask for a lesser depth"
        )


def _nats(run: Run, goal: int) -> int:
    return int(min(max(0, -run.controller.log_loss), goal))


def share_left_out(each: Tensor, chosen: Chosen) -> float:
    """What the images left out now add to the loss, as a fraction of it."""
    return (each[chosen.place < 0].logsumexp(0) - each.logsumexp(0)).exp().item()


def _block(
    run: Run, chosen: Chosen, depth: int, goal: int, clock: float, bar: "tqdm[NoReturn]"
) -> float:
    """A block of epochs, or fewer if the depth is reached; returns when it ended."""
    controller, shown = run.controller, _nats(run, goal)
    for _ in range(_BLOCK):
        ended = epoch(run, chosen)
        attempted = judged_log_loss(run.model, chosen, controller.log_loss) if ended else math.nan
        decision = controller.judge(attempted)
        norms = TwoLayer.of(run.model).weight.norm(dim=1)
        now = time.monotonic()
        run.epochs.append(
            {
                "epoch": len(run.epochs) + 1, "accepted": int(decision.accepted),
                "attempted_log_loss": decision.attempted, "log_loss": decision.log_loss,
                "lr": decision.lr, "effective_fraction": effective_number(norms) / len(norms),
                "images": len(chosen.digits.y), "seconds": now - clock,
            }
        )  # fmt: skip
        clock = now
        bar.update(_nats(run, goal) - shown)
        shown = _nats(run, goal)
        bar.set_postfix_str(f"log L {decision.log_loss:.2f}, epoch {len(run.epochs)}")
        if decision.log_loss < -depth or int(controller.state.accepted) >= _MAX_KEPT:
            break
    return clock


def _save(path: Path, content: dict[str, Any]) -> None:
    with replacing(path) as temporary:
        torch.save(content, temporary)
