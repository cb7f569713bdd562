"""One optimisation step, in turns: plain, torch's weight_norm, SWN, EWN, and both in weight space.

    python -m benchmarks.step                    # MLP 784-1024-10, batch 128
    python -m benchmarks.step --network ResNet18 # 32 x 32 images, batch 64
    python -m benchmarks.step --compile          # the same under torch.compile

All variants take a few steps in turn, again and again, so that a busy machine is so for all of
them. A round's time of a variant is the median over its turns of the CPU time of one step; the
table shows, over the rounds, the least, middle and largest ratio to plain training in that round.
``--profile`` prints where the steps' time goes instead.
"""

import argparse
import time
from collections.abc import Callable
from statistics import median

import torch
import torchvision
from torch import nn
from torch.nn.utils.parametrizations import weight_norm
from torch.profiler import ProfilerActivity, profile

from benchmarks.machine import describe
from ewnprune import EWN, EWNSGD, SWN, SWNSGD, neuron_param_groups, reparametrize, select_layers
from ewnprune.training.lengths import of_length_plainly
from ewnprune.training.parametrizations import NeuronParametrization
from lightning_modules import MLP

Step = Callable[[], None]


class PlainEWN(EWN):
    """EWN by the plain form alone, with the gradient that autograd finds for it."""

    def forward(self, s: torch.Tensor, v: torch.Tensor) -> torch.Tensor:
        return of_length_plainly(v, self.scale(s), self._reduced(v))


def resnet18() -> nn.Module:
    """ResNet-18 for images of 32 x 32: a 3 x 3 stem and no pooling after it."""
    network = torchvision.models.resnet18(num_classes=10)
    network.conv1 = nn.Conv2d(3, 64, 3, padding=1, bias=False)
    network.maxpool = nn.Identity()
    return network


def torch_weight_norm(network: nn.Module) -> None:
    """Torch's own, on the layers that `reparametrize` would choose."""
    for layer in select_layers(network).chosen.values():
        weight_norm(layer)


ATTACHED: dict[str, NeuronParametrization | None] = {
    "plain": None,
    "SWN": SWN(),
    "EWN": EWN(),
    "EWN, plain form": PlainEWN(),
}
VARIANTS = ("plain", "torch weight_norm", "SWN", "EWN", "EWN, plain form", "SWNSGD", "EWNSGD")


def make_step(variant: str, network_name: str, compiled: bool) -> Step:
    """A function that takes one step of plain SGD, on data that stays the same."""
    torch.manual_seed(0)
    network = MLP() if network_name == "MLP" else resnet18()
    shape = (128, 1, 28, 28) if network_name == "MLP" else (64, 3, 32, 32)
    x, y = torch.randn(shape), torch.randint(10, shape[:1])
    if variant == "torch weight_norm":
        torch_weight_norm(network)
    elif ATTACHED.get(variant) is not None:
        reparametrize(network, ATTACHED[variant])
    if variant.endswith("SGD"):
        kind = EWNSGD if variant == "EWNSGD" else SWNSGD
        optimizer = kind(neuron_param_groups(network), lr=1e-3)
    else:
        optimizer = torch.optim.SGD(network.parameters(), lr=1e-3)
    model = torch.compile(network) if compiled else network

    def step() -> None:
        optimizer.zero_grad()
        nn.functional.cross_entropy(model(x), y).backward()
        optimizer.step()

    return step


def round_of(steps: dict[str, Step], turns: int, at_once: int) -> dict[str, float]:
    """Median CPU seconds of one step of each variant."""
    seconds: dict[str, list[float]] = {name: [] for name in steps}
    for _ in range(turns):
        for name, step in steps.items():
            if at_once > 1:
                step()  # what the variant before it left in the caches is not counted
            start = time.process_time()
            for _ in range(at_once):
                step()
            seconds[name].append((time.process_time() - start) / at_once)
    return {name: median(values) for name, values in seconds.items()}


def show(rounds: list[dict[str, float]]) -> None:
    """The table, in Markdown."""
    print("| variant | CPU ms | of plain: min | median | max | of torch's weight_norm: median |")
    print("| --- | --- | --- | --- | --- | --- |")
    for name in rounds[0]:
        ratios = [r[name] / r["plain"] for r in rounds]
        torchs = median(r[name] / r["torch weight_norm"] for r in rounds)
        print(
            f"| {name} | {1e3 * median(r[name] for r in rounds):.2f} | {min(ratios):.3f} "
            f"| {median(ratios):.3f} | {max(ratios):.3f} | {torchs:.3f} |"
        )


def main() -> None:
    """Measure, and print the table."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--network", choices=("MLP", "ResNet18"), default="MLP")
    parser.add_argument("--compile", action="store_true")
    parser.add_argument("--variants", nargs="+", choices=VARIANTS, default=list(VARIANTS))
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--turns", type=int, help="turns of each variant in a round")
    parser.add_argument("--profile", action="store_true")
    args = parser.parse_args()
    torch.set_num_threads(1)
    names = list(dict.fromkeys(("plain", "torch weight_norm", *args.variants)))
    steps = {name: make_step(name, args.network, args.compile) for name in names}
    for step in steps.values():
        for _ in range(2):
            step()
    if args.profile:
        for name, step in steps.items():
            with profile(activities=[ProfilerActivity.CPU]) as seen:
                for _ in range(20):
                    step()
            print(name, seen.key_averages().table("self_cpu_time_total", row_limit=12), sep="\n")
        return
    turns, at_once = (args.turns or 25, 3) if args.network == "MLP" else (args.turns or 1, 1)
    rounds = [round_of(steps, turns, at_once) for _ in range(args.rounds)]
    how = "torch.compile" if args.compile else "eager"
    print(f"\n{args.network}, {how}, {args.rounds} rounds of {turns} turns. {describe()}\n")
    show(rounds)


if __name__ == "__main__":
    main()
