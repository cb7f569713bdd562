"""What ``ewnprune fit`` does with no options: the recipe, and plain training drawn in."""

import json
import re
from collections.abc import Callable, Sequence
from typing import Any

from ewnprune.callback.recipe import with_recipe
from ewnprune.configs import shipped_config
from ewnprune.curve.curve import Curve
from ewnprune.curve.files import read_curve

_CONFIG = shipped_config("first_run.yaml")
_PLAIN = shipped_config("first_run_plain.csv")
_SAYS_WHAT = re.compile(r"-c|--(config|model|data|prune)([.=+]|$)")  # -cFILE too
# the Trainer's options that change nothing of what is trained; callbacks are what differs
_ELSEWHERE = (
    *("callbacks", "logger", "default_root_dir", "accelerator", "devices"),
    *("enable_progress_bar", "enable_model_summary", "enable_checkpointing"),
)


def with_first_run(words: Sequence[str]) -> list[str]:
    """``fit`` that says nothing of what to train, with the config of the first run below it.

    >>> with_first_run(["fit", "--trainer.max_epochs=9"])[1::2]
    ['--config', '--trainer.max_epochs=9']
    >>> with_first_run(["fit", "--data.batch_size=64"])
    ['fit', '--data.batch_size=64']
    """
    if words[0] != "fit" or any(_SAYS_WHAT.match(word) for word in words):
        return [*words]
    return ["fit", "--config", str(_CONFIG), *words[1:]]


def plain_beside(config: Any, parse: Callable[[list[str]], Any]) -> Curve:
    """The stored curve of plain training, if it is one of a run's settings; else an empty one.

    Args:
        config: of ``fit``, as jsonargparse has it, with the recipe spelled out.
        parse: from words to what they are as such a config.
    """
    if config.data.class_path != "lightning_modules.MNISTDataModule":
        return Curve()  # at once: to parse takes a while
    words = with_recipe(["fit", "--config", str(_CONFIG)], "fit", "prunable")
    first = parse(words).fit
    del first.prune["recipe"]
    if _what_is_trained(config) != _what_is_trained(first):
        return Curve()
    return read_curve(_PLAIN).tagged(method="plain training, stored")


def _what_is_trained(config: Any) -> Any:
    parts = {name: config[name].as_dict() for name in ("model", "data", "prune", "trainer")}
    for name in _ELSEWHERE:
        del parts["trainer"][name]
    return json.loads(json.dumps(parts, default=str))  # a tuple is a list where a file was read
