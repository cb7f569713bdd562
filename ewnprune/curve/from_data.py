"""What neurons do on data, for scores that go by it: one pass over a few batches."""

from collections.abc import Callable, Iterable, Sequence
from itertools import islice
from typing import Any

import torch
from torch import Tensor, nn
from torchmetrics import Metric

from ewnprune.curve.classes import (
    are_probabilities,
    class_scores,
    class_targets,
    classifies,
    cross_entropy,
    refuse_no_classes,
)
from ewnprune.curve.measures import Loss, batch_size, sum_loss
from ewnprune.model.batches import Batch, inputs_and_targets
from ewnprune.model.copying import plain_network
from ewnprune.model.layers import LAYER_TYPES, num_neurons, spatial_dims
from ewnprune.model.preserve import evaluating
from ewnprune.model.tensors import device_of, samples, to_device
from ewnprune.model.tracing import Forward, call
from ewnprune.pruning.scores import Measured


def measure_neurons(
    model: nn.Module,
    loader: Iterable[Any],
    batches: int = 8,
    *,
    loss_fn: Loss | None = None,
    device: torch.device | str | None = None,
    forward: Forward = call,
    batch: Batch = inputs_and_targets,
) -> Measured:
    """Measure what the scores ``activation`` and ``taylor`` go by, without touching the model.

    Of every neuron the mean of ``|z|``, where ``z`` is what its layer gives (before what follows:
    BatchNorm, ReLU), and the mean of ``|z dL/dz|``, where ``L`` is the loss of the sample. The
    means are over samples and positions, in eval mode; targets that are no class have no loss, as
    in `sparsity_curve`. Recurrent layers are not measured. Molchanov et al. (2017),
    https://arxiv.org/abs/1611.06440.

    Give training or validation data, never those that the pruned network is to be tested on. With
    several processes each gives its own part, all must call, and the means are over all.

    Args:
        model: any module, where it lies.
        loader: gives the batches.
        batches: how many of the first to take.
        loss_fn: from outputs and targets to the mean loss of the batch, or one loss per sample;
            cross-entropy for classification. For another task without one there is no ``taylor``.
        device: where to put the batches; the device of the model's first parameter by default.
        forward: from model and inputs to outputs; ``model(inputs)`` by default.
        batch: from a batch of the loader to inputs and targets.

    Returns:
        By ``"activation"`` and ``"taylor"``, for each layer that was called, ``(n,)`` numbers; for
        the argument ``measured`` of `remove_neurons` and `sparsity_curve`.

    Raises:
        ValueError: the loader gave no batch, or targets that are none of the classes.

    >>> net = nn.Sequential(nn.Linear(2, 2, bias=False), nn.ReLU(), nn.Linear(2, 2, bias=False))
    >>> _ = net[0].weight.data.copy_(torch.tensor([[1.0, 0.0], [0.0, -2.0]]))
    >>> data = [(torch.tensor([[1.0, 1.0], [3.0, 1.0]]), torch.tensor([0, 1]))]
    >>> measure_neurons(net, data)["activation"]["0"]
    tensor([2., 2.], dtype=torch.float64)
    """
    device = device_of(model) if device is None else device
    with evaluating(model, loader):
        network = plain_network(model)
        layers: dict[str, nn.Module] = {
            name: module
            for name, module in network.named_modules()
            if isinstance(module, LAYER_TYPES)
        }
        names = [*layers]
        sums = _Sums([num_neurons(layer) for layer in layers.values()], device)
        kept: list[tuple[str, Tensor]] = []
        for name, layer in layers.items():  # of a copy, which is dropped
            layer.register_forward_hook(_keeping(name, kept))
        taylor = True
        for raw in islice(loader, batches):
            inputs, targets = (to_device(part, device) for part in batch(raw))
            kept.clear()
            with torch.enable_grad():
                loss = _loss(forward(network, inputs), targets, loss_fn)
                grads = _gradients(loss, [value for _, value in kept])
            for (name, value), grad in zip(kept, grads, strict=True):
                dim = -1 - spatial_dims(layers[name])
                sums.update(names.index(name), value.detach(), grad, dim)
            taylor &= loss is not None
        means = _means(sums, names, taylor) if kept else {}
    if not means:
        raise ValueError("the loader gave no batch: expected at least one to measure neurons on")
    return means


def _keeping(name: str, kept: list[tuple[str, Tensor]]) -> Callable[..., Tensor]:
    def hook(_: nn.Module, __: Any, output: Tensor) -> Tensor:
        if not output.requires_grad:
            output.requires_grad_()
        kept.append((name, output))
        return output.clone()  # which what follows may overwrite

    return hook


def _loss(outputs: Any, targets: Any, loss_fn: Loss | None) -> Tensor | None:
    """The loss summed over samples, so that each has its own gradient; None where there is none."""
    scores = class_scores(outputs)
    if loss_fn is not None:
        count = samples(scores) or batch_size(targets, scores)
        return sum_loss(loss_fn(outputs, targets), count, torch.float32, torch.tensor(count))
    if classifies(scores, targets) and not are_probabilities(scores.detach()):
        classes = class_targets(targets, scores.shape[1])
        refuse_no_classes(classes, scores.shape[1])
        return cross_entropy(scores[None], classes).sum()
    return None


def _gradients(loss: Tensor | None, values: list[Tensor]) -> list[Tensor]:
    if loss is None or not values:
        return [torch.zeros_like(value) for value in values]
    found = torch.autograd.grad(loss, values, allow_unused=True)
    return [
        torch.zeros_like(value) if grad is None else grad
        for value, grad in zip(values, found, strict=True)
    ]


class _Sums(Metric):
    """Sums over samples and positions for each neuron, over all processes."""

    full_state_update = False
    totals: Tensor
    counts: Tensor

    def __init__(self, sizes: Sequence[int], device: torch.device | str) -> None:
        super().__init__()
        precise = torch.float32 if torch.device(device).type == "mps" else torch.float64
        nothing = torch.zeros(2, sum(sizes), dtype=precise)
        self.add_state("totals", nothing, dist_reduce_fx="sum")
        self.add_state("counts", torch.zeros(len(sizes), dtype=torch.int64), dist_reduce_fx="sum")
        self.to(device)
        self.places = torch.arange(sum(sizes)).split(list(sizes))

    def update(self, layer: int, values: Tensor, grads: Tensor, dim: int) -> None:
        """Add what a layer gave in one call, with the neurons along one dimension."""
        precise = values.to(self.totals.dtype)
        rows = torch.stack([precise, precise * grads.to(precise.dtype)]).abs()
        rows = rows.movedim(dim, -1).flatten(1, -2)
        self.totals[:, self.places[layer].to(rows.device)] += rows.sum(1)
        self.counts[layer] += rows.shape[1]

    def compute(self) -> tuple[Tensor, Tensor]:
        """The sums, and how many numbers there are in those of each layer."""
        return self.totals.cpu(), self.counts.cpu()


def _means(sums: _Sums, names: Sequence[str], taylor: bool) -> Measured:
    """The means, of layers that were called."""
    totals, counts = sums.compute()
    rows = {"activation": 0, "taylor": 1} if taylor else {"activation": 0}
    return {
        score: {
            name: totals[row, places] / count
            for name, places, count in zip(names, sums.places, counts.view(-1), strict=True)
            if count
        }
        for score, row in rows.items()
    }
