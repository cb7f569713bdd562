"""The command ``ewnprune``: LightningCLI with the callback built in."""

import importlib
import os
import re
import sys
from argparse import ArgumentError
from collections.abc import Sequence
from functools import partial
from typing import Any

from ewnprune.configs import shipped_configs, with_config_paths
from ewnprune.errors import UsageError, exit_status, nearest, unknown_option

HELP = """\
usage: ewnprune COMMAND [OPTIONS]

Train networks so that their neurons can be pruned, and see how well they were.

  ewnprune fit         train, prune at many levels, show accuracy against
                       sparsity; with no options MNIST, made to be pruned,
                       beside plain training: under two minutes
  ewnprune sweep       the same curve for a checkpoint, on validation or test
                       data, beside its run
  ewnprune validate    what Lightning does, and the curve on validation data
  ewnprune test        what Lightning does, and the curve on test data
  ewnprune predict     the network's outputs, in predictions.pt
  ewnprune export      the smaller network of a run, as a file that needs no
                       ewnprune
  ewnprune compare     methods x seeds, with baselines, statistics and what they
                       cannot show; with no options none, swn, ewn on MNIST
  ewnprune report      what compare found, as one HTML page
  ewnprune reproduce   the paper's experiments, and which acceptance criteria
                       hold
  ewnprune completion  a script that completes all this in bash, zsh or tcsh

Most used options of fit:
  --config NAME.yaml                     a file of your own, or a shipped one:
{configs}
  --prune.parametrization EWN|SWN|null   null is plain training, the baseline
  --prune.sparsities "[0, 0.5, 0.9]"     levels to prune at
  --prune.scores "[norm, taylor]"        which neurons go first
  --prune.recipe prunable                EWN, and callbacks that help pruning
  --model my.Model --data my.Data        your own classes, here of a file my.py
  --trainer.max_epochs N                 how long
  --trainer.default_root_dir FOLDER      where runs/version_N goes
  --seed_everything N                    the seed
  --ckpt_path FILE                       go on from a checkpoint
  --print_config                         everything, as YAML
  --help                                 everything, explained

EWNPRUNE_TRACEBACK=1 in the environment shows the whole traceback of an error.
The exit status is 0; 2 where the command line asks for what there is not; 1
after other errors; 130 after Ctrl-C.
"""


def main(args: Sequence[str] | None = None) -> int:
    """Run a command line.

    Args:
        args: the words after ``ewnprune``; by default those of ``sys.argv``.

    Returns:
        The exit status: 0, or as `exit_status` has it after an error (one line on stderr).
    """
    words = list(sys.argv[1:] if args is None else args)
    if not words or words[0] in ("-h", "--help"):
        print(HELP.format(configs="\n".join(f"    {name}" for name in shipped_configs())), end="")
        return 0
    if words[0] == "--version":
        from ewnprune import __version__

        print(f"ewnprune {__version__}")
        return 0
    return exit_status(partial(_run, words))


def _run(words: list[str]) -> int:
    _check_command(words[0])
    here = _current_folder(words[0])
    sys.path += here
    try:
        if words[0] in _FUNCTIONS:
            return _run_function(_FUNCTIONS[words[0]], words)
        # imported here: Lightning takes seconds, and asking for help should not
        from ewnprune.callback.command import run
        from ewnprune.callback.first_run import with_first_run

        return run(with_config_paths(with_first_run(words)))
    finally:
        for folder in here:
            sys.path.remove(folder)


def _current_folder(command: str) -> list[str]:
    """Where to look for a file of the user's that a command names, after all that is installed.

    Not first: a folder of somebody else's may hold a scipy.py.
    """
    known = bool({"", os.getcwd()} & set(sys.path))  # as with python -m
    if command in _WITHOUT_CLASSES or sys.flags.safe_path or known:
        return []
    return [os.getcwd()]


# commands that are a function with typed arguments, by where it lies; the others are LightningCLI's
_FUNCTIONS: dict[str, str] = {
    "reproduce": "ewnprune.experiments.command:reproduce",
    "export": "ewnprune.export.command:export",
    "compare": "ewnprune.study.command:compare",
    "report": "ewnprune.study.page:report_command",
    "completion": "ewnprune.completion:print_completion",
}
_WITHOUT_CLASSES = ("reproduce", "report", "completion")  # no option of theirs names any
_COMMANDS = ("fit", "sweep", "validate", "test", "predict", *_FUNCTIONS)


def _check_command(word: str) -> None:
    if word in _COMMANDS or re.match(r"(-c|--config)(=|$)", word):  # LightningCLI's, for a command
        return
    listed = f"the commands are {', '.join(_COMMANDS)}"
    if word.startswith("-"):
        meant = nearest(word, ("--help", "--version"))
        raise UsageError(f"{word} comes before a command{meant or ':'} {listed}")
    meant = nearest(word, _COMMANDS)
    raise UsageError(f"there is no command {word!r}{meant}{'' if meant else ':'} {listed}")


def command_parsers() -> dict[str, Any]:
    """The parser of every command, by its name: for the shell's completion, and for the reference.

    It takes seconds, for all that the commands need is imported.
    """
    from jsonargparse import auto_parser

    from ewnprune.callback.parsing import parsers_of_training

    of_functions = {
        name: auto_parser(_function(path), prog=f"ewnprune {name}", allow_abbrev=False)
        for name, path in _FUNCTIONS.items()
    }
    every = parsers_of_training() | of_functions
    return {name: every[name] for name in _COMMANDS}


def _function(path: str) -> Any:
    module, _, name = path.partition(":")
    return getattr(importlib.import_module(module), name)


def _run_function(path: str, words: list[str]) -> int:
    from jsonargparse import ArgumentParser, auto_cli

    class Parser(ArgumentParser):
        def error(self, message: str, ex: Exception | None = None) -> Any:
            raise ArgumentError(None, unknown_option(message, self._option_string_actions)) from ex

    # --max-drop for --max_drop, as most commands have it
    args = [re.sub(r"^--[\w-]+", lambda m: "--" + m[0][2:].replace("-", "_"), w) for w in words[1:]]
    status = auto_cli(
        _function(path),
        args=args,
        prog=f"ewnprune {words[0]}",
        exit_on_error=False,
        allow_abbrev=False,
        parser_class=Parser,
    )
    return int(status or 0)
