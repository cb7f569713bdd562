"""Errors as a person at a terminal wants them: one line, and an exit status."""

import os
import re
import sys
from argparse import ArgumentError
from collections.abc import Callable


def exit_status(work: Callable[[], int]) -> int:
    """Do some work; what it returns, 1 after an error (one line on stderr), 130 after Ctrl-C.

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
        return 1


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
