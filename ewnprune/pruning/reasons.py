"""Refusals in one line: which layers, why, and what to do, however many there are."""

from collections.abc import Mapping

LONGEST = 300
"""Characters of a message at most."""


def refusal(what: str, reasons: Mapping[str, str], remedy: str) -> str:
    """``what 'layer' (reason); ...: remedy``, with up to three layers and reasons cut to fit.

    Args:
        what: what is refused.
        reasons: for each layer why.
        remedy: what to do; ``{layers}`` in it becomes the names.

    >>> print(refusal("none goes:", {"a": "why", "b": "why not"}, "use exclude={layers}"))
    none goes: 'a' (why); 'b' (why not): use exclude=['a', 'b']
    >>> long = {f"layer{number}": "because" for number in range(9)}
    >>> print(refusal("none goes:", long, "use exclude={layers}"))  # doctest: +NORMALIZE_WHITESPACE
    none goes: 'layer0' (because); 'layer1' (because); 'layer2' (because); and 6 more: use
    exclude=['layer0', 'layer1', 'layer2', ...]
    """
    for count in (3, 2, 1):
        names = [*reasons][:count]
        left = len(reasons) - len(names)
        end = remedy.replace("{layers}", repr(names)[:-1] + (", ...]" if left else "]"))
        end = (f"; and {left} more" if left else "") + f": {end}"
        around = len(what) + len(end) + sum(len(repr(name)) + 5 for name in names)
        room = (LONGEST - around) // len(names)
        if room >= 40:
            break
    told = [f"{name!r} ({cut(reasons[name], room)})" if room > 9 else repr(name) for name in names]
    return f"{what} {'; '.join(told)}{end}"


def cut(text: str, length: int) -> str:
    """A text in one line, no longer than this.

    >>> cut("more than  enough", 12)
    'more than...'
    """
    text = " ".join(text.split())
    return text if len(text) <= length else text[: length - 3].rstrip() + "..."
