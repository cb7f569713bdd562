"""The tables of `benchmarks.resnet20`: means over seeds, and differences in pairs of one seed."""

from collections.abc import Sequence
from statistics import mean, stdev

from benchmarks.intervals import difference, mean_of
from ewnprune.curve.curve import Curve

PAIRS = (
    ("recipe", "nested"),
    ("recipe_one_level", "nested_one_level"),
    ("nested_one_level", "plain"),
    *((method, "plain") for method in ("network_slimming", "group_lasso", "d_gating", "recipe")),
)


def show(curve: Curve, levels: Sequence[float], wanted: float) -> None:
    """Print tables in Markdown for each length of training, over the seeds that there are.

    Mean and standard deviation by the MACs left; at one level that is wanted, the 95 % t interval;
    and what two trainings differ by, in pairs of one seed.
    """
    for epochs in dict.fromkeys(point.epoch for point in curve):
        these = curve.where(epoch=epochs)
        macs = {point.sparsity: f"{point.macs.left / 1e6:.1f} M" for point in these}
        columns = " ".join(f"{macs[level]} |" for level in levels)
        found = {
            (method, score): [_rates(these, method, score, level) for level in levels]
            for method, score in dict.fromkeys((point.method, point.score) for point in these)
        }
        print(f"\n{epochs} epochs, test accuracy, mean and deviation in %, by the MACs left\n")
        print("| training | score | seeds |", columns)
        print("| --- | --- | --- |", *("--- |" for _ in levels))
        for (method, score), rates in found.items():
            seeds = ", ".join(map(str, rates[0]))
            print(f"| `{method}` | `{score}` | {seeds} |", *map(_cell, rates))
        print(f"\nwith {macs[wanted]} left, mean [95 %]:\n")
        for (method, score), rates in found.items():
            of = rates[levels.index(wanted)]
            print(f"- `{method}`, `{score}`: {mean_of(of)} ({', '.join(map(_shown, of.values()))})")
        print("\n| differences in pairs | score |", columns)
        print("| --- | --- |", *("--- |" for _ in levels))
        for one, other in PAIRS:
            for score in [score for method, score in found if method == one]:
                if (other, score) in found:
                    pairs = zip(found[one, score], found[other, score], strict=True)
                    cells = [f"{difference(*pair)} |" for pair in pairs]
                    print(f"| `{one}` less `{other}` | `{score}` |", *cells)


def _rates(curve: Curve, method: str, score: str, level: float) -> dict[int | None, float]:
    """Accuracy in % by seed."""
    points = curve.where(method=method, score=score, sparsity=level)
    return {point.seed: 100 * point.measure() for point in points}


def _shown(rate: float) -> str:
    return f"{rate:.2f}"


def _cell(rates: dict[int | None, float]) -> str:
    values = [*rates.values()]
    return f"{_shown(mean(values))}{f' ± {stdev(values):.2f}' if values[1:] else ''} |"
