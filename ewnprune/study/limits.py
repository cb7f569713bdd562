"""What a study cannot show: too few seeds, and grids that end too early, in sentences."""

from collections.abc import Mapping

from scipy import stats

from ewnprune.curve.curve import Curve
from ewnprune.study.estimates import least_p
from ewnprune.study.labels import Label, labels_of, seeds_of
from ewnprune.study.statistics import candidates_of, shared_areas, validation_areas


def caveats(curve: Curve) -> list[str]:
    """What the number of seeds cannot show, in sentences."""
    sentences = []
    seeds = seeds_of(curve)
    counts = {label: len(found) for label, found in seeds.items()}
    for n in sorted({*counts.values()}):
        of = [label for label, count in counts.items() if count == n]
        who = f"With n = {n} seed{'s' if n > 1 else ''}"
        who += f" ({', '.join(of)})" if len(of) < len(counts) else ""
        if n == 1:
            sentences.append(f"{who} nothing can be said about how runs differ.")
            continue
        smallest = least_p(n)
        half = float(stats.t.ppf(0.975, n - 1)) / n**0.5
        power = (
            f"the permutation test cannot give less than p = {smallest:.3g}"
            + (", so it can reach 5 % at no level" if smallest > 0.05 else " before correction")
            + f"; a paired difference is told from zero only if it is larger than {half:.1f} of "
            "its own standard deviations"
        )
        sentences.append(f"{who} {power}.")
    if any(found != seeds[next(iter(seeds))] for found in seeds.values()):
        sentences.append(
            "Not all methods have the same seeds: the mean of each is over its own, while the "
            "winner and differences are told by those that are shared."
        )
    sentences.append(
        "Intervals speak of other seeds of this very setting, not of other data, networks or "
        "budgets; those of the largest sparsity are bootstrapped and too narrow for few seeds."
    )
    return sentences


def guesses(points: Curve, taken: Mapping[str, tuple[str, str]]) -> list[str]:
    """A sentence for each method of which nothing could be chosen by validation data.

    Args:
        points: of all candidates, see `statistics.chosen`.
        taken: what that chose.
    """
    return [
        f"{method} took the first of its candidates ({', '.join(taken[method])}), and not the "
        "best: no seed has validation data of them all."
        for method, candidates in candidates_of(points).items()
        if any(validation_areas(one) for one in candidates.values())
        and not shared_areas(candidates)
    ]


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
