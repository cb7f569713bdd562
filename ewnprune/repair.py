"""`remove_and_repair`: removed neurons leave their mean activation in the next layer's bias."""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from copy import deepcopy
from typing import Any

import torch
from torch import Tensor, nn

from ewnprune.anatomy import Anatomy, dissect
from ewnprune.graph import Forward, call
from ewnprune.layers import LayerPatterns, neuron_rows, select_layers
from ewnprune.masks import Scope, check_sparsities
from ewnprune.preserve import clone, device_of, evaluating, to_device
from ewnprune.ranking import Score, find_scores, rank_neurons
from ewnprune.removal import remove_neurons
from ewnprune.scores import Neurons

_TRANSPOSED = (nn.ConvTranspose1d, nn.ConvTranspose2d, nn.ConvTranspose3d)


def remove_and_repair(
    model: nn.Module,
    sparsity: float,
    calibration: Any,
    *,
    score: str | Score = "norm",
    layers: LayerPatterns | None = None,
    exclude: LayerPatterns | None = None,
    scope: Scope = "layer",
    initial_norms: Mapping[str, Tensor] | None = None,
    seed: int | None = None,
    forward: Forward = call,
) -> nn.Module:
    """`remove_neurons`, with the mean activation of what goes added to the biases that read it.

    No training: with ``m`` the mean input of a layer in the dense network, over the calibration
    batch, and ``R`` the inputs that go, its bias becomes ``b + W[:, R] m[R]``; a layer without a
    bias gets one. Where a convolution pads with zeros, that is right inside the image only. The
    neurons that go are those that `remove_neurons` removes.

    Args:
        model: a chain, see `remove_neurons`; left as it is.
        sparsity: fraction of the neurons to remove, in [0, 1).
        calibration: a batch of inputs; never test data, where the result is to be tested.
        score: see `remove_neurons`, as for the arguments that follow.
        layers: which layers.
        exclude: which of them to leave.
        scope: ``"layer"`` or ``"global"``.
        initial_norms: norms at initialisation.
        seed: seed of scores that draw numbers.
        forward: from model and inputs to outputs.

    Raises:
        ValueError: as `remove_neurons` does, or who reads the neurons of a layer is not known, or
            a transposed convolution does.

    >>> _ = torch.manual_seed(0)
    >>> net, x = nn.Sequential(nn.Linear(4, 10), nn.ReLU(), nn.Linear(10, 3)), torch.randn(64, 4)
    >>> small = remove_and_repair(net, 0.5, x)
    >>> torch.allclose(small(x).mean(0), net(x).mean(0), atol=1e-6)
    True
    """
    (level,) = check_sparsities([sparsity])
    ((name, function),) = find_scores(score).items()
    known: dict[str, Tensor] = {}

    def recorded(neurons: Neurons) -> Tensor:
        known[neurons.layer] = function(neurons)
        return known[neurons.layer]

    def replayed(neurons: Neurons) -> Tensor:
        return known[neurons.layer]  # the biases have changed since, and scores may read them

    repaired = deepcopy(model)
    inputs = to_device(calibration, device_of(repaired))
    with evaluating(repaired):
        chosen = select_layers(repaired, layers, exclude).chosen
        anatomy = dissect(repaired, forward, chosen, inputs)
        ranking = rank_neurons(name, recorded, anatomy, scope, initial_norms, seed)
        if ranking.unit == "weights":
            raise ValueError(f"score {name!r} ranks single weights: expected one number per neuron")
        gone = _gone(anatomy, ranking.keep(level))
        with _input_means(anatomy, gone) as means:
            forward(repaired, clone(inputs))
    for reader, columns in gone.items():
        _add_to_bias(anatomy.modules[reader], means[reader] * columns.to(means[reader].device))
    return remove_neurons(
        repaired,
        level,
        inputs,
        score=replayed,
        layers=layers,
        exclude=exclude,
        scope=scope,
        forward=forward,
    )


def _gone(anatomy: Anatomy, keep: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """For each layer that reads removed neurons, which of its inputs those are."""
    gone = {}
    for name, kept in keep.items():
        if kept.all():
            continue
        if anatomy.flows[name].unknown:
            raise ValueError(
                f"the removal of neurons of {name!r} cannot be repaired, since "
                f"{anatomy.flows[name].unknown}: leave it with exclude={name!r}"
            )
        for reader in anatomy.flows[name].consumers:
            if isinstance(anatomy.modules[reader.name], _TRANSPOSED):
                raise ValueError(
                    f"{reader.name!r}, a transposed convolution, reads {name!r}, and no bias makes "
                    f"up for its inputs: leave {name!r} with exclude={name!r}"
                )
            gone[reader.name] = ~kept.repeat_interleave(reader.block)
    return gone


@contextmanager
def _input_means(anatomy: Anatomy, readers: Mapping[str, Tensor]) -> Iterator[dict[str, Tensor]]:
    """Gather the mean of each input of some layers, ``(inputs,)``, while the model runs."""
    sums: dict[str, list[Tensor]] = {name: [] for name in readers}
    means: dict[str, Tensor] = {}

    def note(name: str, layer: nn.Module, inputs: tuple[Tensor, ...]) -> None:
        dim = -1 if isinstance(layer, nn.Linear) else -1 - len(layer.kernel_size)  # type: ignore[arg-type]
        sums[name].append(inputs[0].detach().movedim(dim, 0).flatten(1))

    handles = [
        anatomy.modules[name].register_forward_pre_hook(
            lambda layer, inputs, name=name: note(name, layer, inputs)
        )
        for name in readers
    ]
    try:
        yield means
        means |= {name: torch.cat(parts, dim=1).mean(1) for name, parts in sums.items()}
    finally:
        for handle in handles:
            handle.remove()


def _add_to_bias(layer: Any, constant: Tensor) -> None:
    """Add what a layer makes of constant inputs, ``(inputs,)``, to its bias."""
    groups = 1 if isinstance(layer, nn.Linear) else layer.groups
    rows = neuron_rows(layer).detach()
    cells = rows.view(groups, len(rows) // groups, len(constant) // groups, -1).sum(-1)
    added = (cells @ constant.to(rows.dtype).view(groups, -1, 1)).flatten()
    if layer.bias is None:
        layer.bias = nn.Parameter(added)
    else:
        with torch.no_grad():
            layer.bias += added
