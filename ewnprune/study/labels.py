"""`Label`: what the points of a study are called; no other file knows how it is spelled."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from typing import Any

from ewnprune.curve.points import CurvePoint
from ewnprune.errors import UsageError

_SETTINGS = " @ "


@dataclass(frozen=True)
class Label:
    """A method, which of its candidates, and the settings that the study varies.

    Attributes:
        method: the method's name.
        candidate: such as a strength; empty where the method has none.
        settings: options that vary, see `describe`; empty where none does.

    >>> label = Label.parse("lasso[0.1] @ epochs=5")
    >>> label
    Label(method='lasso', candidate='0.1', settings='epochs=5')
    >>> str(label), str(label.chosen())
    ('lasso[0.1] @ epochs=5', 'lasso @ epochs=5')
    """

    method: str
    candidate: str = ""
    settings: str = ""

    @classmethod
    def parse(cls, text: str) -> "Label":
        """The label that prints so."""
        trained, _, settings = text.partition(_SETTINGS)
        method, _, candidate = trained.partition("[")
        return cls(method, candidate.removesuffix("]"), settings)

    def __str__(self) -> str:
        """As in the files of a study."""
        candidate = f"[{self.candidate}]" if self.candidate else ""
        return f"{self.method}{candidate}" + (self.settings and _SETTINGS + self.settings)

    def chosen(self) -> "Label":
        """The label of a candidate once it is the one that was chosen."""
        return replace(self, candidate="")


def describe(settings: Mapping[str, Any]) -> str:
    """Options that vary, as a part of a label.

    >>> describe({"trainer.max_epochs": 5, "model.init_args.hidden": [32, 8]})
    'max_epochs=5, hidden=(32, 8)'
    """
    text = ", ".join(f"{key.rpartition('.')[2]}={value}" for key, value in settings.items())
    return text.replace("[", "(").replace("]", ")")  # brackets are for candidates


def check_names(method: str, candidates: Iterable[str] = ()) -> None:
    """Refuse names that could not be told apart again in a label, or that name no folder.

    Raises:
        UsageError: such a name.
    """
    if set(method) & set("[]@/"):
        raise UsageError(f"method name {method!r}: expected one without [, ], @ and /")
    for name in map(str, candidates):
        if set(name) & set("[]") or _SETTINGS in name or not name:
            raise UsageError(
                f"candidate {name!r} of method {method!r}: expected a name without [, ] and @"
            )


def labels_of(points: Iterable[CurvePoint]) -> list[str]:
    """The labels of points, in order of first appearance."""
    return list(dict.fromkeys(point.method for point in points))


def seeds_of(points: Iterable[CurvePoint]) -> dict[str, set[int | None]]:
    """The seeds that each label has points of."""
    found: dict[str, set[int | None]] = {}
    for point in points:
        found.setdefault(point.method, set()).add(point.seed)
    return found
