"""The command ``ewnprune``: LightningCLI with the callback built in."""

import importlib
import re
import sys
from collections.abc import Sequence
from functools import partial

from ewnprune.configs import shipped_configs, with_config_paths
from ewnprune.errors import exit_status

HELP = """\
usage: ewnprune COMMAND [OPTIONS]

Train networks so that their neurons can be pruned, and see how well they were.

  ewnprune fit         train, prune at many levels, show accuracy against sparsity;
                       with no options: MNIST, 784-1024-10, EWN, a few epochs
  ewnprune sweep       the same curve for a checkpoint, on validation or test data
  ewnprune validate, test, predict
                       what Lightning does, with the curve after validate and test
  ewnprune reproduce   the paper's experiments, and which acceptance criteria hold
  ewnprune export      the smaller network of a run, as a file that needs no ewnprune
  ewnprune compare     methods x seeds, with baselines, statistics and what they cannot show;
                       with no options: none, swn, ewn on MNIST, 3 seeds
  ewnprune report      what compare found, as one HTML page

Most used options of fit:
  --config NAME.yaml                        one of: {configs},
                                            or a file of your own
  --prune.parametrization EWN|SWN|null      null is plain training, the baseline
  --prune.sparsities "[0, 0.5, 0.9]"        levels to prune at
  --prune.scores "[norm, norm_product]"     which neurons go first
  --model CLASS --data CLASS                any LightningModule and LightningDataModule
  --trainer.max_epochs N                    how long
  --seed_everything N                       the seed
  --ckpt_path FILE                          go on from a checkpoint
  --print_config                            everything, as YAML
  --help                                    everything, explained

EWNPRUNE_TRACEBACK=1 in the environment shows the whole traceback of an error.
"""


def main(args: Sequence[str] | None = None) -> int:
    """Run a command line.

    Args:
        args: the words after ``ewnprune``; by default those of ``sys.argv``.

    Returns:
        The exit status: 0, 1 after an error (one line on stderr), 130 after Ctrl-C.
    """
    words = list(sys.argv[1:] if args is None else args)
    if not words or words[0] in ("-h", "--help"):
        print(HELP.format(configs=", ".join(shipped_configs())), end="")
        return 0
    if words[0] == "--version":
        from ewnprune import __version__

        print(f"ewnprune {__version__}")
        return 0
    return exit_status(partial(_run, words))


def _run(words: list[str]) -> int:
    if words[0] in _FUNCTIONS:
        return _run_function(_FUNCTIONS[words[0]], words)
    # imported here: Lightning takes seconds, and asking for help should not
    from ewnprune.callback.command import run

    return run(with_config_paths(words))


# commands that are a function with typed arguments, by where it lies; the others are LightningCLI's
_FUNCTIONS: dict[str, str] = {
    "reproduce": "ewnprune.experiments.command:reproduce",
    "export": "ewnprune.export.command:export",
    "compare": "ewnprune.study.command:compare",
    "report": "ewnprune.study.page:report",
}


def _run_function(path: str, words: list[str]) -> int:
    from jsonargparse import auto_cli

    module, _, name = path.partition(":")
    function = getattr(importlib.import_module(module), name)
    program = f"ewnprune {words[0]}"
    # --max-drop for --max_drop, as most commands have it
    args = [re.sub(r"^--[\w-]+", lambda m: "--" + m[0][2:].replace("-", "_"), w) for w in words[1:]]
    status = auto_cli(function, args=args, prog=program, exit_on_error=False)
    return int(status or 0)
