"""The Trainer of the command line, which has a sweep beside fit, validate, test and predict."""

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal

from pytorch_lightning import LightningDataModule, LightningModule, Trainer
from pytorch_lightning.loggers import CSVLogger

from ewnprune.callback import WeightNormPruning
from ewnprune.files import local_path


def folder_of_run(checkpoint: str) -> Path:
    """Where a checkpoint's run lies; the checkpoint's own folder where there is no run around it.

    >>> folder_of_run("elsewhere/weights.ckpt").as_posix()
    'elsewhere'
    """
    path = local_path(checkpoint)
    above = folder_above(path)
    return above if (above / "config.yaml").is_file() else path.parent


def folder_above(checkpoint: Path) -> Path:
    """The one that holds the checkpoint's folder, also from within that.

    >>> [folder_above(Path(path)).as_posix() for path in ("run/checkpoints/a.ckpt", "a.ckpt")]
    ['run', '..']
    """
    return Path(os.path.normpath(checkpoint.parent / ".."))


def logger_of_run(options: Mapping[str, Any], root: str | None) -> CSVLogger:
    """Lightning's logger, in the Trainer's folder unless it has one of the user's own.

    Args:
        options: the logger's.
        root: the Trainer's folder.

    Raises:
        ValueError: the folder is not on this machine.
    """
    ours = options["save_dir"] == "."
    folder = local_path(root if ours and root is not None else options["save_dir"])
    return CSVLogger(**{**options, "save_dir": str(folder)})


class SweepingTrainer(Trainer):
    """Lightning's, and `sweep`."""

    def sweep(
        self,
        model: LightningModule,
        ckpt_path: str,
        datamodule: LightningDataModule | None = None,
        split: Literal["val", "test"] = "val",
        realize: Literal["mask", "remove"] = "mask",
        per_layer: bool = False,
        weights_only: bool | None = True,
    ) -> None:
        """Accuracy against sparsity for a checkpoint, on validation or test data, beside its run.

        Args:
            model: the model that was trained.
            ckpt_path: the checkpoint.
            datamodule: the data.
            split: validation data, to choose with; or test data, to report.
            realize: mask, or remove: build each smaller network and measure its bytes and latency.
            per_layer: prune each layer alone, or each group of layers whose neurons go together:
                one curve for each, and a heat map, in sensitivity.*.
            weights_only: refuse checkpoints that hold more than tensors and plain types.
        """
        for callback in self.callbacks:  # type: ignore[attr-defined]
            if isinstance(callback, WeightNormPruning):
                callback.measuring.per_layer = per_layer
                if realize != "mask":
                    callback.measuring.realize = realize
        evaluate = self.validate if split == "val" else self.test
        evaluate(model, datamodule=datamodule, ckpt_path=ckpt_path, weights_only=weights_only)
