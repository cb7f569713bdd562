"""A recipe that a command line asks for by name, spelled out in its config."""

from collections.abc import Sequence
from typing import Any

from ewnprune.configs import shipped_config

_OF_THE_MODEL = ("layers", "exclude", "batch", "forward")


def with_recipe(words: Sequence[str], command: str, recipe: str) -> list[str]:
    """Words with the recipe's config below all that they give.

    >>> words = with_recipe(["fit", "--config", "mine.yaml"], "fit", "prunable")
    >>> words[0], words[1], words[3:]
    ('fit', '--config', ['--config', 'mine.yaml'])
    """
    place = [*words].index(command) + 1
    below = ["--config", str(shipped_config(f"{recipe}.yaml"))]
    return [*words[:place], *below, *words[place:]]


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
