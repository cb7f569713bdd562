"""The tables of `benchmarks.control`: what was chosen, means over seeds, differences in pairs."""

from typing import Any

import numpy as np

from benchmarks.intervals import differences, means

ARM = ("parametrization", "nested", "penalty")
SETTING = ("rate", "strength", "alpha")


def show(
    rows: list[dict[str, Any]],
    longer: list[dict[str, Any]] | None,
    levels: tuple[float, ...],
    scores: tuple[str, ...],
) -> None:
    """Print the tables in Markdown; of longer trainings where they are given."""
    curves = {}
    print("| training | nested | penalty | chosen | score |", *(f"{100 * x:g} % |" for x in levels))
    print("| --- | --- | --- | --- | --- |", *("--- |" for _ in levels))
    for arm in dict.fromkeys(_arm(row) for row in rows):
        best, score, found = chosen(rows, longer, arm, levels, scores)
        if not len(found):
            continue
        curves[arm] = found
        setting = ", ".join(f"{item} {best[item]}" for item in SETTING if best[item])
        cells = [f"{cell} |" for cell in means(found)]
        nested = "yes" if arm[1] == "True" else "no"
        print(f"| {arm[0]} | {nested} | {arm[2]} | {setting} | `{score}` |", *cells)
    print("\nDifferences in pairs of one seed, points, 95 % t interval:\n")
    print("| difference |", *(f"{100 * level:g} % |" for level in levels), "mean |")
    print("| --- |", *("--- |" for _ in levels), "--- |")
    for arm, found in curves.items():
        for item, other in _controls(arm):
            if other in curves and len(curves[other]) == len(found):
                both = (np.c_[rates, rates.mean(1)] for rates in (found, curves[other]))
                cells = differences(*both)
                print(f"| {_name(arm)}: {item} |", *(f"{cell} |" for cell in cells))


def chosen(
    rows: list[dict[str, Any]],
    longer: list[dict[str, Any]] | None,
    arm: tuple[str, ...],
    levels: tuple[float, ...],
    scores: tuple[str, ...],
) -> tuple[dict[str, Any], str, np.ndarray]:
    """The best trial of an arm, by which score, and its test accuracies, ``(seeds, levels)``."""
    of = [row for row in rows if _arm(row) == arm]
    trials = [row for row in of if row["split"] == "val"]
    if longer is not None:
        of = [row for row in longer if _arm(row) == arm]
        trials = [row for row in of if row["split"] == "val"] or trials
    if not trials:  # settings come from elsewhere, and the score is the first
        trials, scores = of[:1], scores[:1]
    tried = [(row, score) for row in trials for score in scores]
    best, score = max(tried, key=lambda found: np.mean(_accuracies(*found, levels)))
    tests = [
        row
        for row in of
        if row["split"] == "test" and all(row[item] == best[item] for item in SETTING)
    ]
    return best, score, np.array([_accuracies(row, score, levels) for row in tests])


def _arm(row: dict[str, Any]) -> tuple[str, ...]:
    return tuple(row[item] for item in ARM)


def _accuracies(row: dict[str, Any], score: str, levels: tuple[float, ...]) -> list[float]:
    return [float(row[f"{score} {level:g}"]) for level in levels]


def _controls(arm: tuple[str, ...]) -> list[tuple[str, tuple[str, ...]]]:
    """What an arm is compared with: the same without each of its ingredients."""
    parametrization, nested, penalty = arm
    found: list[tuple[str, tuple[str, ...]]] = []
    if parametrization != "plain":
        found.append((f"{parametrization} - plain", ("plain", nested, penalty)))
    if nested == "True":
        found.append(("nested - not", (parametrization, "False", penalty)))
    if penalty != "none":
        found.append((f"{penalty} - none", (parametrization, nested, "none")))
    return found


def _name(arm: tuple[str, ...]) -> str:
    return f"{arm[0]}, {'nested' if arm[1] == 'True' else 'not nested'}, {arm[2]}"
