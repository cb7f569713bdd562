"""What happens when under a Lightning Trainer, and the commands that train.

It may import `ewnprune.curve` and what lies below. `hooks` is the timetable, of parts that own
their state; `measuring` alone asks for curves and masks. What cannot work is refused in `refusals`,
a new logger is a function in `loggers`.
"""

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from ewnprune.callback.callbacks import AsymptoticRelations as AsymptoticRelations
    from ewnprune.callback.callbacks import WeightNormPruning as WeightNormPruning


def __getattr__(name: str) -> Any:
    # not before they are asked for: users of ``lightning.pytorch`` need the hooks, and not these
    if name not in ("AsymptoticRelations", "WeightNormPruning"):
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from ewnprune.callback import callbacks

    return getattr(callbacks, name)
