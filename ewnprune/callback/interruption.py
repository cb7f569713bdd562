"""Runs that end early: Ctrl-C leaves a checkpoint, and a run that never began leaves nothing."""

import signal
import threading
from pathlib import Path
from shlex import quote
from typing import Any

from pytorch_lightning import Callback, LightningModule, Trainer

_OURS = ("config.yaml", "hparams.yaml", "metrics.csv")  # what is written before the first step


class Interruption(Callback):
    """Ctrl-C: finish the batch, leave a checkpoint that resumes exactly, and say how to go on."""

    def __init__(self) -> None:
        self._asked = self._at_batch_end = False
        self._trainer: Trainer | None = None
        self._missing: list[Path] = []
        self._present: set[Path] = set()

    def remember(self, trainer: Trainer) -> None:
        """Note what is there already, before Lightning makes folders and files."""
        logger = trainer.logger
        found = getattr(logger, "log_dir", None) or getattr(logger, "save_dir", None)
        folder = Path(found or trainer.default_root_dir)
        self._missing = [path for path in (folder, *folder.parents) if not path.exists()]
        self._present = {path for path in (folder / name for name in _OURS) if path.exists()}

    def on_fit_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        if threading.current_thread() is threading.main_thread():
            self._previous = signal.signal(signal.SIGINT, self._ask)

    def _ask(self, *_: Any) -> None:
        print("\newnprune: interrupted; finishing the batch (again to stop now)", flush=True)
        self._asked = True
        signal.signal(signal.SIGINT, self._previous)

    def on_train_batch_end(self, *_: Any, **__: Any) -> None:
        if self._asked:
            self._at_batch_end = True
            raise KeyboardInterrupt

    def on_exception(
        self, trainer: Trainer, pl_module: LightningModule, exception: BaseException
    ) -> None:
        self._trainer = trainer
        if not isinstance(exception, KeyboardInterrupt) or trainer.state.fn != "fit":
            return
        checkpoint = getattr(trainer.checkpoint_callback, "best_model_path", "")
        if self._at_batch_end and trainer.log_dir is not None:
            checkpoint = str(Path(trainer.log_dir) / "checkpoints" / "interrupted.ckpt")
            trainer.save_checkpoint(checkpoint)
        if not checkpoint or trainer.log_dir is None:
            print("ewnprune: stopped before there was anything to go on from")
            return
        config = quote(str(Path(trainer.log_dir) / "config.yaml"))
        print(
            f"ewnprune: stopped in epoch {trainer.current_epoch}; go on with\n  ewnprune fit "
            f"--config {config} --ckpt_path {quote(checkpoint)}",
            flush=True,
        )

    def teardown(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        if hasattr(self, "_previous"):
            signal.signal(signal.SIGINT, self._previous)

    def remove_stillborn(self) -> None:
        """Remove what a run that failed before its first step has written, if all of it is ours."""
        trainer = self._trainer
        if trainer is None or trainer.log_dir is None or trainer.global_step > 0:
            return
        folder = Path(trainer.log_dir)
        # without a logger it is the user's own folder
        found = folder.rglob("*") if trainer.loggers else folder.glob("config.yaml")
        files = [path for path in found if path.is_file()]
        if not all(path.name in _OURS and path not in self._present for path in files):
            return
        for path in files:
            path.unlink()
        for new in self._missing:
            if new.is_dir() and not any(new.iterdir()):
                new.rmdir()
