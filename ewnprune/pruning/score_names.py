"""Scores by name, by import path, or as functions of one's own."""

import importlib
import inspect
from collections.abc import Callable, Iterable, Sequence

from torch import Tensor

from ewnprune.pruning import scores as known
from ewnprune.pruning.scores import FROM_DATA, Neurons

Score = Callable[[Neurons], Tensor]

SCORE = "norm_with_bias_product"
"""The score where none is given: `ewnprune.scores` and docs/recipe.md say what it counts."""


def find_scores(wanted: str | Score | Sequence[str | Score]) -> dict[str, Score]:
    """Scores by the name they go by.

    Args:
        wanted: names of functions of `ewnprune.scores`, import paths
            (``"package.module.function"``), functions, or a sequence of these.

    Raises:
        ValueError: no such score, or one is given twice.
        TypeError: something that is no score.

    >>> list(find_scores(["norm", "ewnprune.scores.random"]))
    ['norm', 'ewnprune.scores.random']
    """
    several = [wanted] if isinstance(wanted, str) or callable(wanted) else wanted
    if not isinstance(several, Iterable):
        raise TypeError(f"scores={wanted!r}: expected a name, a function, or some of them")
    found: dict[str, Score] = {}
    for item in several:
        name = item if isinstance(item, str) else getattr(item, "__name__", type(item).__name__)
        if name in found:
            raise ValueError(f"score {name!r} is given twice: give each score once")
        found[name] = _find(item) if isinstance(item, str) else item
        if not callable(found[name]):
            raise TypeError(f"score {item!r}: expected a function of ewnprune.scores.Neurons")
    if not found:
        raise ValueError(f"no score is given: choose among {_choices()}")
    return found


def _find(path: str) -> Score:
    module_name, _, function = path.rpartition(".")
    if not module_name:
        if path not in _choices():
            raise ValueError(
                f"unknown score {path!r}: choose among {', '.join(_choices())}, or give an "
                "import path such as 'my_package.my_module.my_score'"
            )
        return getattr(known, path)  # type: ignore[no-any-return]
    try:
        return getattr(importlib.import_module(module_name), function)  # type: ignore[no-any-return]
    except (ImportError, AttributeError) as error:
        raise ValueError(f"score {path!r} cannot be imported: {error}") from error


def _choices() -> list[str]:
    return [
        name
        for name, value in vars(known).items()
        if inspect.isfunction(value) and value.__module__ == known.__name__ and name[0] != "_"
    ]


def asked_of_data(scores: Iterable[str], scope: str) -> list[str]:
    """What of scores and a scope goes by evaluations of the network, in words.

    >>> asked_of_data(["norm", "taylor"], "layer"), asked_of_data(["norm"], "sensitivity")
    (["score 'taylor'"], ["scope='sensitivity'"])
    """
    wanted = [f"score {name!r}" for name in scores if name in FROM_DATA]
    return [*wanted, *(["scope='sensitivity'"] if scope == "sensitivity" else [])]
