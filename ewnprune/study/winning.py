"""Which method keeps the least at a loss that a user is ready to take, and how sure that is."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from ewnprune.study.estimates import Estimate, bootstrap_estimate, holm, sign_flip_p
from ewnprune.study.labels import Label
from ewnprune.study.naming import unit_that_goes
from ewnprune.study.statistics import WITHIN, Summary

if TYPE_CHECKING:
    from ewnprune.study.analysis import Study


@dataclass(frozen=True)
class Winner:
    """The method of which most neurons, or inputs, can go at one loss.

    Attributes:
        settings: that the study varies; empty where it varies none.
        points: the loss, in points of a hundred.
        methods: the one, or several that are equally good; none where nobody loses so little.
        removed: the fraction that goes, by the first of them, over the seeds that all compared
            methods have; over its own where they have none in common.
        open: the others that these seeds do not tell from it.
        told: the others that they do.
    """

    settings: str
    points: float
    methods: tuple[str, ...]
    removed: Estimate
    open: tuple[str, ...]
    told: tuple[str, ...]


def winners(study: "Study") -> list[Winner]:
    """The winner at each loss, among methods that remove neurons, for each of the settings.

    In a study of inputs, among those that remove inputs; single weights make no network smaller.

    Methods are compared over the seeds that all have; each over its own where there are none. One
    is told from the winner where it is worse in pairs of one seed, and the permutation test over
    these, corrected over the methods by Holm, gives 5 % or less.
    """
    units = {point.method: point.unit for point in study.curve}
    unit = unit_that_goes(study)
    found = []
    able = [s for s in study.summaries if s.within and units[s.method] == unit]
    for settings in dict.fromkeys(Label.parse(summary.method).settings for summary in able):
        compared = [s for s in able if Label.parse(s.method).settings == settings]
        found += [_winner(settings, points, compared) for points in WITHIN]
    return found


def _winner(settings: str, points: float, summaries: Sequence[Summary]) -> Winner:
    found = _comparable({summary.method: summary.within[points] for summary in summaries})
    most = max(estimate.mean for estimate in found.values())
    best = [method for method, estimate in found.items() if estimate.mean >= most - 1e-9]
    removed = found[best[0]]
    if most <= 0:
        return Winner(settings, points, (), removed, (), ())
    whole = {summary.method: summary.within[points].values for summary in summaries}
    pairs = {
        other: [v - values[s] for s, v in whole[best[0]].items() if s in values]
        for other, values in whole.items()
        if other not in best
    }
    corrected = holm([sign_flip_p(ours) if ours else 1.0 for ours in pairs.values()])
    told = [
        other
        for (other, ours), p in zip(pairs.items(), corrected, strict=True)
        if p <= 0.05 and sum(ours) > 0
    ]
    still_open = tuple(other for other in pairs if other not in told)
    return Winner(settings, points, tuple(best), removed, still_open, tuple(told))


def _comparable(found: Mapping[str, Estimate]) -> Mapping[str, Estimate]:
    """Over the seeds that all have; as they are where there are none, or no others."""
    shared = set.intersection(*(set(estimate.values) for estimate in found.values()))
    if not shared or all(shared == set(estimate.values) for estimate in found.values()):
        return found
    return {
        method: bootstrap_estimate({s: v for s, v in estimate.values.items() if s in shared})
        for method, estimate in found.items()
    }
