"""Real images, and networks that look at them."""

import torch

from lightning_modules.files import TEST_IMAGES, TEST_LABELS, read


def mnist(folder, n):
    """The first images of MNIST's test set as the networks see them, and their labels."""
    pixels, labels = (
        torch.tensor(read(folder / "MNIST" / "raw", "MNIST", file)[:n])
        for file in (TEST_IMAGES, TEST_LABELS)
    )
    return pixels.unsqueeze(1).float().div(255).sub(0.1307).div(0.3081), labels.long()


def settled(make, images, seed=0):
    """A network in eval mode with biases, scales, shifts and running statistics that matter."""
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        net = make()
        with torch.no_grad():
            net(images[:4])  # lazy layers
            for module in net.modules():
                for name, tensor in [*module._parameters.items(), *module._buffers.items()]:
                    if tensor is None:
                        continue
                    if name in ("bias", "running_mean"):
                        tensor.normal_()
                    elif name == "running_var" or (name == "weight" and tensor.ndim == 1):
                        tensor.uniform_(0.5, 1.5)
    return net.eval()


@torch.no_grad()
def outputs(net, images):
    return net(images)
