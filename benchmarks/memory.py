"""Peak memory of tensors on the CPU, from what torch's allocator reports to its profiler."""

from collections.abc import Callable
from typing import Any

from torch.profiler import ProfilerActivity, profile


def peak_bytes(run: Callable[[], Any]) -> int:
    """Most bytes of tensors that lay in memory at once during a call, beyond those before it.

    Scratch space that MKL or oneDNN take for themselves is not seen.
    """
    with profile(activities=[ProfilerActivity.CPU], profile_memory=True) as seen:
        run()
    held = peak = 0
    # the sizes in the order in which they were taken (positive) and given back (negative)
    events = [e for e in seen.profiler.kineto_results.events() if e.name() == "[memory]"]
    for event in sorted(events, key=lambda e: e.start_ns()):
        held += event.nbytes()
        peak = max(peak, held)
    return peak
