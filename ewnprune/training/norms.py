"""How the norms of a layer's neurons are spread: what relative sparsity looks like in numbers."""

import torch
from torch import Tensor, nn

from ewnprune.model.layers import neuron_rows
from ewnprune.model.recurrent import hidden_rows, is_recurrent, weight_names
from ewnprune.model.sharding import whole

QUANTILES = (0.05, 0.25, 0.5, 0.75, 0.95)


def neuron_norms(layer: nn.Module) -> Tensor:
    """``||w_u||_2`` of each neuron, or hidden unit, of a layer, shape ``(neurons,)``, float32+.

    >>> layer = nn.Linear(2, 2)
    >>> _ = layer.weight.data.copy_(torch.tensor([[3.0, 4.0], [0.0, 1.0]]))
    >>> neuron_norms(layer)
    tensor([5., 1.])
    """
    if is_recurrent(layer):  # whose gates a shard does not hold evenly
        rows = hidden_rows(
            layer, {name: whole(getattr(layer, name)) for name in weight_names(layer)}
        )
    else:
        rows = neuron_rows(layer)
    rows = rows.detach()
    precise = torch.promote_types(rows.dtype, torch.float)
    norms: Tensor = torch.linalg.vector_norm(rows, dim=1, dtype=precise)
    return norms


def effective_number(norms: Tensor) -> float:
    """Effective number of neurons, ``(sum r^2)^2 / sum r^4``: the participation ratio of ``r^2``.

    ``n`` when all norms are equal, 1 when one neuron holds everything, 0 when all are zero.

    >>> effective_number(torch.tensor([2.0, 2.0, 0.0, 0.0]))
    2.0
    """
    norms = norms.cpu()  # a Mac's GPU has no float64
    largest = norms.max().item()
    if largest == 0:
        return 0.0
    squares = (norms.double() / largest).square()  # rescaled, since fourth powers overflow
    return (squares.sum().square() / squares.square().sum()).item()


def gini(norms: Tensor) -> float:
    """Gini coefficient: 0 when all norms are equal, ``1 - 1/n`` when one holds everything.

    >>> gini(torch.tensor([1.0, 1.0, 1.0])), gini(torch.tensor([0.0, 0.0, 5.0, 0.0]))
    (0.0, 0.75)
    """
    ordered = norms.cpu().double().sort().values
    n, total = len(ordered), ordered.sum()
    if total == 0:
        return 0.0
    ranks = torch.arange(1, n + 1, dtype=torch.double, device="cpu")
    return (2 * (ranks * ordered).sum() / (n * total) - (n + 1) / n).item()


def norm_statistics(norms: Tensor) -> dict[str, float]:
    """Quantiles, effective number and Gini coefficient of one layer's norms.

    >>> norm_statistics(torch.ones(4))["effective"]
    4.0
    """
    norms = norms.cpu()
    values = torch.quantile(
        norms.double(), torch.tensor(QUANTILES, dtype=torch.double, device="cpu")
    ).tolist()
    named = {f"q{100 * q:02.0f}": value for q, value in zip(QUANTILES, values, strict=True)}
    return {**named, "effective": effective_number(norms), "gini": gini(norms)}
