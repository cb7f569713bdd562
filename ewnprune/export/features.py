"""The inputs that an exported network reads: in its card, and as a picture of pixels."""

from pathlib import Path
from typing import Any

import numpy as np
from torch import nn

from ewnprune.drawing import COLORS, save_figure
from ewnprune.export.trained import Trained
from ewnprune.model.selecting import selecting_kind
from ewnprune.pruning.inputs import Features
from ewnprune.pruning.removal import Removal


def features_entry(
    trained: Trained, part: str, removed: Removal, network: nn.Module
) -> dict[str, Any]:
    """What the card says of the inputs that are read.

    Args:
        trained: the run; its data may have ``feature_names``, one for each feature.
        part: name of the network inside the run's model; empty for the whole.
        removed: what was removed.
        network: the network after.

    Raises:
        ValueError: other names than there are features.
    """
    features = removed.inputs
    assert features is not None
    total = int(np.prod(features.shape))
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
    """Draw which pixels are read; of several channels, how many of each pixel's numbers.

    Args:
        features: the features.
        path: the file to write.

    Returns:
        Whether that was done: only where the features are numbers of an image, ``(H, W)`` or
        ``(C, H, W)``.
    """
    if len(features.shape) not in (2, 3):
        return False
    from matplotlib.colors import LinearSegmentedColormap
    from matplotlib.figure import Figure

    kept = np.zeros(features.shape)
    kept.flat[list(features.kept)] = 1
    image = kept.reshape(-1, *features.shape[-2:]).sum(0)
    height, width = image.shape
    figure = Figure(figsize=(4, 4 * height / width + 0.4), dpi=150, layout="constrained")
    axes = figure.add_subplot()
    most = kept.size // image.size
    colors = LinearSegmentedColormap.from_list("kept", ["0.92", COLORS["ewn"]], most + 1)
    axes.imshow(image, cmap=colors, vmin=0, vmax=most, interpolation="nearest")
    axes.set_xticks(np.arange(width + 1) - 0.5, [""] * (width + 1))
    axes.set_yticks(np.arange(height + 1) - 0.5, [""] * (height + 1))
    axes.grid(color="white", lw=0.4)
    axes.tick_params(length=0)
    axes.spines[:].set_visible(False)
    what = "pixels" if most == 1 else "numbers of pixels"
    axes.set_title(
        f"{len(features.kept)} of {kept.size} {what} read", loc="left", fontsize=11, color="0.3"
    )
    save_figure(figure, path)
    return True
