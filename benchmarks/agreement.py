"""Do masked and removed networks agree? Architectures by what is removed, as a Markdown table.

    python -m benchmarks.agreement

Random weights in float32, one image of 64 x 64 pixels, half of the neurons, by norm. The difference
is the largest between the outputs of the masked and of the smaller network, as a fraction of the
largest output; the layers whose neurons a LayerNorm reads are left out of it, since no mask says
what their removal does.
"""

import torch
from torch import nn
from torchvision import models

from ewnprune.sizes import count_parameters
from ewnprune.structured import remove_coupled_neurons

NETWORKS = {
    "ResNet-18": models.resnet18,
    "ResNeXt-50 32x4d": models.resnext50_32x4d,
    "MobileNetV3 small": models.mobilenet_v3_small,
    "DenseNet-121": models.densenet121,
    "ConvNeXt tiny": models.convnext_tiny,
    "ViT-B/16": models.vit_b_16,
}


def make(name: str) -> nn.Module:
    """The network with norms, gates and a head that matter: many start as ones and zeros."""
    torch.manual_seed(0)
    options = {"image_size": 64} if name.startswith("ViT") else {}
    network = NETWORKS[name](num_classes=10, **options).eval()
    for key, parameter in network.named_parameters():
        if key.endswith("layer_scale"):
            nn.init.ones_(parameter)
        elif not parameter.any():
            nn.init.normal_(parameter, std=0.1)
    for module in network.modules():
        if isinstance(module, nn.BatchNorm2d):
            nn.init.normal_(module.running_mean, std=0.1)
            nn.init.uniform_(module.running_var, 0.5, 2)
    return network


def main() -> None:
    """Print the table."""
    print("| network | what | groups | parameters | left | largest difference | trains |")
    print("| --- | --- | --- | --- | --- | --- | --- |")
    for name in NETWORKS:
        network, x = make(name), torch.randn(1, 3, 64, 64)
        scale = float(network(x).detach().abs().max())
        for scope in ("layer", "global"):
            removal = remove_coupled_neurons(network, 0.5, x, scope=scope)
            small = removal.model
            small(torch.randn(2, 3, 64, 64)).square().mean().backward()
            trains = all(p.grad.isfinite().all() for p in small.parameters() if p.grad is not None)
            told = sum("as a mask would" not in note for note in removal.notes)
            told -= sum("stays: " in note for note in removal.notes)
            print(
                f"| {name} | neurons, {scope} | {len(removal.left)}, {told} of them as a mask "
                f"| {count_parameters(network):,} | {count_parameters(small):,} "
                f"| {removal.difference / scale:.1e} | {'yes' if trains else 'no'} |",
                flush=True,
            )


if __name__ == "__main__":
    main()
