"""A recipe that a command line asks for by name, spelled out in its config."""

from collections.abc import Sequence
from typing import Any

from ewnprune.configs import shipped_config
from ewnprune.errors import UsageError

_OF_THE_MODEL = ("layers", "exclude", "batch", "forward")


def with_recipe(words: Sequence[str], command: str, recipe: str) -> list[str]:
    """Words with the recipe's config below all that they give.

    >>> words = with_recipe(["fit", "--config", "mine.yaml"], "fit", "prunable")
    >>> words[0], words[1], words[3:]
    ('fit', '--config', ['--config', 'mine.yaml'])

    Raises:
        UsageError: a config comes before the command, and nothing can be laid below that.
    """
    if words[0] != command:
        raise UsageError(
            f"prune.recipe {recipe} goes with no config of several commands: expected the options "
            f"of {command} in a file of their own, as in ewnprune {command} --config FILE"
        )
    return [command, "--config", str(shipped_config(f"{recipe}.yaml")), *words[1:]]


def put_first(config: Any, its_own: Sequence[Any]) -> None:
    """The recipe's callbacks before the others, for the same layers and batches as ``prune``.

    Args:
        config: of a command, as jsonargparse has it.
        its_own: the callbacks of the recipe, as they are there.
    """
    given = config.trainer.callbacks
    given = given if isinstance(given, list) else [given] if given else []
    if given[: len(its_own)] != its_own:  # a list of callbacks took the place of the recipe's
        given = [*its_own, *given]
    for callback in given[: len(its_own)]:
        for key in _OF_THE_MODEL:
            if callback.init_args.get(key, ...) is None:
                callback.init_args[key] = config.prune[key]
    config.trainer.callbacks = given
