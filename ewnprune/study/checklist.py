"""What a comparison of pruning methods should report, and what a study lacks of it.

After Blalock et al., "What is the State of Neural Network Pruning?", section 6 and appendix B,
https://arxiv.org/abs/2003.03033.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from scipy import stats

from ewnprune.curve.curve import Curve
from ewnprune.study.labels import Label, labels_of


@dataclass(frozen=True)
class Item:
    """One demand, whether the study meets it, and how or why not."""

    demand: str
    met: bool
    note: str


def reporting_items(curve: Curve, taken: Mapping[str, tuple[str, str]]) -> list[Item]:
    """The demands one by one.

    Args:
        curve: the study's points on test data, one series per method and seed.
        taken: for each method the label and score chosen, see `statistics.chosen`.
    """
    levels = sorted({point.sparsity for point in curve})
    seeds = _seeds(curve)
    fewest = min((len(s) for s in seeds.values()), default=0)
    dense = [p.accuracy for p in curve if p.sparsity == 0 and p.accuracy is not None]
    lowest = [p.accuracy for p in curve if p.accuracy is not None]
    collapse = bool(dense) and min(lowest) < 0.9 * max(dense)
    counted = all(p.parameters is not None and p.macs is not None for p in curve)
    shown = [Label.parse(label) for label in taken]
    names = {label.method for label in shown}
    baselines = [name for name in ("random", "random_ratios", "magnitude") if name not in names]
    varied = any(label.settings for label in shown)
    splits = {p.split for p in curve}
    return [
        Item(
            "three pairs of data set and architecture or more",
            False,
            "one pair: MNIST and the like are a demonstration, not evidence on other tasks"
            + (", unless what varies here are data and networks" if varied else ""),
        ),
        Item(
            "compression ratio and theoretical speedup",
            counted,
            "parameters and MACs are counted beside neurons" if counted else "not counted",
        ),
        Item(
            "absolute accuracy, and that of the unpruned network",
            bool(dense),
            "top-1; top-5 is not measured" if dense else "level 0 is missing",
        ),
        Item(
            "five levels or more, up to where accuracy collapses",
            len(levels) >= 5 and collapse,
            f"{len(levels)} levels up to {100 * max(levels, default=0):g} %"
            + ("" if collapse else ", none of which loses a tenth of the accuracy"),
        ),
        Item(
            "mean and sample standard deviation over several seeds",
            fewest >= 3,
            f"{fewest} seeds at the least; standard deviations divide by n - 1",
        ),
        Item(
            "same code, data, initial network and budget for every method",
            True,
            "runs of one seed share them; the settings of each method say where it differs",
        ),
        Item(
            "random and magnitude baselines",
            not baselines,
            "all there" if not baselines else "missing: " + ", ".join(baselines),
        ),
        Item(
            "fine-tuning after pruning",
            False,
            "one-shot pruning only: rankings after fine-tuning may differ",
        ),
        Item(
            "nothing chosen on test data",
            splits == {"test"},
            "scores and strengths are chosen on validation data"
            if splits == {"test"}
            else f"these points are of {', '.join(sorted(splits))} data",
        ),
        Item("measured latency", False, "not measured: MACs are theoretical"),
    ]


def caveats(curve: Curve) -> list[str]:
    """What the number of seeds cannot show, in sentences."""
    sentences = []
    for n in sorted({len(found) for found in _seeds(curve).values()}):
        of = [label for label, found in _seeds(curve).items() if len(found) == n]
        who = f"With n = {n} seed{'s' if n > 1 else ''} ({', '.join(of)})"
        if n == 1:
            sentences.append(f"{who} nothing can be said about how runs differ.")
            continue
        smallest = 2 / 2**n
        half = float(stats.t.ppf(0.975, n - 1)) / n**0.5
        power = (
            f"the permutation test cannot give less than p = {smallest:.3g}"
            + (", so it can reach 5 % at no level" if smallest > 0.05 else " before correction")
            + f"; a paired difference is told from zero only if it is larger than {half:.1f} of "
            "its own standard deviations"
        )
        sentences.append(f"{who} {power}.")
    sentences.append(
        "Intervals speak of other seeds of this very setting, not of other data, networks or "
        "budgets; those of the largest sparsity are bootstrapped and too narrow for few seeds."
    )
    return sentences


def edges(points: Curve, taken: Mapping[str, tuple[str, str]]) -> list[str]:
    """A sentence for each method whose chosen strength is at an end of its grid.

    Args:
        points: of all candidates, see `statistics.chosen`.
        taken: what that chose.
    """
    sentences = []
    candidates = [Label.parse(label) for label in labels_of(points)]
    for method, (label, _) in taken.items():
        grid = [other.candidate for other in candidates if str(other.chosen()) == method]
        try:
            numbers = {float(name): name for name in grid}
        except ValueError:
            continue  # one without candidates, or with others than strengths
        end = float(Label.parse(label).candidate)
        if len(numbers) > 1 and end in (min(numbers), max(numbers)):
            which = "weakest" if end == min(numbers) else "strongest"
            tried = ", ".join(numbers[number] for number in sorted(numbers))
            sentences.append(
                f"{method} took the {which} of its strengths ({tried}): one beyond may do better."
            )
    return sentences


def _seeds(curve: Curve) -> dict[str, set[Any]]:
    return {m: {p.seed for p in curve if p.method == m} for m in labels_of(curve)}
