"""Which method keeps the least at a loss that a user is ready to take, and how sure that is."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from ewnprune.study.estimates import Estimate, holm, sign_flip_p
from ewnprune.study.labels import Label
from ewnprune.study.statistics import WITHIN, Summary

if TYPE_CHECKING:
    from ewnprune.study.analysis import Study


@dataclass(frozen=True)
class Winner:
    """The method of which most neurons can go at one loss.

    Attributes:
        settings: that the study varies; empty where it varies none.
        points: the loss, in points of a hundred.
        methods: the one, or several that are equally good; none where nobody loses so little.
        removed: the fraction that goes, by the first of them.
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

    A method is told from the winner where the permutation test over pairs of one seed,
    corrected over the methods by Holm, gives 5 % or less.
    """
    units = {point.method: point.unit for point in study.curve}
    found = []
    able = [s for s in study.summaries if s.within and units[s.method] == "neurons"]
    for settings in dict.fromkeys(Label.parse(summary.method).settings for summary in able):
        compared = [s for s in able if Label.parse(s.method).settings == settings]
        found += [_winner(settings, points, compared) for points in WITHIN]
    return found


def _winner(settings: str, points: float, summaries: Sequence[Summary]) -> Winner:
    means = {summary.method: summary.within[points].mean for summary in summaries}
    most = max(means.values())
    best = [method for method, mean in means.items() if mean >= most - 1e-9]
    removed = next(s.within[points] for s in summaries if s.method == best[0])
    if most <= 0:
        return Winner(settings, points, (), removed, (), ())
    others = {s.method: s.within[points] for s in summaries if s.method not in best}
    p_values = []
    for other in others.values():
        pairs = [v - other.values[s] for s, v in removed.values.items() if s in other.values]
        p_values.append(sign_flip_p(pairs) if pairs else 1.0)
    sure = dict(zip(others, holm(p_values), strict=True))
    return Winner(
        settings,
        points,
        tuple(best),
        removed,
        tuple(method for method, p in sure.items() if p > 0.05),
        tuple(method for method, p in sure.items() if p <= 0.05),
    )
