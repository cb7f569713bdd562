"""Errors as a person at a terminal wants them: one line, and an exit status."""

import os
import re
import sys
from argparse import ArgumentError
from collections.abc import Callable, Iterable
from difflib import get_close_matches
from typing import Any, get_args


class UsageError(ValueError):
    """The command line asks for what there is not: the exit status is 2, as it is by custom."""


def exit_status(work: Callable[[], int]) -> int:
    """Do some work; what it returns, or after an error (one line on stderr) 2, 1 or 130.

    2 is for a command line that asks for what there is not, 1 for all other errors, 130 for Ctrl-C.
    ``EWNPRUNE_TRACEBACK=1`` in the environment shows the whole traceback of an error.
    """
    try:
        return work()
    except KeyboardInterrupt:
        return 130
    except Exception as error:
        if os.environ.get("EWNPRUNE_TRACEBACK"):
            raise
        print(f"ewnprune: error: {_one_line(error)}", file=sys.stderr)
        return 2 if isinstance(error, ArgumentError | UsageError) else 1


def check_choice(name: str, value: Any, kind: Any) -> None:
    """Refuse a value that is none of those there are.

    Args:
        name: of the option.
        value: what was given.
        kind: the ``Literal`` of what there is.

    Raises:
        ValueError: it is none of them.

    >>> from typing import Literal
    >>> check_choice("reduction", "max", Literal["none", "mean", "sum"])
    Traceback (most recent call last):
    ValueError: reduction='max': expected 'none', 'mean' or 'sum'
    """
    if value not in get_args(kind):
        *others, last = map(repr, get_args(kind))
        raise ValueError(f"{name}={value!r}: expected {', '.join(others)} or {last}")


def reason_of(error: Exception, most: int) -> str:
    """What went wrong in code of the user's, for a sentence: the error's type, and its text cut.

    Args:
        error: the error.
        most: characters of its text.

    >>> reason_of(ValueError("no such size"), 7)
    'ValueError: no such'
    """
    return f"{type(error).__name__}: {' '.join(str(error).split())[:most]}"


def nearest(word: str, choices: Iterable[str]) -> str:
    """What was meant, as the end of a sentence; nothing where no choice is near.

    >>> nearest("compar", ["fit", "compare"])
    ': did you mean compare?'
    >>> nearest("--max-epoch", ["--trainer.max_epochs", "--trainer.max_steps"])
    ': did you mean --trainer.max_epochs?'
    >>> nearest("zzz", ["fit", "compare"])
    ''
    """
    wanted = _plain(word)
    whole = {_plain(choice): choice for choice in choices}
    known_by = [whole]
    if word.startswith("-"):  # by its last part alone: --max_epochs for --trainer.max_epochs
        ends = {key.rpartition(".")[2]: choice for key, choice in reversed(whole.items())}
        known_by.append(ends)
    for known in known_by:
        if wanted in known:
            return f": did you mean {known[wanted]}?"
    for known in known_by:
        found = get_close_matches(wanted, known, n=1, cutoff=0.6)
        if found:
            return f": did you mean {known[found[0]]}?"
    return ""


def unknown_option(message: str, options: Iterable[str]) -> str:
    """Say of jsonargparse's unrecognized option which the nearest is that there is.

    >>> unknown_option("unrecognized arguments: --sparsty=0.9 x", ["--sparsity", "--score"])
    'there is no option --sparsty: did you mean --sparsity?'
    """
    found = re.match(r"[Uu]nrecognized arguments:\s*(?:(--?\w[^\s=]*)|(\S*))", message)
    if found is None:
        return message
    if found[1] is None:
        return f"unexpected {found[2]!r}: an option begins with --, and its value follows it"
    return f"there is no option {found[1]}" + nearest(found[1], options)


_CLASSES = re.compile(
    r"^( *)Subtypes: .*(?:list|Iterable)\[[\w.]+\.(?:Callback|Logger)\].*\n\1Errors:\n"
    r"((?:\1 .*\n?)*)",
    re.MULTILINE,
)


def without_other_tries(message: str) -> str:
    r"""What jsonargparse says of a class, or of a list, without what else it took the value for.

    >>> said = "Subtypes: [list[a.Callback]]\nErrors:\n  - Expected a list\n"
    >>> said += "  - Problem with given class_path 'a.B':\n      no x\nGiven value: B"
    >>> print(without_other_tries(said).rstrip())
    Subtypes: [list[a.Callback]]
    Errors:
      - Problem with given class_path 'a.B':
          no x
    """
    found = _CLASSES.search(message)
    if found is None:
        return message
    tries = re.split(rf"^{found[1]}  - ", found[2], flags=re.MULTILINE)[1:]
    of_class = [text for text in tries if text.startswith("Problem with given class_path")]
    (meant, *_) = of_class or tries
    rest = message[found.end() :] if meant.startswith("Expected") else ""  # the whole list again
    return f"{message[: found.start(2)]}{found[1]}  - {meant}{rest}"


def _plain(word: str) -> str:
    return word.lstrip("-").replace("-", "_").casefold()


_ITEM = "\0"
"""Where an item of a list begins in what was lines."""


def _one_line(error: Exception) -> str:
    # a list of reasons has a line for each; elsewhere " - " may be a part of a path
    text = without_other_tries(str(error))
    text = " ".join(re.sub(r"\n\s*- ", f" {_ITEM} ", text).split())
    # jsonargparse lists every type it tried, None among them, and the whole value: the reason is
    # what stands between
    text = re.sub(
        r"Does not validate against any of the Union subtypes Subtypes: .*?\] Errors: ", "", text
    )
    text = re.sub(
        r" Given value type: .*? Given value: (?!Namespace|NestedArg)(\S+).*", r"; got \1", text
    )
    text = re.sub(r" Given value type: .*", "", text)
    text = re.sub(f" ?{_ITEM} Expected a <class 'NoneType'>", "", text)
    parts = [part.strip() for part in text.split(_ITEM)]
    text = "; ".join(dict.fromkeys(part for part in parts if part)).replace(":;", ":")
    # types as a person calls them, and a key as it is typed
    text = re.sub(r"Expected an? typing\.Literal\[(.*?)\]", r"expected one of \1", text)
    a_list = r"Expected an? <class '(?:[\w.]+\.)?(Sequence|Iterable|list)'>"
    text = re.sub(a_list, 'expected a list, such as "[a, b]"', text)
    text = re.sub(r"Expected an? <class '(?:[\w.]+\.)?(\w+)'>", r"expected \1", text)
    text = re.sub(r'Parser key "([\w.]+)":', r"--\1:", text).replace(". Got value: ", "; got ")
    text = re.sub(r": Problem with given class_path '[\w.]+': --([\w.]+:)", r".\1", text)
    text = re.sub(
        r"Expected a (?:config )?path but \S+ either not accessible or invalid; ", "", text
    )
    if "loading state_dict" in text:
        text = (
            f"the checkpoint is of another model ({text[:200]}...): give the --config that it was "
            "trained with"
        )
    kept = re.search(r"SaveConfigCallback expected (\S+) to NOT exist", text)
    if kept:
        text = (
            f"{kept[1]} is of another run: give another --trainer.default_root_dir, or leave out "
            "--trainer.logger=false, so that every run has a folder of its own"
        )
    expected = (ValueError, TypeError, RuntimeError, OSError, ArgumentError)
    lightnings = type(error).__name__ == "MisconfigurationException"  # Lightning may not be there
    if text and (isinstance(error, expected) or lightnings):
        return text
    return f"{type(error).__name__}: {text}"
