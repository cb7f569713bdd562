"""Asymptotic relations between the weights of neurons and their gradients.

Far down in the loss, and where gradients converge in direction, ``w_u`` turns antiparallel to its
gradient ``g_u``. Then ``||w_u|| ||g_u||`` becomes equal over the neurons that grow under EWN, and
``||g_u|| / ||w_u||`` under SWN and plain training. Source: Morwani & Ramaswamy,
https://arxiv.org/abs/2010.12909. Scaling the loss scales all gradients alike, so how far these
numbers spread over neurons does not depend on it.
"""

import csv
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

import torch
from torch import Tensor, nn

from ewnprune.layers import LayerPatterns, layer_weight, neuron_rows, select_layers
from ewnprune.reparametrize import attached_parametrizations


@dataclass(frozen=True)
class Relations:
    """What the asymptotic relations are about, per neuron: tensors of shape ``(..., neurons)``.

    Attributes:
        norm: ``||w_u||``.
        gradient: ``||g_u||``.
        product: ``||w_u|| ||g_u||``.
        quotient: ``||g_u|| / ||w_u||``.
        cosine: of the angle between ``w_u`` and ``g_u``; 0 where one of them is zero.
    """

    norm: Tensor
    gradient: Tensor
    product: Tensor
    quotient: Tensor
    cosine: Tensor


def relations(weight: Tensor, gradient: Tensor) -> Relations:
    """The relations of neurons with these weights and gradients, ``(..., neurons, inputs)``.

    >>> r = relations(torch.tensor([[3.0, 4.0]]), torch.tensor([[-0.6, -0.8]]))
    >>> r.product, r.quotient, r.cosine
    (tensor([5.]), tensor([0.2000]), tensor([-1.]))
    """
    norm, slope = weight.norm(dim=-1), gradient.norm(dim=-1)
    product = norm * slope
    cosine = (weight * gradient).sum(-1) / torch.where(product > 0, product, 1.0)
    return Relations(norm, slope, product, slope / norm, cosine)


def spread(values: Tensor, norm: Tensor, at_least: float = 0.5) -> float:
    """Largest over smallest value, among neurons at least so long as a fraction of the longest.

    >>> spread(torch.tensor([6.0, 2.0, 4.0]), norm=torch.tensor([1.0, 0.1, 0.8]))
    1.5
    """
    counted = values[norm >= at_least * norm.max()]
    return (counted.max() / counted.min()).item()


def gradient_rows(layer: nn.Module) -> Tensor | None:
    """Gradient with respect to the weight of a layer, parametrized or plain.

    Under EWN and SWN it follows from the gradients of ``s`` and ``v``: the part along ``v`` is that
    of ``s`` over ``scale'(s)``, the part across it that of ``v`` times ``||v|| / scale(s)``.

    Returns:
        One row per neuron, ``(neurons, inputs)``, or None where there is no gradient.
    """
    weight = layer_weight(layer)
    if not nn.utils.parametrize.is_parametrized(layer, "weight"):
        return None if weight.grad is None else neuron_rows(layer, weight.grad)
    attached = attached_parametrizations(layer)[""]
    originals: Any = cast(nn.ModuleDict, layer.parametrizations)["weight"]
    s, v = originals.original0, originals.original1
    if s.grad is None or v.grad is None:
        return None
    with torch.enable_grad():
        leaf = s.detach().requires_grad_()
        scale = attached.scale(leaf)
        (slope,) = torch.autograd.grad(scale.sum(), leaf)

    def per_neuron(x: Tensor) -> Tensor:  # from the shape of s to (neurons, 1)
        split = weight if attached.groups == 1 else weight.unflatten(0, (attached.groups, -1))
        return neuron_rows(layer, x.expand(split.shape).reshape(weight.shape))[:, :1]

    rows, moved = neuron_rows(layer, v.detach()), neuron_rows(layer, v.grad)
    length = rows.norm(dim=1, keepdim=True)
    direction = rows / torch.where(length > 0, length, 1.0)
    along = _ratio(per_neuron(s.grad), per_neuron(slope))
    return direction * along + moved * _ratio(length, per_neuron(scale.detach()))


def _ratio(a: Tensor, b: Tensor) -> Tensor:
    """``a / b``, and 0 where b is 0."""
    return torch.where(b != 0, a / torch.where(b != 0, b, 1.0), 0.0)


class RelationsHooks:
    """Logs the asymptotic relations of a model's neurons while it trains.

    Before every n-th step of the optimizer, from the gradient that it is about to follow. The
    loggers get, per layer, ``relations/<layer>/product_spread`` (largest over smallest, tends to 1
    under EWN), ``quotient_spread`` (to 1 under SWN and plain training) and ``cosine`` (the mean, to
    -1), each over the neurons at least half as long as the layer's longest. The numbers of every
    neuron go to ``relations.csv`` in the run's folder.

    Args:
        every_n_steps: how often.
        layers: globs over module names, or layer types; by default every Linear and convolution
            but the last one.
        exclude: which of them to leave.

    Raises:
        ValueError: ``every_n_steps`` is below 1, or a pattern matches no layer.
    """

    def __init__(
        self,
        every_n_steps: int = 50,
        layers: LayerPatterns | None = None,
        exclude: LayerPatterns | None = None,
    ) -> None:
        if every_n_steps < 1:
            raise ValueError(f"every_n_steps={every_n_steps}: expected a number of steps >= 1")
        self.every_n_steps, self.layers, self.exclude = every_n_steps, layers, exclude
        self._path: Path | None = None

    def on_train_start(self, trainer: Any, pl_module: Any) -> None:
        """Find the run's folder, which asks all processes."""
        folder = Path(trainer.log_dir or trainer.default_root_dir)
        if trainer.is_global_zero and not trainer.fast_dev_run:
            folder.mkdir(parents=True, exist_ok=True)
            self._path = folder / "relations.csv"

    @torch.no_grad()
    def on_before_optimizer_step(self, trainer: Any, pl_module: Any, optimizer: Any) -> None:
        """Log, when it is the time."""
        if trainer.global_step % self.every_n_steps:
            return
        for name, layer in select_layers(pl_module, self.layers, self.exclude).chosen.items():
            gradient = gradient_rows(layer)
            if gradient is None:
                continue
            found = relations(neuron_rows(layer), gradient)
            long = found.norm >= 0.5 * found.norm.max()
            metrics = {
                f"relations/{name}/product_spread": spread(found.product, found.norm),
                f"relations/{name}/quotient_spread": spread(found.quotient, found.norm),
                f"relations/{name}/cosine": found.cosine[long].mean().item(),
            }
            # module.log would repeat them at every step until the next time
            for logger in trainer.loggers:
                logger.log_metrics(metrics, trainer.global_step)
            if self._path is not None:
                _append(self._path, trainer.global_step, name, found)


def _append(path: Path, step: int, layer: str, found: Relations) -> None:
    columns = {key: values.tolist() for key, values in vars(found).items()}
    with path.open("a", newline="", encoding="utf-8") as file:
        writer = csv.writer(file, lineterminator="\n")
        if file.tell() == 0:
            writer.writerow(["step", "layer", "neuron", *columns])
        writer.writerows(
            [step, layer, u, *row] for u, row in enumerate(zip(*columns.values(), strict=True))
        )
