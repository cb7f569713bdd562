"""What the runs on MNIST were like at the depths of the loss that they passed, and pruning there.

A 784-h-10 ReLU network whose hidden weights are normalized, trained by `mnist_train`.
"""

from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, cast

import torch
from torch import Tensor

from ewnprune.experiments.descent import Method
from ewnprune.experiments.mnist_digits import Digits
from ewnprune.pruning.ranking import rank
from ewnprune.training.norms import effective_number

PRUNED = tuple(range(0, 100, 5))
"""Percentages of hidden neurons removed."""
SELECTED_ON_TEST = "max_over_criteria(test)"
"""The paper's figure: of all criteria the best on test data, in every run and at every level."""

Row = dict[str, Any]


def run_folder(out: Path, method: Method, seed: int) -> Path:
    """Where a run is kept."""
    return out / "runs" / f"{method}-{seed}"


def tables(
    out: Path,
    runs: Iterable[tuple[Method, int]],
    depths: Mapping[Method, Sequence[int]],
    test: Digits,
) -> tuple[list[Row], list[Row], list[Row]]:
    """Rows of ``depths.csv``, ``prune.csv`` and ``epochs.csv``.

    Args:
        out: where the runs are kept.
        runs: method and seed of each.
        depths: of the loss, by method.
        test: images to test on.
    """
    levels: list[Row] = []
    curves: list[Row] = []
    epochs: list[Row] = []
    for method, seed in runs:
        folder, which = run_folder(out, method, seed), {"method": method, "seed": seed}
        for depth in depths[method]:
            levels.append({**which, "depth": depth} | depth_row(folder, depth, test))
            curves += [
                {**which, "depth": depth, "criterion": name, "pruned": percent, "test_acc": value}
                for name, values in prune(folder, depth, depths[method], test).items()
                for percent, value in zip(PRUNED, values, strict=True)
            ]
        epochs += [which | row for row in history(folder)]
    return levels, curves, epochs


def history(folder: Path) -> list[dict[str, Any]]:
    """One row per epoch attempted."""
    state = torch.load(folder / "state.pt", weights_only=True, map_location="cpu")
    return cast(list[dict[str, Any]], state["epochs"])


def depth_row(folder: Path, depth: int, data: Digits) -> dict[str, Any]:
    """What a run was like when it passed a depth."""
    found = torch.load(folder / f"depth{depth}.pt", weights_only=True, map_location=data.x.device)
    weights = found.pop("weights")
    norms = weights["fc1.weight"].norm(dim=1)
    (accuracy,) = _accuracies(weights, [torch.ones_like(norms, dtype=torch.bool)], data)
    fraction = effective_number(norms) / len(norms)
    return {**found, "effective_fraction": fraction, "test_acc": accuracy}


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
