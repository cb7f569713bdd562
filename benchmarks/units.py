"""Single weights against neurons, at equal parameters and at equal multiply-accumulates.

    python -m benchmarks.units

trains 784-1024-10 on MNIST plainly and under SWN with the defaults of ``ewnprune fit``, prunes each
by neurons and by weights, layer by layer and across layers, on test data, and writes
``docs/figures/units.csv`` and a figure.
"""

from pathlib import Path

import pytorch_lightning as pl
import torch

from ewnprune import SPARSITIES, SWN, Curve, WeightNormPruning, plot_curve, sparsity_curve
from ewnprune.curve.files import write_curve
from ewnprune.curve.text import format_at_equal
from ewnprune.pruning.ranking import Scope
from lightning_modules import MLP, Classifier, MNISTDataModule

FOLDER = Path(__file__).parent.parent / "docs" / "figures"
LEVELS = (*SPARSITIES, 0.985, 0.99, 0.995)
SCOPES: tuple[Scope, ...] = ("layer", "global")


def main() -> None:
    """Train, prune, and show."""
    curve = Curve()
    for parametrization in (None, SWN()):
        pl.seed_everything(0, verbose=False)
        model, data = Classifier(MLP()), MNISTDataModule()
        callback = WeightNormPruning(parametrization, (0,))
        trainer = pl.Trainer(
            max_epochs=5, accelerator="cpu", logger=False, enable_progress_bar=False,
            enable_model_summary=False, enable_checkpointing=False, callbacks=[callback],
            limit_val_batches=0,
        )  # fmt: skip
        trainer.fit(model, datamodule=data)
        for scope in SCOPES:
            # the last layer's weights too: as many parameters as the neurons can go with
            for score, layers in (("norm_product", None), ("magnitude", torch.nn.Linear)):
                curve += sparsity_curve(
                    model,
                    data.test_dataloader(),
                    LEVELS,
                    score,
                    layers=layers,
                    scope=scope,
                    method=callback.method,
                    seed=0,
                ).tagged(split="test")
    # one hidden layer: neurons across layers are neurons layer by layer
    curve = Curve(
        tuple(p for p in curve if (p.unit, p.scope) != ("neurons", "global")), curve.notes
    )
    write_curve(curve, FOLDER / "units.csv")
    for size in ("parameters", "macs"):
        print(format_at_equal(curve, size), end="\n\n")
    plot_curve(curve, FOLDER / "units_parameters.png", x="parameters")


if __name__ == "__main__":
    main()
