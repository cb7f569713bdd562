"""One optimisation step of ResNet-50 and ViT-B on a GPU in bf16: plain, torch's weight_norm, EWN.

    python -m benchmarks.step_gpu                  # both networks, eager
    python -m benchmarks.step_gpu --compile        # under torch.compile
    python -m benchmarks.step_gpu --compile --warm # compile all, to its cache, and end

Images of 224 x 224 that stay on the device, SGD with momentum, float32 weights under
``autocast(bfloat16)``. All variants take some steps in turn, again and again. A turn's time is
the GPU's, between two events around its steps; the table shows the least, middle and largest ratio
to plain training in the same round.
"""

import argparse
from collections.abc import Callable
from statistics import median

import torch
import torchvision
from torch import nn
from torch.nn.utils.parametrizations import weight_norm

from benchmarks.machine import describe
from ewnprune import EWN, SWN, reparametrize, select_layers

NETWORKS: dict[str, Callable[[], nn.Module]] = {
    "ResNet-50": torchvision.models.resnet50,
    "ViT-B/16": torchvision.models.vit_b_16,
}
VARIANTS = ("plain", "torch weight_norm", "SWN", "EWN")


def make_step(
    name: str, variant: str, batch: int, compiled: bool, device: str
) -> Callable[[], None]:
    """A function that takes one step of a network in this variant."""
    torch.manual_seed(0)
    network = NETWORKS[name]().to(device, memory_format=torch.channels_last)
    if variant == "torch weight_norm":
        for layer in select_layers(network).chosen.values():
            weight_norm(layer)
    elif variant != "plain":
        reparametrize(network, EWN() if variant == "EWN" else SWN())
    optimizer = torch.optim.SGD(network.parameters(), lr=1e-3, momentum=0.9)
    x = torch.randn(batch, 3, 224, 224, device=device).to(memory_format=torch.channels_last)
    y = torch.randint(1000, (batch,), device=device)
    model = torch.compile(network) if compiled else network

    def step() -> None:
        optimizer.zero_grad()
        with torch.autocast(torch.device(device).type, torch.bfloat16):
            loss = nn.functional.cross_entropy(model(x), y)
        loss.backward()
        optimizer.step()

    return step


def milliseconds(step: Callable[[], None], steps: int) -> float:
    """What the GPU takes for a step."""
    begun, ended = (torch.cuda.Event(enable_timing=True) for _ in range(2))
    begun.record()
    for _ in range(steps):
        step()
    ended.record()
    torch.cuda.synchronize()
    return begun.elapsed_time(ended) / steps


def rows(steps: dict[str, Callable[[], None]], rounds: int, turn: int) -> list[str]:
    """A line of the table for each variant."""
    times = [{v: milliseconds(step, turn) for v, step in steps.items()} for _ in range(rounds)]
    lines = []
    for variant in steps:
        of_plain = [t[variant] / t["plain"] for t in times]
        lines.append(
            f"| {variant} | {median(t[variant] for t in times):.2f} | {min(of_plain):.3f} | "
            f"{median(of_plain):.3f} | {max(of_plain):.3f} |"
        )
    return lines


def main() -> None:
    """Measure, and print the tables."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--networks", nargs="+", choices=NETWORKS, default=list(NETWORKS))
    parser.add_argument("--variants", nargs="+", choices=VARIANTS, default=list(VARIANTS))
    parser.add_argument("--compile", action="store_true")
    parser.add_argument("--warm", action="store_true", help="two steps of each, and no table")
    parser.add_argument("--batch", type=int, default=128)
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--turn", type=int, default=5, help="steps at a time")
    args = parser.parse_args()
    device = torch.cuda.get_device_name()
    for name in args.networks:
        # plain first: all ratios are to it
        names = [v for v in VARIANTS if v in args.variants or (v == "plain" and not args.warm)]
        steps = {v: make_step(name, v, args.batch, args.compile, "cuda") for v in names}
        for step in steps.values():
            for _ in range(2):
                step()
        torch.cuda.synchronize()
        if args.warm:
            continue
        how = "torch.compile" if args.compile else "eager"
        print(f"\n{name}, batch {args.batch}, bf16, {how}, {args.rounds} rounds, {device}.")
        print(f"{describe()}\n\n| variant | GPU ms | of plain: min | median | max |")
        print("| --- | --- | --- | --- | --- |")
        print("\n".join(rows(steps, args.rounds, args.turn)), flush=True)


if __name__ == "__main__":
    main()
