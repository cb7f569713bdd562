"""Is every point of a curve of the network that removal builds? Architectures by what is removed.

    python -m benchmarks.agreement

prints a Markdown table and writes it to ``docs/results/agreement.csv``. ``--networks U-Net`` does
some of the networks only, and writes nothing.

Random weights in float32, eight random inputs with random classes. ``sizes`` says whether the
curve's point has exactly the neurons, parameters and MACs of the network that `remove_neurons`
builds at that level, ``loss`` how far their losses are apart, as a fraction. ``change`` is the
largest difference between the outputs of the smaller and of the dense network, and
``masked - removed`` that between the masked and the smaller one, both as fractions of the largest
output. ``trains`` is one step of gradient descent with finite gradients on the smaller network.
"""

import argparse
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torchvision import models

from benchmarks.networks import Recurrent, Transformer, UNet
from ewnprune import select_layers, sparsity_curve
from ewnprune.files import write_rows
from ewnprune.model.preserve import evaluating
from ewnprune.model.size import count_macs, count_parameters, sizes_of
from ewnprune.model.tracing import call
from ewnprune.pruning.removal import remove_with_notes
from ewnprune.pruning.removed import Removal
from ewnprune.pruning.separation import separate_attention
from lightning_modules import MLP

FILE = Path(__file__).parent.parent / "docs" / "results" / "agreement.csv"
COLUMNS = (
    *("network", "granularity", "groups", "parameters", "left", "MACs left", "sizes", "loss"),
    *("change", "masked - removed", "trains"),
)


def _image() -> Tensor:
    return torch.randn(8, 3, 64, 64)


def _words() -> Tensor:
    return torch.randint(0, 1000, (8, 16))


NETWORKS: dict[str, tuple[Callable[[], nn.Module], Callable[[], Tensor]]] = {
    "MLP 784-300-100-10": (lambda: MLP(hidden=(300, 100)), lambda: torch.randn(8, 784)),
    "ResNet-18": (lambda: models.resnet18(num_classes=10), _image),
    "ResNeXt-50 32x4d": (lambda: models.resnext50_32x4d(num_classes=10), _image),
    "MobileNetV3 small": (lambda: models.mobilenet_v3_small(num_classes=10), _image),
    "DenseNet-121": (lambda: models.densenet121(num_classes=10), _image),
    "ConvNeXt tiny": (lambda: models.convnext_tiny(num_classes=10), _image),
    "ViT-B/16": (lambda: models.vit_b_16(num_classes=10, image_size=64), _image),
    "U-Net": (UNet, _image),
    "Transformer, q k v": (Transformer, _words),
    "LSTM": (Recurrent, _words),
}
NAMED = {  # whose neurons the indices name, where it is not the last layer but one
    "ConvNeXt tiny": "features.7.2.block.3",
    "ViT-B/16": "encoder.layers.encoder_layer_3.mlp.0",
    "Transformer, q k v": "blocks.1.mlp.1",
}
GRANULARITIES: dict[str, dict[str, Any]] = {
    "half of each group": {"sparsity": 0.5},
    "half of all": {"sparsity": 0.5, "scope": "global"},
    "0.4, multiples of 8": {"sparsity": 0.4, "round_to": 8},
    "indices": {},
    "half of the heads": {"sparsity": 0.5, "heads": "whole"},
    "half of each head": {"sparsity": 0.5, "heads": "dims"},
}


def make(name: str) -> tuple[nn.Module, Tensor]:
    """The network with norms, gates and a head that matter: many start as ones and zeros."""
    torch.manual_seed(0)
    build, example = NETWORKS[name]
    network = build().eval()
    for key, parameter in network.named_parameters():
        if key.endswith("layer_scale"):
            nn.init.ones_(parameter)
        elif not parameter.any():
            nn.init.normal_(parameter, std=0.1)
    inputs = example()
    for module in network.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.momentum = None  # the statistics of the next batch
    if any(isinstance(module, nn.BatchNorm2d) for module in network.modules()):
        network.train()(example())
    return network.eval(), inputs


def options_of(name: str, granularity: str, network: nn.Module) -> dict[str, Any] | None:
    """The arguments of the removal; None where the network has nothing of the kind."""
    options = dict(GRANULARITIES[granularity])
    if "heads" in options:
        layers = {"layers": ["*.query", "*.key", "*.value"]}
        return options | layers if name in ("ViT-B/16", "Transformer, q k v") else None
    if granularity == "indices":
        kinds = nn.Linear | nn.Conv2d
        layers = [key for key, module in network.named_modules() if isinstance(module, kinds)]
        layer = NAMED.get(name, layers[-2])
        return {"indices": {layer: [0, 1, 2, 5]}}
    return options


def agreement(
    network: nn.Module, batch: tuple[Tensor, Tensor], removal: Removal, options: dict[str, Any]
) -> tuple[str, str]:
    """Whether the curve's point has the sizes of the smaller network, and how far its loss is."""
    if "indices" in options:
        return "", ""  # a curve has levels
    asked = dict(options)
    (point,) = sparsity_curve(network, [batch], (asked.pop("sparsity"),), **asked)
    inputs, targets = batch
    chosen = [*select_layers(network, asked.get("layers"), recurrent=True).chosen]
    with evaluating(removal.model):
        outputs = removal.model(inputs)
        macs, _ = count_macs(removal.model, call, inputs[:1])
    sizes = sizes_of(removal.model, chosen, macs)
    same = all(getattr(point, name).left == size for name, size in sizes.items())
    loss = float(nn.functional.cross_entropy(outputs, targets))
    assert point.loss is not None
    return "same" if same else "OTHER", f"{abs(point.loss - loss) / loss:.1e}"


def trains(network: nn.Module, inputs: Tensor) -> bool:
    """Whether a step of gradient descent changes the network, by finite gradients."""
    before = {key: value.detach().clone() for key, value in network.named_parameters()}
    optimizer = torch.optim.SGD(network.parameters(), lr=1e-3)
    network.train()(inputs).square().mean().backward()
    gradients = [p.grad for p in network.parameters() if p.grad is not None]
    optimizer.step()
    changed = any(not value.equal(before[key]) for key, value in network.named_parameters())
    return changed and all(bool(gradient.isfinite().all()) for gradient in gradients)


def rows(names: list[str]) -> Iterator[dict[str, Any]]:
    """The rows of the table, one after the other."""
    for name in names:
        network, inputs = make(name)
        for granularity in GRANULARITIES:
            options = options_of(name, granularity, network)
            if options is None:
                continue
            row = dict.fromkeys(COLUMNS, "") | {"network": name, "granularity": granularity}
            taken = network
            if name == "ViT-B/16" and "heads" in options:
                taken = separate_attention(network)
            dense = taken(inputs).detach()
            scale = float(dense.abs().max())
            try:
                removal = remove_with_notes(taken, example_input=inputs[:1], **options)
            except ValueError as error:
                yield row | {"granularity": "any", "groups": f"refused: {error}"}
                break
            small = removal.model
            classes = torch.randint(dense.shape[1], (len(dense), *dense.shape[2:]))
            sizes, loss = agreement(taken, (inputs, classes), removal, options)
            with evaluating(small):
                macs, _ = count_macs(small, call, inputs[:1])
            change = float((small(inputs) - dense).detach().abs().max())
            yield row | {
                "groups": len(removal.left),
                "parameters": count_parameters(taken),
                "left": count_parameters(small),
                "MACs left": macs,
                "sizes": sizes,
                "loss": loss,
                "change": f"{change / scale:.1e}",
                "masked - removed": f"{removal.difference / scale:.1e}",
                "trains": "yes" if trains(small, inputs) else "no",
            }


def main() -> None:
    """Print the table and write it."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--networks", nargs="+", choices=NETWORKS, default=list(NETWORKS))
    names = parser.parse_args().networks
    print(f"| {' | '.join(COLUMNS)} |\n| {' | '.join('---' for _ in COLUMNS)} |")
    table = []
    for row in rows(names):
        table.append(row)
        cells = [f"{value:,}" if isinstance(value, int) else value for value in row.values()]
        print(f"| {' | '.join(cells)} |", flush=True)
    if names == list(NETWORKS):
        write_rows(FILE, table, COLUMNS)


if __name__ == "__main__":
    main()
