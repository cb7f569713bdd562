"""Budgets asked and reached: the largest network within MACs, parameters, bytes or milliseconds.

    python -m benchmarks.budgets

prints a Markdown table and writes it to ``docs/results/budgets.csv``. ``--networks CNN`` does
some of the networks only, and writes nothing.

Random weights in float32, ranked by norm. ``reached`` is counted on the network that
`remove_neurons` returns; a latency is measured anew there, in turns with the dense network, and
``found at`` is what the search went by. ``seconds`` is the whole removal, the search included.
"""

import argparse
import re
import time
from collections.abc import Callable, Iterator
from functools import partial
from io import BytesIO
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torchvision import models

from ewnprune import Budget
from ewnprune.files import write_rows
from ewnprune.model.latency import measure_latency
from ewnprune.model.preserve import evaluating
from ewnprune.model.size import count_macs, count_parameters
from ewnprune.model.tracing import call
from ewnprune.pruning.removal import remove_with_notes
from lightning_modules import CNN, MLP

FILE = Path(__file__).parent.parent / "docs" / "results" / "budgets.csv"
COLUMNS = ("network", "scope", "budget", "dense", "reached", "of the dense", "found at", "seconds")
NETWORKS: dict[str, tuple[Callable[[], nn.Module], tuple[int, ...], dict[str, Any]]] = {
    "MLP": (MLP, (784,), {}),
    "CNN": (CNN, (1, 28, 28), {}),
    "ResNet-18": (lambda: models.resnet18(num_classes=10), (3, 64, 64), {}),
    "ViT-B/16": (
        lambda: models.vit_b_16(num_classes=10, image_size=64), (3, 64, 64),
        {"layers": "*.mlp.0"},
    ),
}  # fmt: skip


def cost_of(network: nn.Module, cost: str, x: Tensor) -> int:
    """What a network costs, but for the time."""
    if cost == "parameters":
        return count_parameters(network)
    if cost == "macs":
        with evaluating(network):
            return count_macs(network, call, x)[0]
    file = BytesIO()
    torch.save(network.state_dict(), file)
    return file.tell()


def times(networks: dict[str, nn.Module], x: Tensor) -> dict[str, float]:
    """Milliseconds of some networks, in turns."""
    found = measure_latency({name: partial(call, net) for name, net in networks.items()}, x)
    return {name: latency.milliseconds for name, latency in found.items()}


def row(network: nn.Module, x: Tensor, budget: Budget, options: dict[str, Any]) -> dict[str, Any]:
    """One budget for one network."""
    begun = time.perf_counter()
    try:
        removal = remove_with_notes(network, budget=budget, example_input=x, **options)
    except ValueError as error:
        least = re.search(r"the smallest network .* (\S+) of (\S+) .* \((.*)\)", str(error))
        assert least is not None
        return {"dense": least[2], "reached": f"none: {least[1]}", "of the dense": least[3]}
    seconds = time.perf_counter() - begun
    (note,) = [str(note) for note in removal.notes if note.kind == "sizes"]
    cost = budget.cost
    if cost == "latency_ms":
        found = times({"dense": network, "small": removal.model}, x)
        dense, reached = found["dense"], found["small"]
    else:
        dense, reached = cost_of(network, cost, x), cost_of(removal.model, cost, x)
        assert reached <= budget.limit(dense)
    return {
        "dense": f"{dense:.3g}" if cost == "latency_ms" else f"{dense:,}",
        "reached": f"{reached:.3g}" if cost == "latency_ms" else f"{reached:,}",
        "of the dense": f"{100 * reached / dense:.4g} %",
        "found at": note.partition(": ")[2].partition(" of ")[0] if cost == "latency_ms" else "",
        "seconds": f"{seconds:.1f}",
    }


def rows(names: list[str]) -> Iterator[dict[str, Any]]:
    """The rows of the table, one after the other."""
    for name in names:
        torch.manual_seed(0)
        build, shape, options = NETWORKS[name]
        network, x = build().eval(), torch.randn(1, *shape)
        half = times({"dense": network}, x)["dense"] / 2
        budgets = [Budget(macs=0.5), Budget(macs=0.2), Budget(parameters=0.5)]
        budgets += [Budget(parameters=0.2), Budget(bytes=0.5), Budget(latency_ms=half)]
        for scope in ("layer", "global"):
            for budget in budgets:
                head = {
                    "network": name,
                    "scope": scope,
                    "budget": f"{budget.cost}={budget.value:.3g}",
                }
                found = row(network, x, budget, {**options, "scope": scope})
                yield dict.fromkeys(COLUMNS, "") | head | found


def main() -> None:
    """Print the table and write it."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--networks", nargs="+", choices=NETWORKS, default=list(NETWORKS))
    names = parser.parse_args().networks
    torch.set_num_threads(1)
    print(f"| {' | '.join(COLUMNS)} |\n| {' | '.join('---' for _ in COLUMNS)} |")
    table = []
    for one in rows(names):
        table.append(one)
        print(f"| {' | '.join(one.values())} |", flush=True)
    if names == list(NETWORKS):
        write_rows(FILE, table, COLUMNS)


if __name__ == "__main__":
    main()
