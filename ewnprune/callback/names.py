"""Classes and scores as they are named on a command line: in any case, and the nearest one."""

import inspect
import re
import sys
import typing
from collections.abc import Iterator
from typing import Any

from pytorch_lightning import Callback, LightningDataModule, LightningModule
from pytorch_lightning.loggers import Logger
from torch import nn
from torch.optim import Optimizer
from torch.optim.lr_scheduler import LRScheduler
from torchmetrics import Metric

from ewnprune.errors import nearest, without_other_tries
from ewnprune.pruning import scores
from ewnprune.training.parametrizations import NeuronParametrization

# what an option that takes a class takes
_KINDS = {
    "prune.parametrization": NeuronParametrization,
    "prune.metric": Metric,
    "model": LightningModule,
    "data": LightningDataModule,
    "trainer.callbacks": Callback,
    "trainer.logger": Logger,
}
_ROOTS = (nn.Module, LightningDataModule, Callback, Logger, Optimizer, LRScheduler)
_MANY = 12  # more choices than these are no help


def score_name(name: Any) -> Any:
    """The score that is called so, whatever the case; anything else as it is.

    >>> score_name("Norm_Product"), score_name("mine.Score")
    ('norm_product', 'mine.Score')
    """
    known = {score.casefold(): score for score in scores.__all__ if score.islower()}
    return known.get(name.casefold(), name) if isinstance(name, str) else name


def with_class_names(words: list[str], message: str) -> list[str]:
    """Write the class that jsonargparse did not find as it is, if only its case is wrong.

    Args:
        words: of a command line.
        message: what jsonargparse says of them.
    """
    wrong = re.search(r"Expected a dot import path string: (\w+)", message)
    if wrong is None:
        return words
    key = re.search(r'Parser key "([\w.]+)":', message)
    kinds = [_KINDS[key[1]]] if key and key[1] in _KINDS and not _nested(message) else _ROOTS
    found = {name for name in _subclasses(*kinds) if name.casefold() == wrong[1].casefold()}
    if len(found) != 1:
        return words
    (right,) = found
    named = ".".join(re.findall(r'Parser key "([\w.]+)":', message[: wrong.start()]))
    option, corrected = "", []
    for word in words:
        if word.startswith("--"):
            option = word.partition("=")[0]
        if _without_levels(option) == _without_levels(named):  # another may have that very value
            word = re.sub(rf"^((?:--[^=]*=)?\[?){wrong[1]}(\]?)$", rf"\1{right}\2", word)
        corrected.append(word)
    return corrected


def _without_levels(option: str) -> str:
    """``--model.init_args.network`` as it may be typed and as it is named: ``model.network``."""
    parts = option.lstrip("-").rstrip("+").split(".")
    return ".".join(part for part in parts if part not in ("init_args", "class_path"))


def class_error(message: str) -> str:
    """What jsonargparse says of a class, or of an option of one, as a person would say it."""
    text = " ".join(without_other_tries(message).split())
    option = "--" + ".".join(re.findall(r'Parser key "([\w.]+)":', text))
    unknown = re.search(r"Expected a dot import path string: (\S*)", text)
    if unknown:
        choices = _choices(text)
        listed = f" choose among {', '.join(choices)}, or" if 0 < len(choices) <= _MANY else ""
        what = f"{option}: there is no class {unknown[1]!r}" + nearest(unknown[1], choices)
        mark = "" if what.endswith("?") else ":"
        return f"{what}{mark}{listed} give an import path such as my_file.MyClass"
    missing = re.search(r"given class_path '((\w+)[\w.]*)': No module named '(\w+)[\w.]*'", text)
    if missing:
        path, file, module = missing.groups()
        what = f"{option} {path}: there is no module {module!r}"
        wanted = f"a file {module}.py in the current folder, or an installed package"
        return f"{what}{', which it imports' if module != file else ''}: expected {wanted}"
    absent = re.search(r"Problem with given class_path '([\w.]+)\.(\w+)': module '.*' has no", text)
    if absent:
        inside = [name for name in dir(sys.modules.get(absent[1])) if not name.startswith("_")]
        return f"{option}: {absent[1]} has no {absent[2]!r}" + nearest(absent[2], inside)
    taken = re.search(
        r".*given class_path '([\w.]+)': (?:Validation failed: )?(?:Option|Key) '([\w.]+)' is not",
        text,
    )
    if taken:
        options = _options(taken[1])
        name = taken[1].rpartition(".")[2]
        listed = f" ({name} has {', '.join(options)})" if 0 < len(options) <= _MANY else ""
        return f"{option}: {name} has no option {taken[2]!r}{listed}" + nearest(taken[2], options)
    lacking = re.search(
        r".*given class_path '[\w.]*?(\w+)': the following arguments are required: "
        r"([\w.]+(?:, [\w.]+)*)",
        text,
    )
    if lacking:
        return f"{option}: {lacking[1]} needs a value for {lacking[2]}"
    return message


def _nested(message: str) -> re.Match[str] | None:
    """The class and its option where the class was expected."""
    return re.search(
        r".*Problem with given class_path '([\w.]+)':\s*Parser key \"(\w+)\":", message, re.DOTALL
    )


def _choices(message: str) -> list[str]:
    inner = _nested(message)
    kinds: tuple[type, ...] = ()
    if inner is None:
        (key, *_) = re.findall(r'Parser key "([\w.]+)":', message) or [""]
        kinds = (_KINDS[key],) if key in _KINDS else ()
    elif owner := _class(inner[1]):
        named = set(_classes_in(typing.get_type_hints(owner.__init__).get(inner[2])))
        kinds = tuple(named - set(_ROOTS))  # of MLP | CNN | nn.Module the first two
    return sorted(_subclasses(*(kinds or _ROOTS)))


def _classes_in(hint: Any) -> Iterator[type]:
    """The classes of a type hint that a command line may name subclasses of."""
    if isinstance(hint, list):  # the arguments of a Callable
        return
    if inspect.isclass(hint) and issubclass(hint, _ROOTS):
        yield hint
    for part in typing.get_args(hint):
        yield from _classes_in(part)


def _subclasses(*kinds: type) -> set[str]:
    """Names of all public concrete subclasses that are imported."""
    found, waiting = set(), list(kinds)
    while waiting:
        kind = waiting.pop()
        waiting += kind.__subclasses__()
        path = f"{kind.__module__}.{kind.__qualname__}"
        named = "._" not in path and "<" not in path and not inspect.isabstract(kind)
        if named and kind not in (*_ROOTS, *_KINDS.values()):
            found.add(kind.__name__)
    return found


def _class(path: str) -> Any:
    module, _, name = path.rpartition(".")
    return getattr(sys.modules.get(module), name, None)


def _options(path: str) -> list[str]:
    kind = _class(path)
    names = inspect.signature(kind).parameters.values() if kind else []
    return [p.name for p in names if p.kind is not p.VAR_KEYWORD]
