"""Batches in smaller pieces, for when a sweep does not fit into memory."""

from collections.abc import Callable, Iterable, Iterator
from typing import Any, TypeVar

import torch

from ewnprune.model.sharding import several_processes
from ewnprune.model.tensors import map_tensors, samples

Result = TypeVar("Result")


class Pieces:
    """Cuts each batch of inputs and targets into ``parts`` of about equal size, in order.

    A batch of fewer samples gives a piece for each; one whose samples cannot be told is passed on
    whole.

    Attributes:
        parts: into how many.
        largest: samples in the largest piece so far that could be cut further.

    >>> pieces = Pieces()
    >>> pieces.parts = 2
    >>> [x.tolist() for x, _ in pieces.of([(torch.arange(5), torch.arange(5))])]
    [[0, 1, 2], [3, 4]]
    """

    def __init__(self) -> None:
        self.parts = self.largest = 1

    def of(self, batches: Iterable[tuple[Any, Any]]) -> Iterator[tuple[Any, Any]]:
        """The pieces of all batches."""
        self.largest = 1
        for batch in batches:
            size = samples(batch) or 1
            step = -(-size // self.parts)
            self.largest = max(self.largest, step)
            if step == size:
                yield batch
                continue
            for start in range(0, size, step):
                rows = slice(start, start + step)
                yield map_tensors(lambda t, rows=rows: t[rows] if t.ndim else t, batch)  # type: ignore[misc]


def with_enough_memory(
    attempt: Callable[[], Result], pieces: Pieces, loader: Iterable[Any], together: bool = False
) -> Result:
    """The result of an attempt; while memory is short, of another with pieces half the size.

    Args:
        attempt: does the work on ``pieces`` of the loader's batches, from the beginning.
        pieces: how they are cut.
        loader: the data. An iterator cannot begin anew, and so gets one attempt.
        together: whether processes do a part of the attempt together, before its end. Where there
            are several, one alone cannot begin anew: it would wait for what the others have done.

    Raises:
        RuntimeError: what the attempt raised, where it was something else or pieces cannot be
            smaller; or memory was short in one of several processes.
    """
    while True:
        try:
            return attempt()
        except RuntimeError as error:
            if not is_out_of_memory(error) or pieces.largest < 2 or iter(loader) is loader:
                raise
            if together and several_processes():
                raise RuntimeError(
                    "memory was short, and one process cannot begin anew where all estimate "
                    "statistics (of BatchNorms, of inputs) together: expected batches that fit; "
                    "give smaller ones"
                ) from error
        # not in the except block, where the traceback keeps the tensors of the attempt
        pieces.parts *= 2


def is_out_of_memory(error: BaseException) -> bool:
    """Whether it says that memory was short: of a GPU, or of the CPU, which has no type for it.

    >>> is_out_of_memory(RuntimeError("DefaultCPUAllocator: can't allocate memory: ..."))
    True
    """
    return isinstance(error, torch.cuda.OutOfMemoryError) or any(
        text in str(error) for text in ("DefaultCPUAllocator", "out of memory")
    )
