"""LightningModules that nobody here wrote: attach, train, sweep, fold, unchanged.

``python -m benchmarks.third_party`` tries those whose packages are installed:
``pip install lightly torchgeo pytorch-forecasting lightning-uq-box``. The module stays as it is and
the callback is added: two epochs on small random data, the curve on validation data, and back to a
plain model whose checkpoint loads strictly where nobody heard of ewnprune.
"""

import sys
import tempfile
import warnings
from collections.abc import Callable
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch

import ewnprune.callback
import ewnprune.lightning
from benchmarks.third_party_modules import PACKAGES
from ewnprune import EWN, Curve, attached_parametrizations

LEVELS = (0.0, 0.5, 0.9)


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
