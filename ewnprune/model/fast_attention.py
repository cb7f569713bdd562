"""torch's fast path of attention, which calls no layers."""

from collections.abc import Iterator
from contextlib import contextmanager

from torch.backends import mha

_outside: list[bool] = []  # whether it was on, for each that has turned it off


@contextmanager
def without_fast_attention() -> Iterator[None]:
    """Have attention run layer by layer in eval mode too; on leaving all is as before.

    Without gradients torch takes one kernel for a whole encoder layer, which counts as nothing and
    calls no layer in it, and `torch.nn.TransformerEncoder` hands padded batches to its layers as
    nested tensors, which few operations know.

    >>> with without_fast_attention():
    ...     mha.get_fastpath_enabled()
    False
    """
    _outside.append(mha.get_fastpath_enabled())
    mha.set_fastpath_enabled(False)
    try:
        yield
    finally:
        mha.set_fastpath_enabled(_outside.pop())


@contextmanager
def fast_attention_as_outside() -> Iterator[None]:
    """Have it as it was outside of all `without_fast_attention`, as for times it should be.

    >>> with without_fast_attention(), fast_attention_as_outside():
    ...     mha.get_fastpath_enabled()
    True
    """
    before = mha.get_fastpath_enabled()
    mha.set_fastpath_enabled(_outside[0] if _outside else before)
    try:
        yield
    finally:
        mha.set_fastpath_enabled(before)
