"""The arms of `benchmarks.control`, and the settings that each is tried with."""

from dataclasses import dataclass

import torch

TRIALS = 12
RATE, ALPHA, LASSO = (0.03, 0.6), (1.0, 30.0), (3e-4, 1e-2)
LOG_NORM, LOG_SUM = (1e-5, 1e-3), (1e-4, 1e-2)
"""Ranges that are searched, on a log scale: under EWN log-norms fall by ``strength`` per unit of
learning rate and alpha's own, by proximal steps lengths do by ``strength / length``."""
FACTORS = (1.0, 0.3)
"""By what a strength that was found in 3 epochs is multiplied to be tried in 20."""


@dataclass(frozen=True)
class Arm:
    """A combination: the parametrization, whether nested, the penalty."""

    parametrization: str
    nested: bool
    penalty: str

    @property
    def ranges(self) -> dict[str, tuple[float, float]]:
        """What is tuned, and between which numbers."""
        found = {"rate": RATE}
        if self.penalty == "group lasso":
            found["strength"] = LASSO
        elif self.penalty == "log-norm":
            found["strength"] = LOG_NORM if self.parametrization == "EWN" else LOG_SUM
        if self.parametrization == "EWN":
            found["alpha"] = ALPHA
        return found

    def longer(self, found: dict[str, float]) -> list[dict[str, float]]:
        """What to try in a longer training, where ``found`` was the best in the short one.

        >>> Arm("plain", True, "none").longer({"rate": 0.1})
        [{'rate': 0.1}]
        """
        if not (self.nested and "strength" in found):
            return [found]
        return [found | {"strength": float(f"{found['strength'] * f:.3g}")} for f in FACTORS]


def trials(ranges: dict[str, tuple[float, float]]) -> list[dict[str, float]]:
    """Settings to try: points of a Sobol sequence, spread evenly over the logarithms."""
    points = torch.quasirandom.SobolEngine(len(ranges), scramble=True, seed=0).draw(TRIALS)
    return [
        {
            name: float(f"{low * (high / low) ** value.item():.3g}")
            for value, (name, (low, high)) in zip(point, ranges.items(), strict=True)
        }
        for point in points
    ]


BEST = [
    Arm("plain", False, "none"),
    Arm("plain", True, "none"),
    Arm("EWN", True, "none"),
    Arm("plain", True, "group lasso"),
    Arm("EWN", True, "log-norm"),
]
"""Plain training, and the four to carry over to other data and networks."""

ARMS = BEST + [
    arm
    for of in (("plain", "EWN"), ("SWN",))
    for nested in (True, False)
    for penalty in ("none", "log-norm", "group lasso")
    for parametrization in of
    if (arm := Arm(parametrization, nested, penalty)) not in BEST
]
"""Every combination, those that the question hangs on first."""

LONGER = [
    Arm("plain", True, "none"),
    Arm("plain", False, "log-norm"),
    Arm("plain", True, "group lasso"),
    Arm("EWN", True, "log-norm"),
    Arm("plain", True, "log-norm"),
]
