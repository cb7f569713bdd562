"""What to do when the training loss first passes given levels, such as ``log L = -10``.

The paper's ranking of methods turns with the training loss, and not with the number of epochs, so
that is what a run should be measured by (Morwani & Ramaswamy, https://arxiv.org/abs/2010.12909).
"""

import math
from collections.abc import Mapping, Sequence
from typing import Any, Literal

from ewnprune.callback.run_files import run_folder, unused

Action = Literal["sweep", "checkpoint", "stop"]
ACTIONS = ("sweep", "checkpoint", "stop")


class LossLevels:
    """Remembers which levels of the log loss were passed.

    Args:
        levels: levels of ``log L`` (natural logarithm), finite numbers.
        actions: what to do at each: ``"sweep"`` takes the curve, ``"checkpoint"`` saves one,
            ``"stop"`` ends the training at the lowest level.

    Raises:
        ValueError: a level that is no finite number, or an unknown action.

    >>> levels = LossLevels((-10, -100), ("sweep",))
    >>> [levels.pass_(log_loss) for log_loss in (-3.0, -12.0, -40.0, -120.0)]
    [[], [-10.0], [], [-100.0]]
    """

    def __init__(self, levels: Sequence[float], actions: Sequence[Action]) -> None:
        if not isinstance(levels, Sequence) or not all(map(_is_finite, levels)):
            raise ValueError(f"loss_levels={levels!r}: expected finite values of log L, as [-10]")
        if not isinstance(actions, Sequence) or not all(action in ACTIONS for action in actions):
            raise ValueError(f"at_level={actions!r}: expected some of {', '.join(ACTIONS)}")
        self.levels = sorted({float(level) for level in levels}, reverse=True)
        self.actions = tuple(actions)
        self.passed: list[float] = []

    def pass_(self, log_loss: float) -> list[float]:
        """The levels that this log loss passes for the first time, highest first."""
        new = [x for x in self.levels if log_loss <= x and x not in self.passed]
        self.passed += new
        return new

    def done(self) -> bool:
        """Whether training should stop: the lowest level is passed, and stopping was asked for."""
        # a run that is resumed may have passed levels that are none of these
        return "stop" in self.actions and bool(self.levels) and {*self.levels} <= {*self.passed}

    def end_epoch(self, trainer: Any) -> bool:
        """Stop, or save a checkpoint, where that was asked for at the levels just passed.

        Returns:
            Whether a curve was asked for.
        """
        if not self.levels:
            return False
        log_loss = logged_log_loss(trainer.callback_metrics)
        # one process decides for all, or they would wait for each other
        passed = self.pass_(trainer.strategy.broadcast(log_loss))
        if passed and trainer.is_global_zero:
            levels = ", ".join(f"{level:g}" for level in passed)
            print(
                f"ewnprune: log L = {log_loss:.4g} passed {levels} in epoch "
                f"{trainer.current_epoch}",
                flush=True,
            )
        if self.done():
            trainer.should_stop = True
        if "checkpoint" in self.actions:
            folder = run_folder(trainer) / "checkpoints"
            for level in passed:
                (path,) = unused(folder, f"log_loss_{level:g}", [".ckpt"])
                trainer.save_checkpoint(trainer.strategy.broadcast(path))
        return bool(passed) and "sweep" in self.actions

    def state_dict(self) -> dict[str, Any]:
        """The levels passed."""
        return {"passed_levels": list(self.passed)}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Take up the levels that the run had passed."""
        self.passed = list(state.get("passed_levels", []))


def _is_finite(level: Any) -> bool:
    return isinstance(level, int | float) and math.isfinite(level)


def logged_log_loss(metrics: Mapping[str, Any]) -> float:
    """``log L`` of the training data, from what the model logged for the epoch.

    Raises:
        ValueError: neither ``train/log_loss`` nor ``train/loss`` was logged.

    >>> logged_log_loss({"train/log_loss": -123.0, "train/loss": 0.0})
    -123.0
    """
    if "train/log_loss" in metrics:
        return float(metrics["train/log_loss"])
    if "train/loss" in metrics:
        loss = float(metrics["train/loss"])
        return math.log(loss) if loss > 0 else -math.inf if loss == 0 else math.nan
    raise ValueError(
        "loss_levels needs the training loss of each epoch: log 'train/log_loss' or 'train/loss' "
        f"with on_epoch=True; logged were {sorted(metrics)}"
    )
