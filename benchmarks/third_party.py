"""LightningModules that nobody here wrote: attach, train, sweep, fold, unchanged.

``python -m benchmarks.third_party`` tries those whose packages are installed:
``pip install lightly torchgeo pytorch-forecasting lightning-uq-box``. The module stays as it is and
the callback is added: two epochs on small random data, the curve on validation data, and back to a
plain model whose checkpoint loads strictly where nobody heard of ewnprune.
"""

import sys
import tempfile
import warnings
from collections.abc import Callable, Iterator
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch
from torch import nn
from torch.utils.data import DataLoader

import ewnprune.callback
import ewnprune.lightning
from ewnprune import EWN, Curve, attached_parametrizations

LEVELS = (0.0, 0.5, 0.9)

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


def try_out(make: Callable[[], Any], loader: Any, options: dict[str, Any]) -> tuple[Curve, int]:
    """One module; its curve, and how many layers were reparametrized."""
    import lightning.pytorch as unified
    import pytorch_lightning as separate

    torch.manual_seed(0)
    model = make()
    package: Any = unified if isinstance(model, unified.LightningModule) else separate
    ours: Any = ewnprune.lightning if package is unified else ewnprune.callback
    callback = ours.WeightNormPruning(EWN(), LEVELS, **options)
    attached: list[int] = []

    class Watch(package.Callback):  # type: ignore[misc]
        def on_train_start(self, trainer: Any, pl_module: Any) -> None:
            attached.append(len(attached_parametrizations(pl_module)))

    before = {key: value.clone() for key, value in model.state_dict().items()}
    with tempfile.TemporaryDirectory() as folder:
        trainer = package.Trainer(
            max_epochs=2,
            accelerator="cpu",
            devices=1,
            logger=False,
            enable_checkpointing=False,
            enable_progress_bar=False,
            enable_model_summary=False,
            default_root_dir=folder,
            callbacks=[callback, Watch()],
        )
        trainer.fit(model, loader, loader)
        path = Path(folder) / "end.ckpt"
        trainer.save_checkpoint(path, weights_only=True)
        # which modules keep as hyperparameters is theirs: only this file of tensors is ours to read
        state = torch.load(path, weights_only=False)["state_dict"]
    assert not attached_parametrizations(model)
    assert attached[0] > 0
    assert list(before) == list(model.state_dict()), "other keys than before"
    assert any(not torch.equal(before[k], v) for k, v in model.state_dict().items()), "no training"
    fresh = make()
    fresh.load_state_dict(state, strict=True)
    for key, value in model.state_dict().items():
        assert torch.equal(fresh.state_dict()[key], value), key
    assert sorted({p.sparsity for p in callback.curve}) == list(LEVELS)
    return callback.curve, attached[0]


def main() -> int:
    """Try all, print a table."""
    warnings.filterwarnings("ignore")
    failures = 0
    lines = []
    for package, cases in PACKAGES.items():
        torch.manual_seed(0)
        try:
            found = version(package)
            made = list(cases())
        except ImportError as error:
            print(f"left out: {package}: {error}")
            continue
        for name, case in made:
            try:
                curve, layers = try_out(*case)
            except Exception as error:
                failures += 1
                lines.append((package, found, name, f"{type(error).__name__}: {error}", ""))
                continue
            dense, *_, last = curve.where(score="norm")
            measure = next(iter(dense.metrics), "accuracy")
            numbers = [p.metrics.get(measure, p.accuracy) for p in (dense, last)]
            text = f"{measure} {numbers[0]:.3f} to {numbers[1]:.3f}"
            lines.append((package, found, name, str(layers), text))
    print("| package | version | module | layers attached | dense to 90 % removed |")
    print("| --- | --- | --- | --- | --- |")
    for line in lines:
        print("| " + " | ".join(line) + " |")
    return 1 if failures else 0


if __name__ == "__main__":
    sys.exit(main())
