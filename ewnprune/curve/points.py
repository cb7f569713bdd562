"""`CurvePoint`: one network at one level of sparsity, and all that is known of it."""

from dataclasses import dataclass, field
from math import sqrt
from statistics import NormalDist

from ewnprune.model.size import Count


@dataclass(frozen=True, kw_only=True)
class CurvePoint:
    """One network: a model at one level of sparsity, evaluated.

    Attributes:
        sparsity: the level asked for, in [0, 1): fraction of the units to remove, or of a cost.
        accuracy: top-1 accuracy in [0, 1]; None where the task has none.
        loss: mean loss per sample.
        correct: samples classified right.
        total: samples evaluated; of classifications the targets that are a class.
        metrics: other measures, by name.
        neurons: neurons left of those in the chosen layers (with ``unit="weights"``: those with
            any weight left).
        weights: weights left of those in the chosen layers.
        parameters: parameters left of those of the whole model.
        macs: multiply-accumulates per sample left of those of the whole model; where neurons are
            masked, of the network that removal would build; where single weights are, on paper.
        inputs: features that the network reads of those of a sample; None unless they were to go.
        score: what decided which units go first.
        unit: ``"neurons"``, ``"weights"`` or ``"inputs"``.
        scope: ``"layer"`` (the same fraction of each layer), ``"global"`` or another, see
            `ewnprune.pruning.ranking.Scope`.
        realize: how the units went: ``"mask"`` (zero in place), ``"remove"`` (the smaller network
            was built), or the name of the function that built it.
        level_of: what the level is a fraction of: the ``"units"`` that can go, or the whole
            network's ``"parameters"`` or ``"macs"``.
        layer: the layer that alone was pruned, or the first of a group of them; empty for all.
        max_per_layer: the fraction of a layer that went at most, where that was capped.
        method: how the network was trained (plain, SWN, EWN, ...).
        seed: seed of the training run.
        split: which data: ``"val"``, ``"test"``, ...
        epoch: training epoch.
        step: optimizer step.
    """

    method: str = ""
    seed: int | None = None
    score: str = ""
    unit: str = "neurons"
    scope: str = "layer"
    realize: str = "mask"
    level_of: str = "units"
    layer: str = ""
    max_per_layer: float | None = None
    split: str = ""
    epoch: int | None = None
    step: int | None = None
    sparsity: float
    accuracy: float | None = None
    loss: float | None = None
    correct: int | None = None
    total: int | None = None
    neurons: Count | None = None
    weights: Count | None = None
    parameters: Count | None = None
    macs: Count | None = None
    inputs: Count | None = None
    metrics: dict[str, float] = field(default_factory=dict, hash=False)

    def measure(self, name: str = "accuracy") -> float:
        """The accuracy, the loss or another metric, by name.

        Raises:
            ValueError: it was not measured.
        """
        value = getattr(self, name) if name in ("accuracy", "loss") else None
        value = self.metrics.get(name) if value is None else value
        if value is None:
            known = [key for key in ("accuracy", "loss") if getattr(self, key) is not None]
            raise ValueError(
                f"{name!r} was not measured at sparsity {self.sparsity:g}: expected one of "
                f"{[*known, *self.metrics]}"
            )
        return float(value)

    def interval(self, confidence: float = 0.95) -> tuple[float, float]:
        """Wilson score interval of the accuracy, from ``correct`` of ``total``.

        It says how well this test set measures this one network; not how runs differ.
        Wilson (1927), https://doi.org/10.1080/01621459.1927.10502953.

        Raises:
            ValueError: correct and total are not known.

        >>> low, high = CurvePoint(sparsity=0, correct=980, total=1000).interval()
        >>> round(low, 4), round(high, 4)
        (0.9693, 0.987)
        """
        if self.correct is None or not self.total:
            raise ValueError(
                f"no interval at sparsity {self.sparsity:g}: expected counts of correct and total"
            )
        z = NormalDist().inv_cdf(0.5 + confidence / 2)
        n, p = self.total, self.correct / self.total
        center = (p + z * z / (2 * n)) / (1 + z * z / n)
        half = z / (1 + z * z / n) * sqrt(p * (1 - p) / n + z * z / (4 * n * n))
        return max(0.0, center - half), min(1.0, center + half)


SERIES = (
    *("method", "seed", "score", "unit", "scope", "realize", "level_of", "layer"),
    *("max_per_layer", "split", "epoch", "step"),
)
"""The fields that tell one series of points from another."""
