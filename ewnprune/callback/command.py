"""The subcommands that train and evaluate: LightningCLI, configured and little more."""

import logging
import re
import warnings
from argparse import ArgumentError
from typing import Any, Literal

from pytorch_lightning import LightningDataModule, LightningModule, Trainer
from pytorch_lightning.callbacks import BasePredictionWriter, ProgressBar
from pytorch_lightning.cli import ArgsType, LightningArgumentParser, LightningCLI
from pytorch_lightning.loggers import CSVLogger
from pytorch_lightning.utilities.exceptions import MisconfigurationException  # type: ignore[attr-defined]
from torch.serialization import safe_globals

import ewnprune
import lightning_modules  # noqa: F401  its classes can then be named without the module
from ewnprune.callback import WeightNormPruning
from ewnprune.callback.checkpoint import HARMLESS, read_checkpoint
from ewnprune.callback.closing import closing_lines
from ewnprune.callback.first_run import plain_beside
from ewnprune.callback.interruption import Interruption
from ewnprune.callback.names import class_error, score_name, with_class_names
from ewnprune.callback.predictions import PredictionFile
from ewnprune.callback.progress import progress_bar
from ewnprune.callback.recipe import put_first, with_recipe
from ewnprune.callback.refusals import put_behind
from ewnprune.callback.run_files import run_folder
from ewnprune.callback.sweeping import SweepingTrainer, folder_of_run, logger_of_run
from ewnprune.errors import UsageError, unknown_option
from ewnprune.files import local_path

for _name in dir(ewnprune):
    getattr(ewnprune, _name)  # and so can its own, once they are imported

_USUAL = ["lightning_modules.Classifier", "lightning_modules.MNISTDataModule"]


def run(words: list[str], made_by: "type[CommandLine] | None" = None) -> int:
    """Run ``fit``, ``validate``, ``test``, ``predict`` or ``sweep``, and return 0."""
    # news of Lightning's own house, which its users can do nothing about
    warnings.filterwarnings("ignore", r"(?s)\s*(By default only one|.*was deprecated in v4)")
    warnings.filterwarnings("ignore", r".isinstance\(treespec, LeafSpec\)", FutureWarning)
    # data without a validation part, as in the paper's protocol; the callback says so
    warnings.filterwarnings("ignore", "Total length of `list` across ranks is zero")
    warnings.filterwarnings("ignore", "The dirpath has changed from")  # a new folder every run
    # sys.argv stays as it is: with it Lightning starts the program again, once for each device
    warnings.filterwarnings("ignore", "LightningCLI's args parameter is intended")
    logging.getLogger("pytorch_lightning").setLevel(logging.WARNING)
    interruption = Interruption()
    command_line = _of_one_command(words, made_by or CommandLine)
    strict: dict[str, Any] = {"exit_on_error": False, "allow_abbrev": False}
    try:
        command_line(
            LightningModule,
            LightningDataModule,
            subclass_mode_model=True,
            subclass_mode_data=True,
            trainer_class=SweepingTrainer,
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
            parser_kwargs={
                name: strict | {"usage": f"ewnprune {name} [OPTIONS]"}  # else 60 lines of options
                for name in command_line.subcommands()
            }
            | strict,
            args=_with_values(words),
        )
    except BaseException as error:
        interruption.remove_stillborn()
        if isinstance(error, SystemExit) and isinstance(error.__context__, KeyboardInterrupt):
            raise KeyboardInterrupt from None  # Lightning exits with 1 after Ctrl-C
        raise
    return 0


def _of_one_command(words: list[str], whole: "type[CommandLine]") -> "type[CommandLine]":
    """With the parser of the command that is called alone: each takes a twentieth of a second."""
    known = whole.subcommands()
    if not words or words[0] not in known:  # --config comes before the command
        return whole
    called = {words[0]: known[words[0]]}
    return type(whole.__name__, (whole,), {"subcommands": staticmethod(lambda: called)})


def _with_values(words: list[str]) -> list[str]:
    """``--per_layer`` alone is true; jsonargparse wants a value after it.

    >>> _with_values(["sweep", "--per_layer", "--split=test"])
    ['sweep', '--per_layer=true', '--split=test']
    """
    alone = [after.startswith("-") for after in [*words[1:], "-"]]
    flags = ("--per_layer", "--per-layer")
    return [
        "--per_layer=true" if word in flags and flag else word
        for word, flag in zip(words, alone, strict=True)
    ]


class CommandLine(LightningCLI):
    """LightningCLI with the callback built in, and ``sweep`` among its commands."""

    @staticmethod
    def subcommands() -> dict[str, set[str]]:
        return {**LightningCLI.subcommands(), "sweep": {"model", "datamodule"}}

    def parse_arguments(self, parser: LightningArgumentParser, args: ArgsType) -> None:
        self._parse_words(parser, args)
        # a run's config says where runs go, so what says it of a sweep is the command line
        place = ("--trainer.default_root_dir", "--trainer.logger")
        told = isinstance(args, list) and any(word.startswith(place) for word in args)
        self._beside_run = self.config.subcommand == "sweep" and not told
        self._add_recipe(parser, args)
        config = self.config[self.config.subcommand]
        config.prune.scores = [score_name(score) for score in config.prune.scores]
        if config.prune.finetune is not None:
            config.prune.finetune.score = score_name(config.prune.finetune.score)
        checkpoint = config.get("ckpt_path")
        # without weights_only the user trusts the file, and Lightning reads it
        if checkpoint not in (None, "best", "last", "hpc") and config.weights_only is not False:
            config.ckpt_path = checkpoint = str(local_path(checkpoint))
            content = read_checkpoint(checkpoint, map_location="meta")  # or an error, now
            if "pytorch-lightning_version" not in content:
                raise ValueError(
                    f"{checkpoint}: expected a checkpoint that Lightning wrote, and it has no "
                    "'pytorch-lightning_version'; load other weights in your model's own code"
                )

    def _add_recipe(self, parser: LightningArgumentParser, words: Any) -> None:
        """Spell out the recipe that is asked for: a run's folder keeps what it was made of."""
        command = self.config.subcommand
        recipe = self.config[command].prune.pop("recipe", None)
        if recipe is not None:
            self._parse_words(parser, with_recipe(words, command, recipe))
            self.config[command].prune.pop("recipe")
            needed = [command, f"--ckpt_path={self.config[command].get('ckpt_path')}"]
            alone = parser.parse_args(with_recipe(needed, command, recipe))
            put_first(self.config[command], alone[command].trainer.callbacks)

    def _parse_words(self, parser: LightningArgumentParser, words: Any) -> None:
        try:
            super().parse_arguments(parser, words)
        except ArgumentError as error:
            message = str(error)
            corrected = with_class_names(words, message)
            if corrected != words:
                self._parse_words(parser, corrected)
                return
            options = {
                option
                for command, subparser in self._subcommand_parsers.items()
                if command in words
                for option in subparser._option_string_actions
            }
            required = re.search(r'required: \w+\.(\w+)|Key "\w+\.(\w+)" is required', message)
            if required:
                message = f"the option --{required[1] or required[2]} is required"
            raise UsageError(class_error(unknown_option(message, options))) from error

    def _parse_ckpt_path(self) -> None:
        """Take no class names from a checkpoint, as Lightning would: a file is not to run code."""

    def add_arguments_to_parser(self, parser: LightningArgumentParser) -> None:
        parser.add_lightning_class_args(WeightNormPruning, "prune")
        parser.add_argument(
            "--prune.recipe",
            type=Literal["prunable"] | None,
            help="callbacks that make networks easier to prune, see docs/recipe.md",
        )
        parser.set_defaults(
            {
                "prune.parametrization": {"class_path": "ewnprune.EWN"},
                "model": {
                    "class_path": _USUAL[0],
                    "init_args": {"network": {"class_path": "lightning_modules.MLP"}},
                },
                "data": {"class_path": _USUAL[1]},
            }
        )

    def _prepare_subcommand_parser(
        self, klass: type, subcommand: str, **kwargs: Any
    ) -> LightningArgumentParser:
        parser = super()._prepare_subcommand_parser(klass, subcommand, **kwargs)
        # a checkpoint is data, not code, unless the user says otherwise
        parser.set_defaults({"weights_only": True})
        return parser

    def instantiate_classes(self) -> None:
        try:
            super().instantiate_classes()
        except (ValueError, MisconfigurationException) as error:
            # of a constructor: an option has a value that it cannot have
            raise UsageError(str(error)) from error

    def instantiate_trainer(self, **kwargs: Any) -> Trainer:
        given = self.config_init[self.subcommand]["trainer"]
        callbacks = given.callbacks if isinstance(given.callbacks, list) else [given.callbacks]
        added = self.trainer_defaults["callbacks"]
        its_own = any(isinstance(callback, ProgressBar) for callback in callbacks)
        # None means yes
        if given.enable_progress_bar is not False and not given.barebones and not its_own:
            added.append(progress_bar())
        writers = any(isinstance(callback, BasePredictionWriter) for callback in callbacks)
        if self.subcommand == "predict" and not writers:
            added.append(PredictionFile())
        if given.barebones:  # which has no logger
            given.logger = None
        if self._beside_run:
            self.save_config_callback = None  # that of the run stays
            given.logger = False if type(given.logger) is CSVLogger else given.logger
        if type(given.logger) is CSVLogger:
            options = self.config[self.subcommand].trainer.logger.init_args.as_dict()
            given.logger = logger_of_run(options, given.default_root_dir)
        trainer = super().instantiate_trainer(**kwargs)
        put_behind(trainer.callbacks)  # type: ignore[attr-defined]  # it comes last, as forced
        for callback in self.trainer_defaults["callbacks"]:
            if isinstance(callback, Interruption):
                callback.remember(trainer)
        return trainer

    def _run_subcommand(self, subcommand: str) -> None:
        with safe_globals(HARMLESS):  # it is Lightning that reads the checkpoint here
            super()._run_subcommand(subcommand)

    def before_fit(self) -> None:
        self._pruning().curves.beside = plain_beside(self.config.fit, self.parser.parse_args)

    def before_sweep(self) -> None:
        if self._beside_run:
            self._pruning().curves.folder = folder_of_run(self.config.sweep.ckpt_path)

    def before_validate(self) -> None:
        if self.config[self.subcommand].ckpt_path is None and self.trainer.is_global_zero:
            print("ewnprune: the network is untrained: no --ckpt_path was given", flush=True)

    before_test = before_predict = before_validate

    def after_fit(self) -> None:
        trainer: Any = self.trainer
        folder = run_folder(trainer)
        if trainer.is_global_zero and not trainer.fast_dev_run:
            checkpoint = str(getattr(trainer.checkpoint_callback, "best_model_path", ""))
            compares = [self.config.fit[part].class_path for part in ("model", "data")] == _USUAL
            curve = self._pruning().curve
            print(closing_lines(folder, curve, checkpoint, compares), flush=True)

    def _pruning(self) -> WeightNormPruning:
        callbacks: list[Any] = self.trainer.callbacks  # type: ignore[attr-defined]
        return next(each for each in callbacks if isinstance(each, WeightNormPruning))
