"""The paper's training on MNIST, and pruning at the depths of the loss that a run has passed.

A 784-h-10 ReLU network whose hidden weights are normalized; batches of 128, plain SGD. After each
epoch the loss of all training images decides whether the epoch is kept and whether the learning
rate, divided by that loss, rises or falls by a tenth.
"""

import os
import time
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any, NamedTuple, NoReturn, cast

import numpy as np
import torch
from torch import Tensor, nn
from torch.optim import SGD, Optimizer
from tqdm import tqdm

from ewnprune.controller import LossController, LossDrivenRate
from ewnprune.experiments.descent import Method
from ewnprune.losses import LogCrossEntropyLoss
from ewnprune.masks import rank
from ewnprune.norms import effective_number, neuron_norms
from ewnprune.optim import EWNSGD, SWNSGD, neuron_param_groups
from lightning_modules import MLP, MNISTDataModule

_BATCH = 128
_MAX_KEPT = 10_000
_SAVE_EVERY = 60  # seconds
PRUNED = tuple(range(0, 100, 5))
"""Percentages of hidden neurons removed."""
SELECTED_ON_TEST = "max_over_criteria(test)"
"""The paper's figure: of all criteria the best on test data, in every run and at every level."""


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
        x = (loader.images.flatten(1).float() / 255 - loader.mean) / loader.std
        parts.append(Digits(x.to(device), cast(Tensor, loader.labels).to(device)))
    return parts[0], parts[1]


def _network(hidden: int, seed: int) -> MLP:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return MLP(784, (hidden,))


def _optimizer(method: Method, model: nn.Module) -> Optimizer:
    if method == "none":
        return SGD(model.parameters(), lr=1.0)  # the controller sets the rate
    return (EWNSGD if method == "EWN" else SWNSGD)(neuron_param_groups(model), lr=1.0)


@torch.no_grad()
def log_mean_loss(model: nn.Module, data: Digits) -> float:
    """Log of the mean cross-entropy over all images."""
    per_image = [
        LogCrossEntropyLoss("none")(model(x), y).double()
        for x, y in zip(data.x.split(5000), data.y.split(5000), strict=True)
    ]
    return torch.cat(per_image).logsumexp(0).item() - float(np.log(len(data.y)))


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
    """
    folder.mkdir(parents=True, exist_ok=True)
    missing = [d for d in sorted(depths) if not (folder / f"depth{d}.pt").exists()]
    if not missing:
        bar.update(max(depths))
        return
    model = _network(hidden, seed).to(data.x.device)
    optimizer = _optimizer(method, model)
    start = log_mean_loss(model, data)
    controller = LossController(model, optimizer, start, LossDrivenRate(lr=0.01))
    epochs: list[dict[str, Any]] = []
    if (folder / "state.pt").exists():
        state = torch.load(folder / "state.pt", weights_only=True, map_location=data.x.device)
        epochs = state["epochs"]
        model.load_state_dict(state["model"])
        optimizer.load_state_dict(state["optimizer"])
        controller.load_state_dict(state["controller"])
    else:
        _save(folder / "depth0.pt", {"weights": model.state_dict(), "log_loss": start})
    # weights of dead neurons become denormal numbers, which slow a CPU down tenfold
    torch.set_flush_denormal(True)
    try:
        _until(missing, controller, data, seed, epochs, folder, bar)
    finally:
        torch.set_flush_denormal(False)


def _until(
    depths: list[int],
    controller: LossController,
    data: Digits,
    seed: int,
    epochs: list[dict[str, Any]],
    folder: Path,
    bar: "tqdm[NoReturn]",
) -> None:
    model, saved, shown, goal = cast(MLP, controller.model), time.monotonic(), 0, depths[-1]
    while depths and int(controller.state.accepted) < _MAX_KEPT:
        begun = time.monotonic()
        _epoch(controller, data, np.random.default_rng((seed, len(epochs))))
        decision = controller.judge(log_mean_loss(model, data))
        norms = neuron_norms(cast(nn.Linear, model.fc1))
        epochs.append(
            {
                "epoch": len(epochs) + 1, "accepted": int(decision.accepted),
                "attempted_log_loss": decision.attempted, "log_loss": decision.log_loss,
                "lr": decision.lr, "effective_fraction": _effective_fraction(norms),
                "seconds": time.monotonic() - begun,
            }
        )  # fmt: skip
        reached = int(min(max(0, -controller.log_loss), goal))
        bar.update(reached - shown)
        shown = reached
        bar.set_postfix_str(f"log L {controller.log_loss:.2f}, epoch {len(epochs)}")
        while depths and controller.log_loss < -depths[0]:
            found = {"weights": model.state_dict(), "log_loss": controller.log_loss}
            counts = {"kept": int(controller.state.accepted), "attempted": len(epochs)}
            seconds = sum(row["seconds"] for row in epochs)
            _save(folder / f"depth{depths.pop(0)}.pt", {**found, **counts, "seconds": seconds})
        if not depths or time.monotonic() - saved > _SAVE_EVERY:
            saved = time.monotonic()
            optimizer = controller.optimizer.state_dict()
            state = {"model": model.state_dict(), "optimizer": optimizer, "epochs": epochs}
            _save(folder / "state.pt", {**state, "controller": controller.state_dict()})
    if depths:
        raise RuntimeError(
            f"{folder.name} kept {_MAX_KEPT} epochs and is at log L = {controller.log_loss:.2f}, "
            f"not yet at -{depths[0]}: leave this method out, or ask for a lesser depth"
        )


def _epoch(controller: LossController, data: Digits, random: np.random.Generator) -> None:
    loss = LogCrossEntropyLoss()
    order = torch.from_numpy(random.permutation(len(data.y))).to(data.x.device)
    for batch in order.split(_BATCH):
        controller.optimizer.zero_grad()
        controller.relative(loss(controller.model(data.x[batch]), data.y[batch])).backward()
        controller.optimizer.step()


def history(folder: Path) -> list[dict[str, Any]]:
    """One row per epoch attempted."""
    state = torch.load(folder / "state.pt", weights_only=True, map_location="cpu")
    return cast(list[dict[str, Any]], state["epochs"])


def _effective_fraction(norms: Tensor) -> float:
    return effective_number(norms) / len(norms)


def depth_row(folder: Path, depth: int, data: Digits) -> dict[str, Any]:
    """What a run was like when it passed a depth."""
    found = torch.load(folder / f"depth{depth}.pt", weights_only=True, map_location=data.x.device)
    weights = found.pop("weights")
    norms = weights["fc1.weight"].norm(dim=1)
    (accuracy,) = _accuracies(weights, [torch.ones_like(norms, dtype=torch.bool)], data)
    return {**found, "effective_fraction": _effective_fraction(norms), "test_acc": accuracy}


def prune(folder: Path, depth: int, depths: Iterable[int], data: Digits) -> dict[str, list[float]]:
    """Accuracy at every percentage in `PRUNED`, by criterion.

    The lowest hidden neurons by a score go, with their biases and outgoing weights: by their norm,
    by its change since the start, or by its change since an earlier depth.
    """
    weights = {
        d: torch.load(folder / f"depth{d}.pt", weights_only=True, map_location=data.x.device)[
            "weights"
        ]
        for d in {0, *depths}
        if d <= depth
    }
    norms = {d: w["fc1.weight"].norm(dim=1) for d, w in weights.items()}
    scores = {"norm": norms[depth], "diff_from_init": norms[depth] - norms[0]}
    scores |= {f"diff_from_-{d}": norms[depth] - norms[d] for d in norms if 0 < d < depth}
    result = {}
    for name, score in scores.items():
        ranking = rank({"fc1": score})
        keep = [ranking.keep(percent / 100)["fc1"] for percent in PRUNED]
        result[name] = _accuracies(weights[depth], keep, data)
    result[SELECTED_ON_TEST] = [max(values) for values in zip(*result.values(), strict=True)]
    return result


@torch.no_grad()
def _accuracies(weights: dict[str, Tensor], keep: list[Tensor], data: Digits) -> list[float]:
    hidden = torch.relu(data.x @ weights["fc1.weight"].T + weights["fc1.bias"])
    out = weights["fc2.weight"]
    return [((hidden @ (out * kept).T).argmax(1) == data.y).double().mean().item() for kept in keep]


def _save(path: Path, content: dict[str, Any]) -> None:
    temporary = path.with_name(f".{path.name}.part")
    torch.save(content, temporary)
    os.replace(temporary, path)
