"""LightningModules of other packages, each with small random data that it takes."""

from collections.abc import Callable, Iterator
from typing import Any

import torch
from torch import nn
from torch.utils.data import DataLoader

Case = tuple[Callable[[], Any], Any, dict[str, Any]]
"""How to make the module, its loader, and options of the callback."""


def _dictionaries(*shapes: tuple[str, tuple[int, ...], int | None]) -> DataLoader[Any]:
    """Random samples: floats where no number of classes is given."""
    made = {
        name: torch.randint(classes, (16, *shape)) if classes else torch.randn(16, *shape)
        for name, shape, classes in shapes
    }
    rows = [{name: values[i] for name, values in made.items()} for i in range(16)]
    return DataLoader(rows, batch_size=8)


def lightly() -> Iterator[tuple[str, Case]]:
    """A linear probe and a finetuned backbone."""
    from lightly.utils.benchmarking import FinetuneClassifier, LinearClassifier

    data = DataLoader([(torch.randn(3, 16, 16), i % 4) for i in range(16)], batch_size=8)

    def make(kind: type) -> Any:
        backbone = nn.Sequential(
            nn.Conv2d(3, 12, 3), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten()
        )
        return kind(backbone, 8, feature_dim=12, num_classes=4, topk=(1, 2))

    # a probe trains its head alone: with the whole model the callback refuses, and says why
    head = {"layers": "classification_head"}
    yield "LinearClassifier, its head", (lambda: make(LinearClassifier), data, head)
    yield "FinetuneClassifier", (lambda: make(FinetuneClassifier), data, {})


def torchgeo() -> Iterator[tuple[str, Case]]:
    """Classification, multi-label, regression, segmentation and regression by pixel."""
    from torchgeo import trainers
    from torchmetrics import MeanSquaredError
    from torchmetrics.classification import MultilabelF1Score

    image = ("image", (3, 32, 32), None)
    options: dict[str, Any] = {"model": "resnet18", "weights": None, "in_channels": 3}
    pixels = options | {"model": "unet", "backbone": "resnet18"}

    def batch(target: str) -> Callable[[Any], tuple[Any, Any]]:
        return lambda b: (b["image"], b[target])

    yield (
        "ClassificationTask",
        (
            lambda: trainers.ClassificationTask(**options, num_classes=3),
            _dictionaries(image, ("label", (), 3)),
            {"batch": batch("label")},
        ),
    )
    yield (
        "ClassificationTask, multilabel",
        (
            lambda: trainers.ClassificationTask(
                **options, task="multilabel", num_labels=4, loss="bce"
            ),
            _dictionaries(image, ("label", (4,), 2)),
            {"batch": batch("label"), "metric": MultilabelF1Score(4)},
        ),
    )
    yield (
        "RegressionTask",
        (
            lambda: trainers.RegressionTask(**options),
            _dictionaries(image, ("label", (1,), None)),
            {"batch": batch("label"), "metric": MeanSquaredError()},
        ),
    )
    yield (
        "SemanticSegmentationTask",
        (
            lambda: trainers.SemanticSegmentationTask(**pixels, num_classes=3),
            _dictionaries(image, ("mask", (32, 32), 3)),
            {"batch": batch("mask")},
        ),
    )
    yield (
        "PixelwiseRegressionTask",
        (
            lambda: trainers.PixelwiseRegressionTask(**pixels),
            _dictionaries(image, ("mask", (1, 32, 32), None)),
            {"batch": batch("mask"), "metric": MeanSquaredError()},
        ),
    )


def pytorch_forecasting() -> Iterator[tuple[str, Case]]:
    """Time series: a stack of MLPs, and attention over LSTMs."""
    import pandas
    from pytorch_forecasting import NHiTS, TemporalFusionTransformer, TimeSeriesDataSet
    from pytorch_forecasting.metrics import MAE
    from torchmetrics import MeanSquaredError

    n = 60
    table = pandas.DataFrame(
        {"time": list(range(n)) * 2, "group": ["a"] * n + ["b"] * n, "value": torch.randn(2 * n)}
    )
    data = TimeSeriesDataSet(
        table,
        time_idx="time",
        target="value",
        group_ids=["group"],
        max_encoder_length=12,
        max_prediction_length=4,
        time_varying_unknown_reals=["value"],
    )

    class Error(MeanSquaredError):  # type: ignore[misc]
        def update(self, outputs: Any, targets: Any) -> None:
            super().update(outputs["prediction"][..., 0].contiguous(), targets)

    loader = data.to_dataloader(train=False, batch_size=32)
    options: dict[str, Any] = {"batch": lambda b: (b[0], b[1][0]), "metric": Error()}
    yield (
        "NHiTS",
        (lambda: NHiTS.from_dataset(data, hidden_size=16, loss=MAE()), loader, dict(options)),
    )
    yield (
        "TemporalFusionTransformer",
        (
            lambda: TemporalFusionTransformer.from_dataset(data, hidden_size=8, loss=MAE()),
            loader,
            options,
        ),
    )


def lightning_uq_box() -> Iterator[tuple[str, Case]]:
    """Regression with uncertainty."""
    from lightning_uq_box.uq_methods import DeterministicRegression, MVERegression
    from torchmetrics import MeanSquaredError

    def network(outputs: int) -> nn.Module:
        return nn.Sequential(
            nn.Linear(5, 20), nn.ReLU(), nn.Linear(20, 20), nn.ReLU(), nn.Linear(20, outputs)
        )

    class Error(MeanSquaredError):  # type: ignore[misc]
        def update(self, outputs: Any, targets: Any) -> None:
            super().update(outputs[:, :1].contiguous(), targets)

    data = _dictionaries(("input", (5,), None), ("target", (1,), None))
    options = {"batch": lambda b: (b["input"], b["target"]), "metric": Error()}
    yield (
        "DeterministicRegression",
        (lambda: DeterministicRegression(network(1), nn.MSELoss()), data, options),
    )
    yield "MVERegression", (lambda: MVERegression(network(2), burnin_epochs=1), data, options)


PACKAGES = {
    "lightly": lightly,
    "torchgeo": torchgeo,
    "pytorch-forecasting": pytorch_forecasting,
    "lightning-uq-box": lightning_uq_box,
}
