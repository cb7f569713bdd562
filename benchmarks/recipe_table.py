"""The studies of the recipe beside each other, in pairs of one seed, from their CSV files.

    python -m benchmarks.recipe_table

prints the means over seeds, and by how much `recipe_every` is ahead of each other method, with 95 %
t intervals, in Markdown. Which study a method is of: recipe.yaml, recipe_every.yaml and
recipe_every_controls.yaml.
"""

from pathlib import Path

from benchmarks.intervals import difference, mean_of
from ewnprune.files import read_rows

LEVELS = (0.0, 0.9, 0.95, 0.98)
STUDIES = ("recipe", "recipe_every", "recipe_every_controls")
FIRST = "recipe_every"

Curve = dict[float, dict[int | None, float]]


def curves() -> dict[str, Curve]:
    """Of each method and level the test accuracy of each seed, in %."""
    found: dict[str, Curve] = {}
    for study in STUDIES:
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
        cells = [f"{mean_of(curve[level])} |" for level in LEVELS]
        print(f"| `{name}` | {len(curve[0.0])} |", *cells)
    print(f"\n| `{FIRST}` less |{head}\n| --- |" + " --- |" * len(LEVELS))
    for name, curve in found.items():
        if name != FIRST:
            cells = [f"{difference(found[FIRST][level], curve[level])} |" for level in LEVELS]
            print(f"| `{name}` |", *cells)


if __name__ == "__main__":
    main()
