"""When how many neurons go: the schedule of pruning step by step while the network trains.

The fraction that is gone rises as in Zhu & Gupta (2017, https://arxiv.org/abs/1710.01878): fast at
first, when much can go, and slower towards the end.
"""

from dataclasses import dataclass
from typing import Any

from ewnprune.callback.measuring import Measuring
from ewnprune.callback.weights import may_exchange_weights
from ewnprune.pruning.score_names import asked_of_data, find_scores

_TIMES = 50  # how often it prunes where nothing is said


@dataclass(frozen=True)
class Gradual:
    """How to prune while training: ever more neurons, from one time of the fit to another.

    What went stays zero, and is listed in ``gradual_neurons.csv``.

    Args:
        to: the fraction of the neurons that is gone in the end, in (0, 1).
        start: when it begins, as a fraction of the fit's steps.
        end: when ``to`` is reached; the rest of the fit trains what is left.
        every: how many steps lie between two prunings; by default a fiftieth of all of them.

    Where the module optimizes by itself, its batches are counted for steps.

    Raises:
        ValueError: a number that does not fit.
    """

    to: float
    start: float = 0.2
    end: float = 0.7
    every: int | None = None

    def __post_init__(self) -> None:
        if not (isinstance(self.to, int | float) and 0 < self.to < 1):
            raise ValueError(f"gradual: to={self.to}: expected a fraction in (0, 1), such as 0.9")
        numbers = all(isinstance(value, int | float) for value in (self.start, self.end))
        if not (numbers and 0 <= self.start < self.end < 1):
            raise ValueError(
                f"gradual: start={self.start}, end={self.end}: expected fractions of the fit with "
                "0 <= start < end < 1"
            )
        if self.every is not None and (type(self.every) is not int or self.every < 1):
            raise ValueError(f"gradual: every={self.every}: expected a number of steps >= 1")

    def sparsity(self, step: int, steps: int) -> float:
        """The fraction that is gone when a number of steps are done.

        It is ``to * (1 - (1 - done) ** 3)``, where ``done`` is how much of the way from ``start``
        to ``end`` was behind at the last pruning.

        Args:
            step: the steps done.
            steps: those of the whole fit.

        >>> [round(Gradual(0.8, 0.2, 0.6).sparsity(step, 10), 3) for step in range(8)]
        [0.0, 0.0, 0.0, 0.463, 0.7, 0.788, 0.8, 0.8]
        """
        last = max(0, min(round(self.end * steps), steps - 1))
        first = min(round(self.start * steps), last)
        if step >= last:
            return float(self.to)
        every = self.every or max(1, (last - first) // _TIMES)
        done = max(0, step - first) // every * every / (last - first) if last > first else 0.0
        return float(self.to * (1 - (1 - done) ** 3))


def refuse_beside(options: Gradual, measuring: Measuring, finetune: object) -> None:
    """Refuse what cannot be measured, or means something else, while the network trains.

    Args:
        options: how to prune.
        measuring: how the network is measured.
        finetune: what was asked of finetuning.

    Raises:
        ValueError: they do not go together.
    """
    if measuring.level_of != "units":
        raise ValueError(
            f"gradual={options!r}: its end is a fraction of the neurons: expected "
            f"level_of='units', not {measuring.level_of!r}"
        )
    if finetune is not None:
        raise ValueError(
            f"{finetune} and {options}: gradual pruning trains on with what is left by itself, "
            "and longer where it ends earlier: leave out one of the two"
        )
    if measuring.inputs:
        raise ValueError(f"{options} with inputs=True: it prunes neurons; prune inputs afterwards")
    wanted = asked_of_data(find_scores(measuring.first_score), measuring.scope)
    if wanted:
        raise ValueError(
            f"{options} with {wanted[-1]}, which goes by evaluations of the network: expected one "
            "that goes by its weights, such as norm_product"
        )


def refuse_exchanged_weights(pl_module: Any) -> None:
    """Refuse a module that may put other weights in for validation: what went is in them still.

    Args:
        pl_module: the module.

    Raises:
        ValueError: it may.
    """
    if may_exchange_weights(pl_module):
        raise ValueError(
            "gradual with on_validation_model_eval or on_validation_model_train of the module's "
            "own: other weights may be put in there, such as those of a schedule-free optimizer, "
            "which have what went: leave these hooks out, or prune with finetune, which makes the "
            "optimizer anew"
        )
