"""How to train on after pruning: an option of the callback."""

from dataclasses import dataclass

from ewnprune.callback.distillation import Distillation
from ewnprune.pruning.score_names import find_scores


@dataclass(frozen=True)
class Finetune:
    """How to train on after pruning, in the same fit.

    ``configure_optimizers`` is called again and sees as ``max_epochs`` those to come: optimizer
    state and learning-rate schedule start anew. What was pruned stays zero. The curve of the
    finetuned network stands beside the first, as ``"EWN, finetuned at 0.9"``. A fit that is stopped
    before ``max_epochs`` is not finetuned.

    Args:
        epochs: how many epochs, after the Trainer's ``max_epochs``.
        sparsity: the level that the network is pruned at, in (0, 1).
        score: by which score; the first of the callback's ``scores`` by default.
        distill: learn the outputs of the network before pruning too, by one more pass forward for
            each batch; checkpoints then hold that network as well.

    Raises:
        ValueError: a number that does not fit, or an unknown score.
    """

    epochs: int
    sparsity: float = 0.9
    score: str | None = None
    distill: Distillation | None = None

    def __post_init__(self) -> None:
        if not isinstance(self.epochs, int) or self.epochs < 1:
            raise ValueError(f"finetune: epochs={self.epochs}: expected a number of epochs >= 1")
        if not (isinstance(self.sparsity, int | float) and 0 < self.sparsity < 1):
            raise ValueError(
                f"finetune: sparsity={self.sparsity}: expected a fraction in (0, 1), such as 0.9"
            )
        if self.score is not None and len(find_scores(self.score)) != 1:
            raise ValueError(f"finetune: score={self.score!r}: expected one score")
        if not isinstance(self.distill, Distillation | None):
            raise ValueError(f"finetune: distill={self.distill!r}: expected Distillation(...)")


def cut_short(finetune: Finetune, epochs: int, ordinary: int, since: int | None) -> list[str]:
    """A line that says why a network was not finetuned as long as it was to be, if so.

    Args:
        finetune: what was asked for.
        epochs: how many the fit had.
        ordinary: how many were to come before the network is pruned.
        since: how many came before it was pruned; None where it was not.
    """
    if since is not None:
        if epochs - since >= finetune.epochs:
            return []
        done = f"finetuned for {epochs - since} of {finetune.epochs} epochs"
        return [f"ewnprune: {done}, for the fit was stopped"]
    when = f"in epoch {epochs - 1}, before" if epochs < ordinary else "when"
    return [
        f"ewnprune: not finetuned, for the fit was stopped {when} its {ordinary} epochs were over"
    ]
