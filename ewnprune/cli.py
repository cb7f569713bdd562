"""The command ``ewnprune``: LightningCLI with the callback built in."""

import importlib
import os
import re
import sys
from argparse import ArgumentError
from collections.abc import Sequence
from importlib.resources import files
from pathlib import Path

import yaml

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
        print(HELP.format(configs=", ".join(_shipped_configs())), end="")
        return 0
    if words[0] == "--version":
        from ewnprune import __version__

        print(f"ewnprune {__version__}")
        return 0
    try:
        if words[0] in _FUNCTIONS:
            return _run_function(_FUNCTIONS[words[0]], words)
        # imported here: Lightning takes seconds, and asking for help should not
        from ewnprune.lightning_cli import run

        run(_with_config_paths(words))
    except KeyboardInterrupt:
        return 130
    except Exception as error:
        if os.environ.get("EWNPRUNE_TRACEBACK"):
            raise
        print(f"ewnprune: error: {_one_line(error)}", file=sys.stderr)
        return 1
    return 0


# commands that are a function with typed arguments, by where it lies; the others are LightningCLI's
_FUNCTIONS: dict[str, str] = {
    "reproduce": "ewnprune.experiments.reproduce:reproduce",
    "export": "ewnprune.export:export",
    "compare": "ewnprune.study:compare",
    "report": "ewnprune.report:report",
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


def _one_line(error: Exception) -> str:
    text = " ".join(str(error).split())
    # jsonargparse lists every type it tried, None among them, and the whole value: the reason is
    # what stands between
    text = re.sub(
        r"Does not validate against any of the Union subtypes Subtypes: .*?\] Errors: ", "", text
    )
    text = re.sub(
        r" Given value type: .*? Given value: (?!Namespace|NestedArg)(\S+).*", r"; got \1", text
    )
    text = re.sub(r" Given value type: .*", "", text)
    text = text.replace("- Expected a <class 'NoneType'>", "")
    parts = [part.strip().removeprefix("- ") for part in text.split(" - ")]
    text = "; ".join(dict.fromkeys(part for part in parts if part)).replace(":;", ":")
    if "loading state_dict" in text:
        text = (
            f"the checkpoint is of another model ({text[:200]}...): give the --config that it was "
            "trained with"
        )
    expected = (ValueError, TypeError, RuntimeError, OSError, ArgumentError)
    return text if isinstance(error, expected) and text else f"{type(error).__name__}: {text}"


def _configs_folder() -> Path:
    """Inside the wheel, or beside the package in a checkout."""
    package = Path(str(files("ewnprune")))
    return next(
        folder for folder in (package / "configs", package.parent / "configs") if folder.is_dir()
    )


def _shipped_configs() -> list[str]:
    return sorted(path.name for path in _configs_folder().glob("*.yaml"))


def _with_config_paths(words: list[str]) -> list[str]:
    """Replace the name of a shipped config by its path; a file of that name comes first."""
    found = list(words)
    for i, word in enumerate(words):
        if word.startswith("--config="):
            found[i] = f"--config={_config_path(word.removeprefix('--config='))}"
        elif word == "--config" and i + 1 < len(words):
            found[i + 1] = _config_path(words[i + 1])
    return found


def _config_path(name: str) -> str:
    shipped = _configs_folder() / name
    path = shipped if not Path(name).exists() and Path(name).name == name else Path(name)
    if not path.is_file():
        raise FileNotFoundError(
            f"--config {name}: there is no such file, and the shipped ones are "
            f"{', '.join(_shipped_configs())}"
        )
    try:
        yaml.safe_load(path.read_text(encoding="utf-8"))
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise ValueError(f"--config {name}: this is no YAML file: {error}") from error
    return str(path)
