"""The studies of the recipe beside each other, in pairs of one seed, from their CSV files.

    python -m benchmarks.recipe_table

prints the means over seeds, and by how much `recipe_every` is ahead of each other method, with 95 %
t intervals, in Markdown. Which study a method is of: recipe.yaml, recipe_every.yaml,
recipe_every_controls.yaml, and `alone` of recipe_alone.yaml, networks of the sizes that are left.
"""

from pathlib import Path

from benchmarks.intervals import difference, mean_of
from ewnprune.files import read_rows

LEVELS = (0.0, 0.9, 0.95, 0.98)
STUDIES = ("recipe", "recipe_every", "recipe_every_controls")
FIRST = "recipe_every"
ALONE = {0.9: "alone_102", 0.95: "alone_51", 0.98: "alone_20"}

Curve = dict[float, dict[int | None, float]]


def curves() -> dict[str, Curve]:
    """Of each method and level the test accuracy of each seed, in %."""
    found: dict[str, Curve] = {}
    for study in STUDIES:
        found |= _curves(study)
    alone = _curves("recipe_alone")
    return found | {"alone": {level: alone[name][0.0] for level, name in ALONE.items()}}


def _curves(study: str) -> dict[str, Curve]:
    found: dict[str, Curve] = {}
    for row in read_rows(Path(__file__).with_name(f"{study}.csv")):
        of_seeds = {
            int(name.split()[1]): 100 * float(value)
            for name, value in row.items()
            if name.startswith("seed ") and value
        }
        found.setdefault(row["method"], {})[float(row["sparsity"])] = of_seeds
    return found


def main() -> None:
    """Print the tables."""
    found = curves()
    head = "".join(f" {100 * level:g} % |" for level in LEVELS)
    print(f"| method | seeds |{head}\n| --- | --- |" + " --- |" * len(LEVELS))
    for name, curve in found.items():
        cells = [f"{mean_of(curve[level]) if level in curve else ''} |" for level in LEVELS]
        print(f"| `{name}` | {len(curve[0.9])} |", *cells)
    print(f"\n| `{FIRST}` less |{head}\n| --- |" + " --- |" * len(LEVELS))
    for name, curve in found.items():
        if name != FIRST:
            cells = [
                f"{difference(found[FIRST][level], curve.get(level, {}))} |" for level in LEVELS
            ]
            print(f"| `{name}` |", *cells)


if __name__ == "__main__":
    main()
