"""A Linear layer whose weight lies the other way round, as transformers' GPT-2 has it."""

from abc import ABC


class InOutLinear(ABC):  # noqa: B024  nobody derives from it
    """What GPT-2 has for a Linear: transformers' ``Conv1D``, whose weight is ``(in, out)``.

    That class is known by its name, since transformers need not be installed.

    >>> Conv1D = type("Conv1D", (), {"__module__": "transformers.pytorch_utils"})
    >>> isinstance(Conv1D(), InOutLinear), isinstance(type("Conv1D", (), {})(), InOutLinear)
    (True, False)
    """

    @classmethod
    def __subclasshook__(cls, other: type) -> bool:
        return origin_of(other) is not None


def origin_of(kind: type) -> type | None:
    """The class of transformers that a class is or comes from; None for any other."""
    known = ("transformers.pytorch_utils", "Conv1D")
    return next((cls for cls in kind.__mro__ if (cls.__module__, cls.__name__) == known), None)
