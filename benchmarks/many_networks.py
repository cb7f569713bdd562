"""Many networks trained at once, 784-1024-10 on MNIST, each with a setting of its own.

One step trains them all by batched products, so that a GPU has the work of a hundred small
trainings. Their gradients are those of ``NestedTraining("every", levels, inner_gradient=...)`` with
the penalties of the recipe under EWN and of group lasso on plain layers, written down for one
hidden layer: with the neurons in the order of their scores the logits of a network are those of the
next smaller one and what the neurons on top of it add. Beyond that callback the losses of the
networks can be weighted, and smaller networks can learn what the whole one says.
"""

import math
from functools import cache
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional

from lightning_modules import MNISTDataModule, OneCycle

NEURONS = 1024
LEVELS = (0.0, 0.5, 0.8, 0.9, 0.92, 0.94, 0.945, 0.95, 0.96, 0.98)
UNTIL = 0.8  # of the training there is a penalty
LONGEST = 0.5  # change of alpha in a step, as AlphaLearningRate has it


class Setting(NamedTuple):
    """What differs between networks that train together.

    Attributes:
        rate: of learning, at the peak of one cycle.
        momentum: of SGD.
        strength: of the penalty, `LogNormPenalty` under EWN, else `GroupLasso`.
        alpha: the rate of ``alpha`` under EWN, see `AlphaLearningRate`.
        inner: the factor of inner gradients, see `NestedTraining`.
        weights: of the losses of all networks, the smallest first; none for a mean.
        distill: weight of what the whole network says, in what smaller ones learn.
        temperature: of that.
    """

    rate: float
    momentum: float
    strength: float
    alpha: float
    inner: float
    weights: tuple[float, ...]
    distill: float
    temperature: float


class Images(NamedTuple):
    """All training images on a device.

    Attributes:
        pixels: with a margin of one that is black, ``(60000, 900)`` uint8.
        labels: ``(60000,)``.
        places: of the pixels that an image has for each move, ``(9, 784)``.
    """

    pixels: Tensor
    labels: Tensor
    places: Tensor

    def batch(self, index: Tensor, moves: Tensor) -> Tensor:
        """The images of some indices, each moved by 0 to 8, where 4 is not at all."""
        x = self.pixels.view(-1)[(index * 900).unsqueeze(-1) + self.places[moves]]
        return (x.float() / 255 - 0.1307) / 0.3081


@cache
def read_images(device: str) -> Images:
    """MNIST's training images on a device, read once."""
    data = MNISTDataModule()
    data.prepare_data()
    train, _ = data.read()
    pixels = torch.zeros(60_000, 30, 30, dtype=torch.uint8)
    pixels[:, 1:29, 1:29] = train.pixels
    start = (torch.arange(28)[:, None] * 30 + torch.arange(28)).flatten()
    places = torch.stack([start + 30 * down + right for down in range(3) for right in range(3)])
    return Images(pixels.view(60_000, 900).to(device), train.labels.to(device), places.to(device))


def train_all(
    settings: list[Setting], seeds: list[int], ewn: bool, sizes: tuple[int, ...], batch: int,
    epochs: int, images: Images,
) -> np.ndarray:  # fmt: skip
    """Train each setting with each seed, and prune.

    Args:
        settings: of them.
        seeds: which choose the validation images, as `MNISTDataModule` does.
        ewn: whether layers are under EWN, else plain.
        sizes: of the networks that an image sees, the smallest first.
        batch: number of images.
        epochs: number of them.
        images: see `read_images`.

    Returns:
        Validation accuracies in %, ``(settings, seeds, LEVELS)``.
    """
    device = images.pixels.device
    each = _columns(settings, len(seeds), len(sizes), device)
    generator = torch.Generator(device).manual_seed(1234 + 1000 * seeds[0])
    splits = [torch.from_numpy(np.random.default_rng(s).permutation(60_000)) for s in seeds]
    rest = torch.stack([order[5000:] for _ in settings for order in splits]).to(device)
    count = len(rest)
    hidden = torch.randn(count, NEURONS, 784, device=device, generator=generator)
    hidden *= math.sqrt(2 / 784)
    bias = torch.zeros(count, NEURONS, device=device)
    out = torch.randn(count, 10, NEURONS, device=device, generator=generator)
    parameters = [hidden, bias, out * math.sqrt(2 / NEURONS)]
    if ewn:
        parameters.append(hidden.norm(dim=2).log())
    momenta = [torch.zeros_like(parameter) for parameter in parameters]
    steps = -(-rest.shape[1] // batch)
    schedule = OneCycle(torch.optim.SGD([torch.nn.Parameter(torch.zeros(1))], 1.0))
    schedule.total_steps = steps * epochs
    for epoch in range(epochs):
        order = torch.rand(rest.shape, device=device, generator=generator).argsort(1)
        order = rest.gather(1, order)
        for step in range(steps):
            index = order[:, step * batch : (step + 1) * batch]
            moves = torch.randint(0, 9, index.shape, device=device, generator=generator)
            done = epoch * steps + step
            gradients = _gradients(
                parameters, images.batch(index, moves), images.labels[index], sizes, each
            )
            with torch.no_grad():
                pull = each["strength"] if done < UNTIL * steps * epochs else 0 * each["strength"]
                rate = each["rate"] * schedule.factor(done)
                _descend(parameters, momenta, gradients, rate, pull, each)
    held_out = [order[:5000].to(device) for order in splits]
    return _accuracies(parameters, images, held_out).reshape(len(settings), len(seeds), -1)


def _columns(
    settings: list[Setting], seeds: int, networks: int, device: torch.device
) -> dict[str, Tensor]:
    """Each number of each network's setting, ``(networks trained,)``, of weights a row."""
    repeated = [setting for setting in settings for _ in range(seeds)]
    even = (1 / networks,) * networks
    found = {"weights": torch.tensor([s.weights or even for s in repeated], device=device)}
    for name in Setting._fields:
        if name != "weights":
            found[name] = torch.tensor([getattr(s, name) for s in repeated], device=device)
    return found


def _weights(parameters: list[Tensor]) -> tuple[Tensor, Tensor]:
    """The weights of the hidden layer, and the squares of their norms."""
    if len(parameters) == 3:
        return parameters[0].clone(), (parameters[0] * parameters[0]).sum(2)
    v, alpha = parameters[0], parameters[3]
    return v * (alpha.exp() / v.norm(dim=2)).unsqueeze(2), (2 * alpha).exp()


def _gradients(
    parameters: list[Tensor], x: Tensor, y: Tensor, sizes: tuple[int, ...], each: dict[str, Tensor]
) -> list[Tensor]:
    """Of the weighted losses, with inner gradients; under EWN of v and alpha."""
    with torch.no_grad():
        weights, squares = _weights(parameters)
        scores = (squares + parameters[1] ** 2) * (parameters[2] * parameters[2]).sum(1)
        ranked = scores.argsort(1, descending=True).unsqueeze(1)
    leaves = [weights, parameters[1].clone(), parameters[2].clone()]
    for leaf in leaves:
        leaf.requires_grad_()
    pre = torch.baddbmm(leaves[1].unsqueeze(1), x, leaves[0].transpose(1, 2))
    seen = functional.relu(pre).gather(2, ranked.expand(-1, x.shape[1], -1))
    read = leaves[2].gather(2, ranked.expand(-1, 10, -1)).transpose(1, 2)
    inner, logits, start = each["inner"].view(-1, 1, 1), [], 0
    for size in sizes:
        on_top = torch.bmm(seen[:, :, start:size].contiguous(), read[:, start:size].contiguous())
        if logits:
            on_top = inner * logits[-1] + (1 - inner) * logits[-1].detach() + on_top
        logits.append(on_top)
        start = size
    losses = [_loss(z, y, each, logits[-1].detach()) for z in logits[:-1]]
    losses.append(_cross_entropy(logits[-1], y))
    weighted = zip(each["weights"].T, losses, strict=True)
    total = sum((weight * loss).sum() for weight, loss in weighted)
    found = [*torch.autograd.grad(total, leaves)]
    if len(parameters) == 3:
        return found
    with torch.no_grad():
        v, alpha = parameters[0], parameters[3]
        norms, radial = v.norm(dim=2), (found[0] * weights).sum(2)
        of_v = found[0] * (alpha.exp() / norms).unsqueeze(2)
        of_v = torch.addcmul(of_v, v, (-radial / (norms * norms)).unsqueeze(2))
        return [of_v, *found[1:], radial]


def _cross_entropy(logits: Tensor, y: Tensor) -> Tensor:
    return -functional.log_softmax(logits, 2).gather(2, y.unsqueeze(2)).squeeze(2).mean(1)


def _loss(logits: Tensor, y: Tensor, each: dict[str, Tensor], whole: Tensor) -> Tensor:
    """What a smaller network learns: of the labels, and of what the whole one says."""
    loss, share = _cross_entropy(logits, y), each["distill"]
    if not share.any():
        return loss
    warm = each["temperature"].view(-1, 1, 1)
    says, learns = functional.softmax(whole / warm, 2), functional.log_softmax(logits / warm, 2)
    apart = (says * ((says + 1e-12).log() - learns)).sum(2).mean(1) * each["temperature"] ** 2
    return (1 - share) * loss + share * apart


def _descend(
    parameters: list[Tensor], momenta: list[Tensor], gradients: list[Tensor], rate: Tensor,
    pull: Tensor, each: dict[str, Tensor],
) -> None:  # fmt: skip
    """A step of SGD with momentum, and of the penalty."""
    ewn = len(parameters) == 4
    if ewn:
        gradients[3] = gradients[3] + pull.view(-1, 1)
    together = zip(parameters, momenta, gradients, strict=True)
    for i, (parameter, momentum, gradient) in enumerate(together):
        shape = [-1] + [1] * (parameter.dim() - 1)
        momentum.mul_(each["momentum"].view(shape)).add_(gradient)
        if i < 3:
            parameter.sub_(rate.view(shape) * momentum)
        else:
            change = (rate * each["alpha"]).view(shape) * momentum
            parameter.sub_(change.clamp(-LONGEST, LONGEST))
    if not ewn and pull.any():
        hidden, bias = parameters[:2]
        step = (rate * pull / (1 - each["momentum"])).view(-1, 1)
        lengths = ((hidden * hidden).sum(2) + bias * bias).sqrt()
        shorter = (1 - step / lengths.clamp(min=1e-20)).clamp(min=0)
        hidden.mul_(shorter.unsqueeze(2))
        bias.mul_(shorter)


@torch.no_grad()
def _accuracies(parameters: list[Tensor], images: Images, held_out: list[Tensor]) -> np.ndarray:
    """Of each network at each level, in %, on its validation images."""
    weights, _ = _weights(parameters)
    bias, out = parameters[1], parameters[2]
    scores = ((weights * weights).sum(2) + bias * bias) * (out * out).sum(1)
    keep = [NEURONS - round(level * NEURONS) for level in LEVELS]
    found = []
    for i, ranked in enumerate(scores.argsort(1, descending=True)):
        index = held_out[i % len(held_out)]
        x, y = images.batch(index, torch.full_like(index, 4)), images.labels[index]
        seen = functional.relu(functional.linear(x, weights[i], bias[i]))[:, ranked]
        logits = [functional.linear(seen[:, :n], out[i][:, ranked[:n]]) for n in keep]
        found.append([100 * (z.argmax(1) == y).float().mean().item() for z in logits])
    return np.array(found)
