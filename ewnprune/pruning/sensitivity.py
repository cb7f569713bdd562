"""What the loss is predicted to gain as units of a layer go, from curves of each layer alone."""

from collections.abc import Mapping

import torch
from torch import Tensor

_WORST = 1e30  # of a loss that is no number

Gains = Mapping[float, float]
"""What the loss has gained at each level of one layer."""
Sensitivity = Mapping[str, Mapping[str, Gains]]
"""By score and layer; `ewnprune.Curve.sensitivity` gives it."""


def predicted(gains: Gains, units: int) -> Tensor:
    """What the loss gains when the first of so many units go, then the second too, and so on.

    It is read on straight lines between the levels, and beyond the last on the last one's. What is
    lost once does not come back: where a measured curve falls, the highest before counts.

    Args:
        gains: by level.
        units: how many the layer has.

    Returns:
        Numbers that do not fall, ``(units,)``.

    >>> predicted({0.0: 0.0, 0.5: 1.0, 1.0: 4.0}, 4)
    tensor([0.5000, 1.0000, 2.5000, 4.0000], dtype=torch.float64)
    """
    points = {0.0: 0.0, **gains}
    x = torch.tensor(sorted(points), dtype=torch.float64, device="cpu")
    y = torch.tensor([points[level] for level in sorted(points)], dtype=torch.float64, device="cpu")
    y = y.nan_to_num(nan=_WORST).clamp(0, _WORST).cummax(0).values
    at = torch.arange(1, units + 1, dtype=torch.float64, device="cpu") / units
    if len(x) == 1:
        return torch.zeros_like(at)
    right = torch.searchsorted(x, at).clamp(max=len(x) - 1)
    slope = (y[right] - y[right - 1]) / (x[right] - x[right - 1])
    gained = y[right - 1] + slope * (at - x[right - 1])
    return gained.cummax(0).values  # a line may end a rounding above the next


def check_sensitivity(scope: str, sensitivity: object) -> None:
    """Refuse curves without the scope, and the scope without curves.

    Raises:
        ValueError: one of both is missing.
    """
    if (scope == "sensitivity") == (sensitivity is not None):
        return
    if sensitivity is None:
        raise ValueError(
            "scope='sensitivity' goes by a curve of each layer: give sensitivity="
            "sparsity_curve(model, loader, per_layer=True).sensitivity()"
        )
    raise ValueError(f"sensitivity is for scope='sensitivity' alone: leave it out for {scope!r}")


def gains_of(sensitivity: Sensitivity, score: str, layer: str) -> Gains:
    """The curve of one layer by one score.

    Raises:
        ValueError: there is none.
    """
    found = sensitivity.get(score, {}).get(layer)
    if found is None:
        raise ValueError(
            f"sensitivity has no curve of layer {layer!r} by score {score!r}: take it with "
            "sparsity_curve(..., per_layer=True), by the same scores and of the same layers"
        )
    return found
