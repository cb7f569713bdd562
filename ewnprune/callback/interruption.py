"""Runs that end early: Ctrl-C leaves a checkpoint, and a run that never began leaves nothing."""

import signal
import threading
from contextlib import suppress
from itertools import count
from pathlib import Path
from shlex import quote
from typing import Any

from pytorch_lightning import Callback, LightningModule, Trainer
from pytorch_lightning.cli import SaveConfigCallback
from pytorch_lightning.loggers import CSVLogger, TensorBoardLogger

from ewnprune.files import local_path

_OURS = ("config.yaml", "hparams.yaml", "metrics.csv")  # what is written before the first step


class Interruption(Callback):
    """Ctrl-C: finish the batch, leave a checkpoint that resumes exactly, and say how to go on."""

    def __init__(self) -> None:
        self._asked = self._at_batch_end = False
        self._trainer: Trainer | None = None
        self._folder: Path | None = None
        self._claimed = False
        self._missing: list[Path] = []
        self._present: set[Path] = set()

    def remember(self, trainer: Trainer) -> None:
        """Take a new folder, and note what is there already, before Lightning makes files."""
        self._trainer, self._claimed = trainer, False
        counts = _counts(trainer)  # before it is asked for its folder
        folder = self._folder = _own_log_dir(trainer) if trainer.is_global_zero else None
        if folder is None:  # the other processes write nothing
            return
        self._missing = [path for path in folder.parents if not path.exists()]
        self._present = {path for path in (folder / name for name in _OURS) if path.exists()}
        if counts:
            folder = self._folder = _claim(trainer.logger)
            self._claimed = True
        elif folder.exists():
            return
        self._missing.insert(0, folder)

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        logger = trainer.logger
        if type(logger) is CSVLogger:  # the other processes count anew, and find the folder taken
            logger._version = trainer.strategy.broadcast(logger.version)

    def on_fit_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        if threading.current_thread() is threading.main_thread():
            self._previous = signal.signal(signal.SIGINT, self._ask)

    def _ask(self, *_: Any) -> None:
        print("\newnprune: interrupted; finishing the batch (again to stop now)", flush=True)
        self._asked = True
        signal.signal(signal.SIGINT, self._previous)

    def on_train_batch_end(self, trainer: Trainer, *_: Any, **__: Any) -> None:
        asked = self._asked
        if trainer.world_size > 1:  # a signal reaches them in different batches, or one of them
            asked = trainer.strategy.reduce_boolean_decision(asked, all=False)
        if asked:
            self._at_batch_end = True
            raise KeyboardInterrupt

    def on_exception(
        self, trainer: Trainer, pl_module: LightningModule, exception: BaseException
    ) -> None:
        if not isinstance(exception, KeyboardInterrupt) or trainer.state.fn != "fit":
            return
        checkpoint = getattr(trainer.checkpoint_callback, "best_model_path", "")
        if self._at_batch_end:  # and so do all processes, which the folder and the file ask for
            folder = trainer.log_dir
            if folder is not None:
                checkpoint = str(local_path(folder) / "checkpoints" / "interrupted.ckpt")
                trainer.save_checkpoint(checkpoint)
        if not trainer.is_global_zero:
            return
        if not checkpoint or self._folder is None:
            print("ewnprune: stopped before there was anything to go on from")
            return
        print(
            f"ewnprune: stopped in epoch {trainer.current_epoch}; go on with\n  ewnprune fit "
            f"--config {quote(str(self._folder / 'config.yaml'))} --ckpt_path {quote(checkpoint)}",
            flush=True,
        )

    def teardown(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        if hasattr(self, "_previous"):
            signal.signal(signal.SIGINT, self._previous)

    def remove_stillborn(self) -> None:
        """Remove what a run that failed before its first step has written, if all of it is ours."""
        trainer, folder = self._trainer, self._folder
        if trainer is None or folder is None or trainer.global_step > 0:
            return
        # a run that came first may have written in a folder that has no number, or none of its own
        if not self._claimed and not _has_saved_config(trainer):
            self._remove_empty()
            return
        # without a logger it is the user's own folder
        found = folder.rglob("*") if trainer.loggers else folder.glob("config.yaml")
        files = [path for path in found if path.is_file()]
        if not all(path.name in _OURS and path not in self._present for path in files):
            return
        for path in files:
            path.unlink()
        self._remove_empty()

    def _remove_empty(self) -> None:
        for new in self._missing:
            with suppress(OSError):  # it is not there, or another run has come into it
                new.rmdir()


def _counts(trainer: Trainer) -> bool:
    """Whether the run's folder is to have the next number."""
    return type(trainer.logger) is CSVLogger and trainer.logger._version is None


def _claim(logger: Any) -> Path:
    """Make the folder of the next number that is free, which of several runs one alone can do."""
    for number in count(logger.version):
        folder = local_path(logger.root_dir) / f"version_{number}"
        folder.parent.mkdir(parents=True, exist_ok=True)
        try:
            folder.mkdir()
        except FileExistsError:  # by another run that started at the same time
            continue
        logger._version = number
        break
    return folder


def _has_saved_config(trainer: Trainer) -> bool:
    """Whether this process has written config.yaml, which it does where there was none."""
    callbacks: list[Callback] = trainer.callbacks  # type: ignore[attr-defined]
    return any(isinstance(each, SaveConfigCallback) and each.already_saved for each in callbacks)


def _own_log_dir(trainer: Trainer) -> Path | None:
    """``trainer.log_dir`` as this process has it: that asks all, and others may be gone by then."""
    logger = trainer.logger
    if logger is None:
        return local_path(trainer.default_root_dir)
    of_run = isinstance(logger, CSVLogger | TensorBoardLogger)
    found = logger.log_dir if of_run else logger.save_dir
    return None if found is None else local_path(found)
