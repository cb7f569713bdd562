"""A sweep of 20 levels x 3 scores, against plain passes and against pruning a copy per level.

    python -m benchmarks.sweep                      # MLP, 10,000 images
    python -m benchmarks.sweep --network ResNet18 --images 512

The floor is passes over the same loader that measure accuracy and loss: for the MLP one per score
(the first layer's work is shared by all levels), for ResNet-18 as many as the networks of the sweep
have multiply-accumulates, over those of the dense network. The usual ways prune a deep copy per
level: by writing zeros, and with ``torch.nn.utils.prune``. All run in turns, in CPU time; the table
shows ratios to the floor of the same round. Random weights and images: what is measured does not
depend on them. ``--memory`` counts bytes instead.
"""

import argparse
import copy
import time
from collections.abc import Callable, Sequence
from functools import partial
from statistics import median

import torch
from torch import nn
from torch.nn.utils import prune

from benchmarks.machine import describe
from benchmarks.memory import peak_bytes
from benchmarks.step import resnet18
from ewnprune import Curve, select_layers, sparsity_curve
from lightning_modules import MLP, ImageLoader

LEVELS = tuple(i / 20 for i in range(20))
SCORES = ("norm", "norm_product", "random")
Loader = ImageLoader | list[tuple[torch.Tensor, torch.Tensor]]


def validate(model: nn.Module, loader: Loader) -> tuple[int, float]:
    """Correct predictions and sum of losses, as one plain pass measures them."""
    correct, loss = torch.tensor(0), torch.tensor(0.0, dtype=torch.float64)
    with torch.inference_mode():
        for x, y in loader:
            outputs = model(x)
            correct += (outputs.argmax(1) == y).sum()
            loss += nn.functional.cross_entropy(outputs, y, reduction="sum")
    return int(correct), float(loss)


def ours(model: nn.Module, loader: Loader, scores: Sequence[str]) -> Curve:
    """The sweep."""
    return sparsity_curve(model, loader, LEVELS, scores)


def relative_macs(model: nn.Module, loader: Loader, scores: Sequence[str]) -> float:
    """Multiply-accumulates of all the networks of a sweep, each once, over those of the dense."""
    curve = ours(model, [next(iter(loader))], scores)
    networks = {(p.correct, p.loss, p.macs): p.macs for p in curve if p.macs is not None}
    return sum(macs.left / macs.total for macs in networks.values())


def passes(model: nn.Module, loader: Loader, count: int) -> None:
    """Plain validation, again and again."""
    for _ in range(count):
        validate(model, loader)


def zeroed_copies(model: nn.Module, loader: Loader, scores: Sequence[str]) -> None:
    """The usual loop: copy, zero the neurons of lowest norm, validate."""
    for _ in scores:
        for level in LEVELS:
            pruned = copy.deepcopy(model)
            for layer in select_layers(pruned).chosen.values():
                norms = layer.weight.detach().flatten(1).norm(dim=1)
                gone = norms.argsort()[: round(level * len(norms))]
                with torch.no_grad():
                    layer.weight[gone] = 0
                    if layer.bias is not None:
                        layer.bias[gone] = 0
            validate(pruned, loader)


def torch_prune(model: nn.Module, loader: Loader, scores: Sequence[str]) -> None:
    """The same loop with ``torch.nn.utils.prune``."""
    for _ in scores:
        for level in LEVELS:
            pruned = copy.deepcopy(model)
            for layer in select_layers(pruned).chosen.values():
                prune.ln_structured(layer, "weight", level, n=2, dim=0)
            validate(pruned, loader)


def show(ratios: dict[str, list[float]], seconds: dict[str, list[float]]) -> None:
    """The table, in Markdown."""
    print("| what | CPU s | of the floor: min | median | max |\n| --- | --- | --- | --- | --- |")
    for name, values in ratios.items():
        cells = " | ".join(f"{f(values):.3f}" for f in (min, median, max))
        print(f"| {name} | {median(seconds[name]):.2f} | {cells} |")


def main() -> None:
    """Measure, and print the table."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--network", choices=("MLP", "ResNet18"), default="MLP")
    parser.add_argument("--images", type=int, default=10_000)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--without-copies", action="store_true", help="ours and the floor only")
    parser.add_argument("--memory", action="store_true")
    args = parser.parse_args()
    torch.set_num_threads(1)
    torch.manual_seed(0)
    scores = SCORES
    labels = torch.randint(10, (args.images,))
    if args.network == "MLP":
        model = MLP()
        images = torch.randint(256, (args.images, 28, 28), dtype=torch.uint8)
        loader: Loader = ImageLoader(images, labels, 128, mean=0.13, std=0.31)
    else:
        model = resnet18()
        loader = list(
            zip(torch.randn(args.images, 3, 32, 32).split(64), labels.split(64), strict=True)
        )
    model = model.eval()
    if args.memory:
        memory(model, loader, scores)
        return
    share = relative_macs(model, loader, scores)
    count, floor = (3, 3.0) if args.network == "MLP" else (4, share)
    runs: dict[str, Callable[[], object]] = {
        "plain passes (the floor)": lambda: passes(model, loader, count),
        "one sweep": lambda: ours(model, loader, scores),
    }
    if not args.without_copies:
        runs |= {
            "a zeroed copy per level": lambda: zeroed_copies(model, loader, scores),
            "torch.nn.utils.prune per level": lambda: torch_prune(model, loader, scores),
        }
    validate(model, loader)
    seconds: dict[str, list[float]] = {name: [] for name in runs}
    for _ in range(args.rounds):
        for name, run in runs.items():
            start = time.process_time()
            run()
            seconds[name].append(time.process_time() - start)
        seconds["plain passes (the floor)"][-1] *= floor / count
    least = seconds[next(iter(runs))]
    ratios = {
        name: [a / b for a, b in zip(values, least, strict=True)]
        for name, values in seconds.items()
    }
    print(f"\n{args.network}, {args.images} images, {args.rounds} rounds. {describe()}")
    print(f"The networks have {share:.1f} times the MACs of the dense one: {floor:.1f} passes.\n")
    show(ratios, seconds)


def memory(model: nn.Module, loader: Loader, scores: Sequence[str]) -> None:
    """Bytes beyond those of a plain pass."""
    layers: Sequence[nn.Module] = list(select_layers(model).chosen.values())
    largest = max(layer.weight.nbytes for layer in layers)  # type: ignore[operator, type-var]
    plain = peak_bytes(lambda: validate(model, loader))
    print(f"\nModel {sum(p.nbytes for p in model.parameters()) / 2**20:.1f} MiB, largest layer")
    print(f"{largest / 2**20:.2f} MiB, a plain pass {plain / 2**20:.2f} MiB at its peak.\n")
    print("| scores | beyond a plain pass, MiB | of the largest layer |\n| --- | --- | --- |")
    for asked in (scores, ("magnitude",)):
        more = peak_bytes(partial(ours, model, loader, asked)) - plain
        print(f"| {', '.join(asked)} | {more / 2**20:.2f} | {more / largest:.2f} |")


if __name__ == "__main__":
    main()
