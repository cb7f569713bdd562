"""Another function in the place of a LightningModule's training step, for as long as it trains."""

from collections.abc import Callable
from functools import wraps
from typing import Any


class TrainingStep:
    """A LightningModule whose training step is called by a function, until it is let go.

    Args:
        pl_module: the module.
        around: called with the step's own function, and what the step is given.
    """

    def __init__(self, pl_module: Any, around: Callable[..., Any]) -> None:
        self._pl_module = pl_module
        self._step = pl_module.training_step  # it may be another's already

        @wraps(self._step)  # Lightning looks at its arguments
        def training_step(*args: Any, **kwargs: Any) -> Any:
            return around(self._step, *args, **kwargs)

        training_step.around = self  # type: ignore[attr-defined]
        pl_module.training_step = training_step

    def let_go(self) -> None:
        """Leave the module as it was."""
        outer = getattr(self._pl_module.training_step, "around", None)
        if outer is not self:  # another came later, and calls this one's
            while outer is not None:
                inner = getattr(outer._step, "around", None)
                if inner is self:
                    outer._step = self._step
                outer = inner
            return
        # the class's own is no attribute of the instance
        vars(self._pl_module).pop("training_step")
        if self._step != self._pl_module.training_step:
            self._pl_module.training_step = self._step
