"""The subcommands that train and evaluate: LightningCLI, configured and little more."""

import logging
import shutil
import signal
import sys
import threading
import time
import warnings
from pathlib import Path
from typing import Any, Literal

from pytorch_lightning import Callback, LightningDataModule, LightningModule, Trainer
from pytorch_lightning.callbacks import ProgressBar
from pytorch_lightning.cli import ArgsType, LightningArgumentParser, LightningCLI

import ewnprune
import lightning_modules  # noqa: F401  its classes can then be named without the module
from ewnprune.callback import WeightNormPruning
from ewnprune.callback.checkpoint import read_checkpoint
from ewnprune.callback.progress import ThrottledProgressBar

for _name in dir(ewnprune):
    getattr(ewnprune, _name)  # and so can its own, once they are imported


def run(words: list[str]) -> int:
    """Run ``fit``, ``validate``, ``test``, ``predict`` or ``sweep``, and return 0."""
    # news of Lightning's own house, which its users can do nothing about
    warnings.filterwarnings("ignore", r"(?s)\s*(By default only one|.*was deprecated in v4)")
    warnings.filterwarnings("ignore", r".isinstance\(treespec, LeafSpec\)", FutureWarning)
    # data without a validation part, as in the paper's protocol; the callback says so
    warnings.filterwarnings("ignore", "Total length of `list` across ranks is zero")
    warnings.filterwarnings("ignore", "The dirpath has changed from")  # a new folder every run
    logging.getLogger("pytorch_lightning").setLevel(logging.WARNING)
    interruption = _Interruption()
    argv, sys.argv = sys.argv, sys.argv[:1]  # LightningCLI warns when both have words
    try:
        _CommandLine(
            LightningModule,
            LightningDataModule,
            subclass_mode_model=True,
            subclass_mode_data=True,
            trainer_class=_Trainer,
            trainer_defaults={
                "max_epochs": 5,
                # metrics.csv beside config.yaml and the curve, in a new folder for every run
                "logger": {
                    "class_path": "CSVLogger",
                    "init_args": {"save_dir": ".", "name": "runs"},
                },
                "callbacks": [interruption],
            },
            seed_everything_default=0,
            # optimizers made by the CLI come before the parametrization and would train nothing
            auto_configure_optimizers=False,
            parser_kwargs={name: {"exit_on_error": False} for name in _CommandLine.subcommands()}
            | {"exit_on_error": False},
            args=words,
        )
    except BaseException:
        interruption.remove_stillborn()
        raise
    finally:
        sys.argv = argv
    return 0


class _Trainer(Trainer):
    def sweep(
        self,
        model: LightningModule,
        ckpt_path: str,
        datamodule: LightningDataModule | None = None,
        split: Literal["val", "test"] = "val",
        realize: Literal["mask", "remove"] = "mask",
        weights_only: bool | None = True,
    ) -> None:
        """Accuracy against sparsity for a checkpoint, on validation or test data.

        Args:
            model: the model that was trained.
            ckpt_path: the checkpoint.
            datamodule: the data.
            split: validation data, to choose with; or test data, to report.
            realize: mask, or remove: build each smaller network and measure its bytes and latency.
            weights_only: refuse checkpoints that hold more than tensors and plain types.
        """
        for callback in self.callbacks:  # type: ignore[attr-defined]
            if isinstance(callback, WeightNormPruning) and realize != "mask":
                callback.realize = realize
        evaluate = self.validate if split == "val" else self.test
        evaluate(model, datamodule=datamodule, ckpt_path=ckpt_path, weights_only=weights_only)


class _CommandLine(LightningCLI):
    @staticmethod
    def subcommands() -> dict[str, set[str]]:
        return {**LightningCLI.subcommands(), "sweep": {"model", "datamodule"}}

    def parse_arguments(self, parser: LightningArgumentParser, args: ArgsType) -> None:
        super().parse_arguments(parser, args)
        checkpoint = self.config[self.config.subcommand].get("ckpt_path")
        if checkpoint not in (None, "best", "last", "hpc"):
            content = read_checkpoint(checkpoint, map_location="meta")  # or an error, now
            if "pytorch-lightning_version" not in content:
                raise ValueError(
                    f"{checkpoint}: expected a checkpoint that Lightning wrote, and it has no "
                    "'pytorch-lightning_version'; load other weights in your model's own code"
                )

    def _parse_ckpt_path(self) -> None:
        """Take no class names from a checkpoint, as Lightning would: a file is not to run code."""

    def add_arguments_to_parser(self, parser: LightningArgumentParser) -> None:
        parser.add_lightning_class_args(WeightNormPruning, "prune")
        parser.set_defaults(
            {
                "prune.parametrization": {"class_path": "ewnprune.EWN"},
                "prune.scores": ["norm", "norm_product"],
                "model": {
                    "class_path": "lightning_modules.Classifier",
                    "init_args": {"network": {"class_path": "lightning_modules.MLP"}},
                },
                "data": {"class_path": "lightning_modules.MNISTDataModule"},
            }
        )

    def _prepare_subcommand_parser(
        self, klass: type, subcommand: str, **kwargs: Any
    ) -> LightningArgumentParser:
        parser = super()._prepare_subcommand_parser(klass, subcommand, **kwargs)
        # a checkpoint is data, not code, unless the user says otherwise
        parser.set_defaults({"weights_only": True})
        return parser

    def instantiate_trainer(self, **kwargs: Any) -> Trainer:
        given = self.config_init[self.subcommand]["trainer"]
        callbacks = given.callbacks if isinstance(given.callbacks, list) else [given.callbacks]
        its_own = any(isinstance(callback, ProgressBar) for callback in callbacks)
        if given.enable_progress_bar is not False and not its_own:  # None means yes
            self.trainer_defaults["callbacks"].append(ThrottledProgressBar())
        return super().instantiate_trainer(**kwargs)

    def after_fit(self) -> None:
        folder = Path(self.trainer.log_dir or ".")
        if self.trainer.is_global_zero and (folder / "config.yaml").is_file():
            written = sorted(path for path in folder.rglob("*") if path.is_file())
            print("written:", *(f"  {path}" for path in written), sep="\n")


class _Interruption(Callback):
    """Ctrl-C: finish the batch, leave a checkpoint that resumes exactly, and say how to go on."""

    def __init__(self) -> None:
        self._asked = self._at_batch_end = False
        self._born = time.time()
        self._trainer: Trainer | None = None

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
        print(
            f"ewnprune: stopped in epoch {trainer.current_epoch}; go on with\n  ewnprune fit "
            f"--config {Path(trainer.log_dir) / 'config.yaml'} --ckpt_path {checkpoint}",
            flush=True,
        )

    def teardown(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        if hasattr(self, "_previous"):
            signal.signal(signal.SIGINT, self._previous)

    def remove_stillborn(self) -> None:
        """Remove the folder of a run that failed before its first step, if all of it is ours."""
        trainer = self._trainer
        if trainer is None or trainer.log_dir is None or trainer.global_step > 0:
            return
        folder = Path(trainer.log_dir)
        files = [path for path in folder.rglob("*") if path.is_file()]
        if folder.is_dir() and all(
            path.name in ("config.yaml", "hparams.yaml") and path.stat().st_mtime > self._born - 1
            for path in files
        ):
            shutil.rmtree(folder)
            if folder.parent != Path.cwd() and not any(folder.parent.iterdir()):
                folder.parent.rmdir()
