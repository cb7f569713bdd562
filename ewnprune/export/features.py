"""The inputs that an exported network reads: in its card, and as a picture of pixels."""

from math import prod
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from torch import nn

from ewnprune.drawing import COLORS, save_figure
from ewnprune.export.trained import Trained
from ewnprune.model.selecting import selecting_kind
from ewnprune.pruning.inputs import Features
from ewnprune.pruning.removed import Removal

if TYPE_CHECKING:
    from matplotlib.axes import Axes


def features_entry(trained: Trained, removed: Removal, network: nn.Module) -> dict[str, Any]:
    """What the card says of the inputs that are read.

    Args:
        trained: the run; its data may have ``feature_names``, one for each feature.
        removed: what was removed.
        network: the network that is written.

    Raises:
        ValueError: other names than there are features.
    """
    features = removed.inputs
    assert features is not None
    total = prod(features.shape)
    entry: dict[str, Any] = {
        "left": len(features.kept),
        "total": total,
        "shape": list(features.shape),
        "indices": list(features.kept),
        "layers": {
            name: kind
            for name, module in network.named_modules()
            if (kind := selecting_kind(module))
        },
    }
    names = getattr(trained.data, "feature_names", None)
    if names is not None:
        names = [str(name) for name in names]
        if len(names) != total:
            raise ValueError(
                f"{type(trained.data).__name__}.feature_names has {len(names)} names: expected "
                f"one for each of the {total} features"
            )
        entry["names"] = [names[index] for index in features.kept]
    return entry


def draw_features(features: Features, path: Path) -> bool:
    """Write a picture of the pixels that are read.

    Args:
        features: the features.
        path: the file to write.

    Returns:
        Whether that was done: only where the features are numbers of an image, ``(H, W)`` or
        ``(C, H, W)``.
    """
    if len(features.shape) not in (2, 3):
        return False
    from matplotlib.figure import Figure

    height, width = features.shape[-2:]
    figure = Figure(figsize=(4, 4 * height / width + 0.4), dpi=150, layout="constrained")
    axes = figure.add_subplot()
    show_features(axes, features)
    what = "numbers of pixels" if prod(features.shape[:-2]) > 1 else "pixels"
    told = f"{len(features.kept)} of {prod(features.shape)} {what} read"
    axes.set_title(told, loc="left", fontsize=11, color="0.3")
    save_figure(figure, path)
    return True


def show_features(axes: "Axes", features: Features) -> None:
    """Show which pixels of an image are read: of several channels, how many of its numbers."""
    from matplotlib.colors import LinearSegmentedColormap

    kept = np.zeros(features.shape)
    kept.flat[list(features.kept)] = 1
    image = kept.reshape(-1, *features.shape[-2:]).sum(0)
    most = kept.size // image.size
    colors = LinearSegmentedColormap.from_list("kept", ["0.92", COLORS["ewn"]], most + 1)
    axes.imshow(image, cmap=colors, vmin=0, vmax=most, interpolation="nearest")
    for axis, size in ((axes.yaxis, image.shape[0]), (axes.xaxis, image.shape[1])):
        axis.set_ticks(np.arange(size + 1) - 0.5, [""] * (size + 1))
    axes.grid(color="white", lw=0.4)
    axes.tick_params(length=0)
    axes.spines[:].set_visible(False)
