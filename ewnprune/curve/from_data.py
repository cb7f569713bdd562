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
from ewnprune.model.anatomy import refuse_without_values
from ewnprune.model.batch_norms import following_batch_norms
from ewnprune.model.batches import Batch, inputs_and_targets
from ewnprune.model.copying import copy_network, leave_inference_mode, plain_network
from ewnprune.model.layers import LAYER_TYPES, num_neurons, spatial_dims
from ewnprune.model.preserve import as_made, evaluating
from ewnprune.model.tensors import clone, device_of, samples, to_device
from ewnprune.model.tracing import Forward, call, trace
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

    Let ``z`` be what a neuron gives at one position, and no longer gives when it is pruned: in eval
    mode, with a BatchNorm that directly follows its layer, and before what follows that (ReLU).
    ``activation`` is the mean of ``|z|`` over samples and positions. ``taylor`` is the mean over
    samples of ``|sum of z dL/dz over positions|``, where ``L`` is the loss of the sample: by how
    much that changes without the neuron, to first order. Molchanov et al. (2017),
    https://arxiv.org/abs/1611.06440, equation 8, divide the sum by the number of positions, which
    ranks the neurons of one layer alike. Positions are pixels, tokens, and calls of one layer.

    Targets that are no class have no loss, as in `sparsity_curve`. Recurrent layers are not
    measured.

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
        ValueError: parameters have no values yet, or the loader gave no batch, or targets that are
            none of the classes.

    >>> net = nn.Sequential(nn.Linear(2, 2, bias=False), nn.ReLU(), nn.Linear(2, 2, bias=False))
    >>> _ = net[0].weight.data.copy_(torch.tensor([[1.0, 0.0], [0.0, -2.0]]))
    >>> data = [(torch.tensor([[1.0, 1.0], [3.0, 1.0]]), torch.tensor([0, 1]))]
    >>> measure_neurons(net, data)["activation"]["0"]
    tensor([2., 2.], dtype=torch.float64)
    """
    model = as_made(model)
    refuse_without_values(model)
    device = device_of(model) if device is None else device
    with evaluating(model, loader):
        network = plain_network(model)
        leave_inference_mode(network)
        for module in network.modules():  # cuDNN has no gradients of these in eval mode
            if isinstance(module, nn.RNNBase):
                module.training, module.dropout = True, 0.0
        layers: dict[str, nn.Module] = {
            name: module
            for name, module in network.named_modules()
            if isinstance(module, LAYER_TYPES)
        }
        names = [*layers]
        sums = _Sums([num_neurons(layer) for layer in layers.values()], device)
        kept: list[tuple[str, Tensor]] = []
        norms = _batch_norms(network, forward)
        for name, layer in layers.items():  # of a copy, which is dropped
            # of so many dimensions the neurons are the second, as a BatchNorm's channels are
            ndim = 2 + spatial_dims(layer) if name in norms else None
            layer.register_forward_hook(_keeping(name, kept, ndim, normalized=False))
            if name in norms:
                norm = network.get_submodule(norms[name])
                norm.register_forward_hook(_keeping(name, kept, ndim, normalized=True))
        taylor = True
        for raw in islice(loader, batches):
            # copies, to which a forward pass may write; never of inference mode
            inputs, targets = (clone(to_device(part, device)) for part in batch(raw))
            kept.clear()
            with torch.enable_grad():
                loss, count = _loss(forward(network, inputs), targets, loss_fn)
                grads = _gradients(loss, [value for _, value in kept])
            given = [
                (names.index(name), _rows(value.detach(), layers[name]), _rows(grad, layers[name]))
                for (name, value), grad in zip(kept, grads, strict=True)
            ]
            sums.update(given, count)
            taylor &= loss is not None
        means = _means(sums, names, taylor) if kept else {}
    if not means:
        raise ValueError("the loader gave no batch: expected at least one to measure neurons on")
    return means


def _batch_norms(network: nn.Module, forward: Forward) -> dict[str, str]:
    """The BatchNorm that directly follows a layer, as pruning sees it."""
    twin = copy_network(network, share=True)
    try:
        traced = trace(twin, forward)
    except ValueError:
        traced = None
    return following_batch_norms(twin, traced)


def _keeping(
    name: str, kept: list[tuple[str, Tensor]], ndim: int | None, normalized: bool
) -> Callable[..., Tensor]:
    """Keeps outputs of ``ndim`` dimensions if they are normalized ones, and all others if not."""

    def hook(_: nn.Module, __: Any, output: Tensor) -> Tensor:
        if (output.ndim == ndim) is not normalized:
            return output
        if not output.requires_grad:
            output.requires_grad_()
        kept.append((name, output))
        return output.clone()  # which what follows may overwrite

    return hook


def _rows(values: Tensor, layer: nn.Module) -> Tensor:
    """With the neurons along the last dimension."""
    return values.movedim(-1 - spatial_dims(layer), -1)


def _loss(outputs: Any, targets: Any, loss_fn: Loss | None) -> tuple[Tensor | None, int]:
    """The loss summed over samples, so that each has its own gradient, and how many there are.

    None, and 0, where there is no loss.
    """
    scores = class_scores(outputs)
    if loss_fn is not None:
        count = samples(scores) or batch_size(targets, scores)
        loss = loss_fn(outputs, targets)
        return sum_loss(loss, count, torch.float32, torch.tensor(count, device="cpu")), count
    if classifies(scores, targets) and not are_probabilities(scores.detach()):
        classes = class_targets(targets, scores.shape[1])
        refuse_no_classes(classes, scores.shape[1])
        return cross_entropy(scores[None], classes).sum(), len(scores)
    return None, 0


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
    samples: Tensor

    def __init__(self, sizes: Sequence[int], device: torch.device | str) -> None:
        super().__init__()
        precise = torch.float32 if torch.device(device).type == "mps" else torch.float64
        nothing = torch.zeros(2, sum(sizes), dtype=precise, device=device)
        self.add_state("totals", nothing, dist_reduce_fx="sum")
        self.add_state(
            "counts",
            torch.zeros(len(sizes), dtype=torch.int64, device=device),
            dist_reduce_fx="sum",
        )
        self.add_state("samples", torch.tensor(0, device=device), dist_reduce_fx="sum")
        self.places = torch.arange(sum(sizes), device="cpu").split(list(sizes))

    def update(self, given: Iterable[tuple[int, Tensor, Tensor]], samples: int) -> None:
        """Add what layers gave on one batch, and the gradients, with the neurons at the end."""
        changes: dict[tuple[int, int], Tensor] = {}
        for layer, values, grads in given:
            values = values.to(torch.promote_types(values.dtype, self.totals.dtype))
            rows = values.abs().reshape(values.shape[:-1].numel(), values.shape[-1])
            self._add(0, layer, rows)
            self.counts[layer] += len(rows)
            change = _by_sample((values * grads.to(values.dtype).conj()).real, samples)
            key = layer, len(change)
            changes[key] = changes[key] + change if key in changes else change
        for (layer, _), change in changes.items():
            self._add(1, layer, change.abs())
        self.samples += samples

    def _add(self, row: int, layer: int, numbers: Tensor) -> None:
        self.totals[row, self.places[layer].to(numbers.device)] += numbers.sum(0)

    def compute(self) -> tuple[Tensor, Tensor, int]:
        """The sums, how many numbers there are in those of each layer, and how many samples."""
        return self.totals.cpu(), self.counts.cpu(), int(self.samples)


def _by_sample(changes: Tensor, samples: int) -> Tensor:
    """Changes of the loss by each neuron, ``(samples, n)``, from those by it at each position.

    Samples lie along the dimension that is as long, or in the first one after one another, each
    with several rows. Where neither is so (rows of some samples), each row counts as a sample.

    >>> _by_sample(torch.tensor([[1.0], [2.0], [3.0], [4.0]]), 2).tolist()
    [[3.0], [7.0]]
    """
    *sizes, neurons = changes.shape
    if not samples and 0 in sizes:  # an empty batch
        return changes.reshape(0, neurons)
    if samples in sizes:
        changes = changes.movedim(sizes.index(samples), 0)
    elif not (samples and sizes and sizes[0] % samples == 0):
        return changes.reshape(-1, neurons)
    return changes.reshape(samples, -1, neurons).sum(1)


def _means(sums: _Sums, names: Sequence[str], taylor: bool) -> Measured:
    """The means, of layers that were called."""
    totals, counts, seen = sums.compute()
    called = [
        (name, *totals[:, places], count)
        for name, places, count in zip(names, sums.places, counts.view(-1), strict=True)
        if count
    ]
    found = {"activation": {name: total / count for name, total, _, count in called}}
    if taylor:
        found["taylor"] = {name: total / seen for name, _, total, _ in called}
    return found
