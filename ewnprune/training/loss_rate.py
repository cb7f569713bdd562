"""The loss-driven learning rate: take a step, keep it if the loss fell, undo it if not.

Morwani & Ramaswamy (https://arxiv.org/abs/2010.12909) train to losses of ``exp(-50)`` to
``exp(-300)`` this way. `LossDrivenRate` is the rule, for any number of runs side by side;
`LossController` applies it to a model and its optimizer, in a loop of the user's; and
`LossDrivenTraining` to a LightningModule, epoch by epoch.
"""

import copy
import logging
import math
from dataclasses import dataclass
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.optim import Optimizer

_log = logging.getLogger(__name__)


class RateState(NamedTuple):
    """Where runs stand; every field is a tensor with one entry per run, or a scalar.

    Attributes:
        lr: the learning rate of the next step, before the power of the loss.
        log_loss: ``log L`` at the weights in place.
        log_scale: logarithm of the loss that gradients are divided by.
        accepted: steps kept so far.
        rejected: steps undone so far.
        streak: steps undone since the last one kept.
    """

    lr: Tensor
    log_loss: Tensor
    log_scale: Tensor
    accepted: Tensor
    rejected: Tensor
    streak: Tensor


@dataclass(frozen=True)
class LossDrivenRate:
    """A step is kept if the loss did not rise; the rate then goes up by a factor, else down.

    The step is ``w - lr * L^power * grad L / L``, so with ``power = 0`` the rate is ``lr / L``.

    Args:
        lr: learning rate at the start.
        lr_max: the rate is not raised above this.
        power: the rate as a power of the loss.
        factor: by which the rate is raised after a step kept and lowered after one undone.
        lagged: divide by the loss one kept step back (1 at the start) instead of the current one,
            as the paper's small experiments do. It changes ``grad L / L^(1 - power)`` by the
            ratio of the two losses.

    Raises:
        ValueError: a number is out of range.
    """

    lr: float = 0.01
    lr_max: float = math.inf
    power: float = 0.0
    factor: float = 1.1
    lagged: bool = False

    def __post_init__(self) -> None:
        if not 0 < self.lr <= self.lr_max:
            raise ValueError(f"lr={self.lr}: expected a number in (0, lr_max={self.lr_max}]")
        if not self.factor > 1:
            raise ValueError(f"factor={self.factor}: expected a number above 1, such as 1.1")

    def start(self, log_loss: Tensor) -> RateState:
        """The state of runs whose initial weights have this log loss."""
        zeros = torch.zeros_like(log_loss, dtype=torch.long)
        return RateState(
            torch.full_like(log_loss, self.lr),
            log_loss,
            torch.zeros_like(log_loss) if self.lagged else log_loss,
            zeros,
            zeros,
            zeros,
        )

    def step_size(self, state: RateState) -> Tensor:
        """Factor of the gradient of ``exp(log_loss - state.log_scale)`` in the next step."""
        return state.lr * torch.exp(self.power * state.log_scale)

    def decide(self, state: RateState, log_loss: Tensor) -> tuple[Tensor, RateState]:
        """Judge the step that led to ``log_loss``.

        Returns:
            Whether to keep it, per run, and the new state. A loss that is not a number is undone.
        """
        kept = log_loss <= state.log_loss
        raised = (state.lr * self.factor).clamp_max(self.lr_max)
        return kept, RateState(
            torch.where(kept, raised, state.lr / self.factor),
            torch.where(kept, log_loss, state.log_loss),
            torch.where(kept, state.log_loss if self.lagged else log_loss, state.log_scale),
            state.accepted + kept,
            state.rejected + ~kept,
            torch.where(kept, 0, state.streak + 1),
        )


class Decision(NamedTuple):
    """What was decided on one step or epoch.

    Attributes:
        accepted: whether it was kept.
        attempted: the log loss that it led to.
        log_loss: the log loss of the weights now in place.
        lr: the learning rate of the next one, as the optimizer has it.
        rejections: how many in a row have been undone.
    """

    accepted: bool
    attempted: float
    log_loss: float
    lr: float
    rejections: int


_UNDERFLOWED = (
    "the log of an ordinary loss that has underflowed is -inf, see ewnprune.LogCrossEntropyLoss"
)


class LossController:
    """Judges every step, or epoch, of an optimizer, and takes back those that raise the loss.

    Undoing copies back the parameters, the buffers and the optimizer's state as they were. Each
    decision goes to the logger ``ewnprune.training.loss_rate`` at level INFO.

    Args:
        model: the model; its weights are those to start from.
        optimizer: its optimizer. All parameter groups get the same rate.
        log_loss: ``log L`` of the model now, over the data that later steps are judged on.
        rate: the rule.
        max_rejections: how many steps in a row may be undone.

    Raises:
        ValueError: the log loss is not a finite number.

    >>> from ewnprune.training.losses import LogCrossEntropyLoss
    >>> x, y, loss = torch.eye(2), torch.tensor([0, 1]), LogCrossEntropyLoss("sum")
    >>> model = nn.Linear(2, 2, bias=False)
    >>> optimizer = torch.optim.SGD(model.parameters(), lr=1.0)
    >>> controller = LossController(model, optimizer, loss(model(x), y).item(), LossDrivenRate())
    >>> while controller.log_loss > -200:  # a float32 loss is 0 below -104
    ...     optimizer.zero_grad()
    ...     controller.relative(loss(model(x), y)).backward()
    ...     optimizer.step()
    ...     decision = controller.judge(loss(model(x), y).item())
    >>> model(x).diagonal() > 99
    tensor([True, True])
    """

    def __init__(
        self,
        model: nn.Module,
        optimizer: Optimizer,
        log_loss: float,
        rate: LossDrivenRate,
        max_rejections: int = 200,
    ) -> None:
        if not math.isfinite(log_loss):
            raise ValueError(
                f"log_loss={log_loss} at the start: expected a finite number; {_UNDERFLOWED}"
            )
        self.model, self.optimizer = model, optimizer
        self.rate, self.max_rejections = rate, max_rejections
        self.state = rate.start(torch.tensor(log_loss, dtype=torch.float64, device="cpu"))
        self._keep()
        self._set_rate()

    @property
    def log_loss(self) -> float:
        """``log L`` at the weights in place, as last judged."""
        return self.state.log_loss.item()

    def relative(self, log_loss: Tensor) -> Tensor:
        """The loss divided by the controller's: call ``backward`` on this.

        Args:
            log_loss: ``log L`` of the whole data or of a batch, with its graph.
        """
        return torch.exp(log_loss - self.state.log_scale.item())

    def judge(self, log_loss: float) -> Decision:
        """Keep what was done since the last call, or undo it, and set the learning rate.

        Args:
            log_loss: ``log L`` of the model now.

        Raises:
            RuntimeError: too many rejections in a row. The model is as it was when last kept.
            ValueError: the log loss is -inf, from which nothing could go on. Nothing is decided.
        """
        if log_loss == -math.inf:
            raise ValueError(f"log_loss=-inf: expected a finite number; {_UNDERFLOWED}")
        kept, self.state = self.rate.decide(
            self.state, torch.tensor(log_loss, dtype=torch.float64, device="cpu")
        )
        if kept:
            self._keep()
        else:
            self._undo()
        self._set_rate()
        streak = int(self.state.streak)
        decision = Decision(
            bool(kept), log_loss, self.log_loss, self.optimizer.param_groups[0]["lr"], streak
        )
        _log.info("%s", decision)
        if streak >= self.max_rejections:
            raise RuntimeError(
                f"{streak} steps in a row did not lower the loss (log L = {self.log_loss:.6g}, the "
                f"last attempt {log_loss:.6g}) down to a learning rate of {decision.lr:.3g}: the "
                "model is at a minimum, the loss is not that of the gradient (dropout, batch norm, "
                "other data), or the rate began far too high"
            )
        return decision

    def state_dict(self) -> dict[str, Any]:
        """Everything needed to go on: tensors and plain types only."""
        return {
            "rate": dict(self.state._asdict()),
            "tensors": [t.clone() for t in self._tensors],
            "optimizer": copy.deepcopy(self._optimizer_state),
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Go on from a `state_dict`; what was not yet judged in the model is left in it."""
        self.state = RateState(**state["rate"])
        for mine, loaded in zip(self._tensors, state["tensors"], strict=True):
            mine.copy_(loaded)
        self._optimizer_state = copy.deepcopy(state["optimizer"])
        self._set_rate()

    def _live(self) -> list[Tensor]:
        return [t.detach() for t in (*self.model.parameters(), *self.model.buffers())]

    def _keep(self) -> None:
        self._tensors = [t.clone() for t in self._live()]
        self._optimizer_state = copy.deepcopy(self.optimizer.state_dict())

    def _undo(self) -> None:
        for live, kept in zip(self._live(), self._tensors, strict=True):
            live.copy_(kept)
        # a copy: the optimizer goes on to write into the tensors that it loads
        self.optimizer.load_state_dict(copy.deepcopy(self._optimizer_state))

    def _set_rate(self) -> None:
        for group in self.optimizer.param_groups:
            group["lr"] = self.rate.step_size(self.state).item()
