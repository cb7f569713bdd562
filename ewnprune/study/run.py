"""One run of a study, in a process of its own: ``python -m ewnprune.study.run FOLDER``.

With ``--while-stdin-is-open`` it ends when its standard input does.

The folder holds ``run.json`` and ``config.yaml`` before, and ``curve.json`` after: the points on
validation and test data, written last, which is what makes a run finished. In between lie a
checkpoint of the last epoch, from which an interrupted run goes on, and that of the end.
"""

import json
import os
import signal
import sys
import threading
import time
from functools import partial
from math import inf
from pathlib import Path
from typing import Any

import torch
import yaml
from pytorch_lightning import Callback, LightningModule, Trainer
from torch.utils._pytree import tree_leaves

from ewnprune.callback.checkpoint import read_checkpoint
from ewnprune.callback.command import run
from ewnprune.callback.hooks import PruningHooks
from ewnprune.callback.refusals import averaging_callbacks
from ewnprune.callback.validation import first_validation_batch
from ewnprune.curve.curve import Curve
from ewnprune.curve.files import read_curve, write_curve
from ewnprune.errors import exit_status
from ewnprune.files import read_rows, write_rows, write_text
from ewnprune.model.layers import select_layers
from ewnprune.model.size import Count
from ewnprune.study.dense import DenseOfPrunedSize
from ewnprune.study.details import check_accuracy, record_details, refuse_unmeasured
from ewnprune.study.recorded import SETTINGS
from ewnprune.study.versions import write_versions
from ewnprune.training.norms import neuron_norms

FINISHED = "curve.json"
CONFIG = "config.yaml"
_FINAL = "checkpoints/final.ckpt"
CHECKPOINTS = ("checkpoints/last.ckpt", "fit_*/checkpoints/interrupted.ckpt", "hpc_ckpt_*.ckpt")
"""Those that a run goes on from; the last are of Lightning where SLURM ends a job."""


class Recorder(Callback):
    """Leave in a run's folder how far it is, its norms, and a checkpoint when it is trained.

    When it is tested, its accuracy class by class too, and what pruning leaves of its layers.

    Args:
        folder: the run's folder.
    """

    def __init__(self, folder: str) -> None:
        self.folder = Path(folder)
        self._written, self._ended = 0.0, False

    def on_fit_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        refuse_unmeasured(trainer, pl_module)

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        first = first_validation_batch(trainer)
        if first is not None:
            check_accuracy(trainer, pl_module, _pruning(trainer), first)

    def on_train_batch_end(self, trainer: Trainer, *_: Any) -> None:
        if trainer.is_global_zero and time.monotonic() > self._written + 1:
            write_text(self.folder / "progress", f"{_done(trainer):.4f}\n")
            self._written = time.monotonic()

    def on_train_end(self, *_: Any) -> None:
        self._ended = True

    def on_fit_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        # not when training ends, which does not come again where a run was cut off after its last
        # epoch; and the checkpoint last, for it says that all of this is there
        if trainer.global_step == 0:  # it had no batch
            return
        if not self._ended and (averaging := averaging_callbacks(trainer)):
            raise ValueError(
                f"{averaging[0]} puts averages into the network when training ends, and the run "
                "was cut off then, before they were written: remove "
                f"{self.folder / 'checkpoints'} to have it trained anew"
            )
        if trainer.is_global_zero:
            pruning = _pruning(trainer)
            chosen = select_layers(pl_module, pruning.layers, pruning.exclude, recurrent=True)
            rows = [
                {"layer": name, "neuron": index, "norm": value}
                for name, layer in chosen.chosen.items()
                for index, value in enumerate(neuron_norms(layer).tolist())
            ]
            write_rows(self.folder / "norms.csv", rows)
        trainer.save_checkpoint(self.folder / _FINAL)

    def on_test_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        pruning = _pruning(trainer)
        loaders, limits = tree_leaves(trainer.test_dataloaders), trainer.num_test_batches
        if loaders and limits[0]:
            record_details(self.folder, trainer, pl_module, pruning, loaders[0], limits[0])


def _pruning(trainer: Trainer) -> PruningHooks:
    callbacks: list[Any] = trainer.callbacks  # type: ignore[attr-defined]
    return next(c for c in callbacks if isinstance(c, PruningHooks))


def _done(trainer: Trainer) -> float:
    """The fraction of the steps; of a stream, whose steps nobody knows, of the epochs."""
    steps, epochs = trainer.estimated_stepping_batches, trainer.max_epochs or 0
    if 0 < steps < inf:
        return trainer.global_step / steps
    return trainer.current_epoch / epochs if epochs > 0 else 0.0


def main(folder: Path) -> int:
    """Train what is not trained yet, then measure on validation and test data.

    Returns:
        The exit status.
    """
    started = time.monotonic()
    # weights that decay to nothing become denormal numbers, ten times slower to compute with
    torch.set_flush_denormal(True)
    if _steps(folder / _FINAL) is None:
        checkpoint = _furthest_checkpoint(folder)
        words = ["fit", *_phase(folder, _next_name(folder, "fit"))]
        words += ["--ckpt_path", str(checkpoint)] if checkpoint else []
        status = exit_status(partial(run, words))
        if status:
            return status
        if _steps(folder / _FINAL) is None:
            print("ewnprune: stopped before the end of training")
            return 130
    curves = []
    for split in _measured_on(folder):
        name = _next_name(folder, split)
        words = [split, *_phase(folder, name), "--ckpt_path", str(folder / _FINAL)]
        status = exit_status(partial(run, words))
        if status:
            return status
        files = sorted((folder / name).glob("sparsity_curve*.json"))
        curves += [read_curve(file) for file in files]  # none: there are no validation data
    if not curves:
        print("ewnprune: error: neither validation nor test data, so no curve", file=sys.stderr)
        return 1
    write_versions(folder, time.monotonic() - started)
    _write_training(folder)
    write_curve(_labelled(folder, sum(curves[1:], curves[0])), folder / FINISHED)
    return 0


def _measured_on(folder: Path) -> list[str]:
    """The commands that measure, without those that have no batch: a model may not know them."""
    trainer = yaml.safe_load((folder / CONFIG).read_text(encoding="utf-8"))["trainer"]
    limits = {"validate": "limit_val_batches", "test": "limit_test_batches"}
    asked = {split: trainer.get(name) for split, name in limits.items()}
    return [split for split, limit in asked.items() if limit is None or float(limit) != 0]


def _phase(folder: Path, name: str) -> list[str]:
    """The options of one command, with its own folder to log to."""
    config = yaml.safe_load((folder / CONFIG).read_text(encoding="utf-8"))
    config["trainer"]["logger"] = {
        "class_path": "pytorch_lightning.loggers.CSVLogger",
        "init_args": {"save_dir": str(folder), "name": "", "version": name},
    }
    path = folder / f"{name}.yaml"
    write_text(path, yaml.safe_dump(config, sort_keys=False))
    return ["--config", str(path)]


def _next_name(folder: Path, stem: str) -> str:
    number = 0
    while (folder / f"{stem}_{number}").exists():
        number += 1
    return f"{stem}_{number}"


def _steps(checkpoint: Path) -> int | None:
    """Steps trained; None where it is not there or not whole.

    Lightning's may be cut off where it was killed: it writes to the folder for temporary files
    first, and moves that, which on another file system means to copy.
    """
    try:
        return int(read_checkpoint(checkpoint, map_location="meta")["global_step"])
    except (FileNotFoundError, ValueError):
        return None


def _furthest_checkpoint(folder: Path) -> Path | None:
    """The one with the most steps, whatever clock the files were written by."""
    steps = {path: _steps(path) for each in CHECKPOINTS for path in sorted(folder.glob(each))}
    whole = {path: count for path, count in steps.items() if count is not None}
    return max(whole, key=lambda path: whole[path]) if whole else None


def _labelled(folder: Path, curve: Curve) -> Curve:
    settings = json.loads((folder / SETTINGS).read_text(encoding="utf-8"))
    tags: dict[str, Any] = {"method": settings["method"], "seed": settings["seed"]}
    if settings["part"] is not None:
        tags["sparsity"] = settings["part"]
        states = read_checkpoint(folder / _FINAL, map_location="meta")["callbacks"]
        counts = states.get(DenseOfPrunedSize.__qualname__, {})
        tags |= {name: Count(*pair) for name, pair in counts.items()}
    # a checkpoint is evaluated without its step and epoch
    return curve.tagged(**tags, epoch=None, step=None)


def _write_training(folder: Path) -> None:
    """One line per epoch, over all the times the run was resumed; the last says what holds."""
    rows: dict[int, dict[str, Any]] = {}
    attempts = folder.glob("fit_*/metrics.csv")
    for path in sorted(attempts, key=lambda path: int(path.parent.name.removeprefix("fit_"))):
        for line in read_rows(path):
            if line.get("epoch"):
                epoch = int(float(line["epoch"]))  # a model that logs it logs it as 0.0
                row = rows.setdefault(epoch, {})
                row |= {key: value for key, value in line.items() if value} | {"epoch": epoch}
    if rows:
        names = ("epoch", "step", "train/loss", "train/acc", "val/loss", "val/acc")
        table = [{name: rows[epoch].get(name, "") for name in names} for epoch in sorted(rows)]
        write_rows(folder / "training.csv", table)


def _end_with_stdin() -> None:
    while os.read(0, 1):  # sys.stdin's lock would be held while the interpreter shuts down
        pass
    os._exit(1)  # at once: whoever takes over goes on from the last checkpoint


if __name__ == "__main__":
    # Ctrl-C is how the study asks for a checkpoint: it is ignored in what a shell script starts
    # with &, and blocked in what a worker of Ray starts
    signal.signal(signal.SIGINT, signal.default_int_handler)
    signal.pthread_sigmask(signal.SIG_UNBLOCK, {signal.SIGINT})
    if "--while-stdin-is-open" in sys.argv[2:]:
        threading.Thread(target=_end_with_stdin, daemon=True).start()
    sys.exit(main(Path(sys.argv[1])))
