"""Four methods in the budget of the first run, over seeds: the README's figure.

    python -m benchmarks.first_run

trains 784-1024-10 on MNIST plainly, with group lasso, under EWN as it comes and by the recipe, as
``ewnprune fit`` with no options does, with each seed. The checkpoints are swept on test data;
which score each method is shown by, its validation data say. Goes on where it was stopped (after a
change of configs or code give another ``--folder``), writes
``docs/figures/first_run.csv``, ``.png`` and ``.svg``, and prints the table. The strength of the
lasso is what ``ewnprune compare`` takes of four in a like budget, docs/compare.md.
"""

import argparse
from pathlib import Path
from statistics import mean, stdev

from benchmarks.bands import Line, draw_bands
from ewnprune import Curve, read_curve, write_curve
from ewnprune.cli import main
from ewnprune.study.estimates import estimate_accuracy

PLAIN = ["--config", "first_run_plain.yaml"]
LASSO = ["--trainer.callbacks+=ewnprune.GroupLasso", "--trainer.callbacks.strength=0.003"]
METHODS = {
    "plain": PLAIN,
    "EWN": [*PLAIN, "--prune.parametrization=EWN"],
    "group_lasso": [*PLAIN, *LASSO],
    "recipe": ["--config", "first_run.yaml"],
}
NAMES = {
    "plain": "plain training",
    "EWN": "EWN as it comes",
    "group_lasso": "group lasso",
    "recipe": "EWN with the recipe",
}
SCORES = ["norm", "norm_product", "norm_with_bias_product"]
LEVELS = (0, 0.5, 0.8, 0.9, 0.95, 0.98)
OUT = Path(__file__).parent.parent / "docs" / "figures" / "first_run"


def run(method: str, seed: int, folder: Path) -> Curve:
    """The curves on validation and test data: fit and sweep, or what an earlier call left."""
    place = folder / f"{method}-{seed}"
    tested = place / "test" / "sparsity_curve_test.csv"
    if not tested.is_file():
        logger = ["--trainer.logger=CSVLogger", f"--trainer.logger.save_dir={folder}"]
        common = [*METHODS[method], f"--prune.scores={SCORES}", *logger]
        common += [f"--trainer.logger.name={place.name}", "--trainer.enable_progress_bar=false"]
        common += [f"--seed_everything={seed}", f"--data.seed={seed}"]
        if not any(place.glob("fit_*/sparsity_curve.csv")):  # the last that a fit writes
            attempt = sum(1 for _ in place.glob("fit_*"))
            assert main(["fit", *common, f"--trainer.logger.version=fit_{attempt}"]) == 0
        (checkpoint,) = _fitted(place).glob("checkpoints/*.ckpt")
        sweep = ["--split=test", "--ckpt_path", str(checkpoint), "--trainer.logger.version=test"]
        assert main(["sweep", *common, *sweep]) == 0
    validated = _fitted(place) / "sparsity_curve.csv"
    curve = read_curve(validated) + read_curve(tested)
    return curve.tagged(method=method, seed=seed, epoch=None, step=None)


def _fitted(place: Path) -> Path:
    (validated,) = place.glob("fit_*/sparsity_curve.csv")
    return validated.parent


def chosen(curve: Curve, method: str) -> Curve:
    """The method's points on test data, by the score that is best on validation data."""

    def on_validation(score: str) -> float:
        points = curve.where(method=method, score=score, split="val")
        return mean(point.measure() for point in points)

    return curve.where(method=method, score=max(SCORES, key=on_validation), split="test")


def line(points: Curve, method: str) -> Line:
    """Mean over seeds and its 95 % interval, level by level."""
    levels = sorted({point.sparsity for point in points})
    found = [
        estimate_accuracy({p.seed: p.measure() for p in points.where(sparsity=s)}) for s in levels
    ]
    bands = ([getattr(each, name) for each in found] for name in ("mean", "low", "high"))
    return Line("EWN" if method == "recipe" else method, NAMES[method], levels, *bands)


def table(curve: Curve) -> str:
    """Mean and standard deviation over seeds, method by level, as Markdown."""
    lines = ["| method | score | " + " | ".join(f"{100 * level:g} %" for level in LEVELS) + " |"]
    lines.append("| --- | --- |" + " --- |" * len(LEVELS))
    for method, name in NAMES.items():
        points = chosen(curve, method)
        found = [[100 * p.measure() for p in points.where(sparsity=level)] for level in LEVELS]
        cells = [f"{mean(each):.1f}" + _spread(each) for each in found]
        lines.append(f"| {name} | {points.points[0].score} | {' | '.join(cells)} |")
    return "\n".join(lines)


def _spread(values: list[float]) -> str:
    return f" ± {stdev(values):.1f}" if len(values) > 1 else ""


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seeds", type=int, nargs="+", default=[*range(5)])
    parser.add_argument("--folder", type=Path, default=Path("runs") / "first_run")
    parser.add_argument("--draw", action="store_true", help="only draw what the CSV file holds")
    options = parser.parse_args()
    curve = read_curve(OUT.with_suffix(".csv")) if options.draw else Curve()
    for seed in [] if options.draw else options.seeds:
        for method in METHODS:
            curve += run(method, seed, options.folder)
    if not options.draw:
        write_curve(curve, OUT.with_suffix(".csv"))
    title = f"MNIST, 784-1024-10, 6 epochs, {len({p.seed for p in curve})} seeds"
    lines = [line(chosen(curve, method), method) for method in NAMES]
    draw_bands(lines, title, OUT.with_suffix(".png"), OUT.with_suffix(".svg"))
    print(table(curve))
