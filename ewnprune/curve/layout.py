"""How a batch of a loader is laid out: which part are the inputs, and which the targets."""

from collections.abc import Callable
from typing import Any

Batch = Callable[[Any], tuple[Any, Any]]


def inputs_and_targets(batch: Any) -> tuple[Any, Any]:
    """The batch layout used where none is given: ``(inputs, targets)``.

    Raises:
        ValueError: the batch is something else.
    """
    if isinstance(batch, tuple | list) and len(batch) == 2:
        return batch[0], batch[1]
    length = f" of {len(batch)}" if isinstance(batch, tuple | list | dict) else ""
    raise ValueError(
        f"a batch of the loader is a {type(batch).__name__}{length}: expected (inputs, targets); "
        "for another layout give batch=, a function from a batch to the two"
    )
