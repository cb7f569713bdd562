"""Plain, SWN and EWN as they come, side by side, in the usual budget of 5 epochs.

    python -m benchmarks.side_by_side

trains each method with each seed by its shipped config, sweeps the checkpoints on test data and
writes ``docs/figures/side_by_side.csv``, and prints the table. What is in ``--folder`` is not run
again: give another after a change of configs or code. With more
threads, or sums in another order, the last bits of a step differ, and after 5 epochs the curve of
one seed differs about as much as those of two seeds: so ten seeds, and their spread.
"""

import argparse
from pathlib import Path
from statistics import mean, stdev

from ewnprune import Curve, read_curve, write_curve
from ewnprune.cli import main

METHODS = ("plain", "swn", "ewn")
LEVELS = (0, 0.5, 0.8, 0.9, 0.95, 0.98)
OUT = Path(__file__).parent.parent / "docs" / "figures"


def run(method: str, seed: int, folder: Path) -> Curve:
    """Fit and sweep, or read what an earlier call left."""
    curve = folder / f"{method}-{seed}" / "test" / "sparsity_curve_test.csv"
    if curve.is_file():
        return read_curve(curve)
    config = f"mnist_mlp_{method}.yaml"
    quiet = ["--trainer.enable_progress_bar=false", f"--seed_everything={seed}"]
    logger = ["--trainer.logger=CSVLogger", f"--trainer.logger.save_dir={folder}"]
    logger += [f"--trainer.logger.name={method}-{seed}"]
    common = ["--config", config, *quiet, f"--data.seed={seed}", *logger]
    assert main(["fit", *common, "--trainer.logger.version=fit"]) == 0
    (checkpoint,) = (folder / f"{method}-{seed}" / "fit" / "checkpoints").glob("*.ckpt")
    sweep = ["--split=test", "--ckpt_path", str(checkpoint), "--trainer.logger.version=test"]
    assert main(["sweep", *common, *sweep]) == 0
    return read_curve(curve).tagged(seed=seed)


def table(curve: Curve) -> str:
    """Mean and standard deviation over seeds, method by level, as Markdown."""
    lines = ["| method | score | " + " | ".join(f"{100 * level:g} %" for level in LEVELS) + " |"]
    lines.append("| --- | --- |" + " --- |" * len(LEVELS))
    for method in dict.fromkeys(point.method for point in curve):
        for score in dict.fromkeys(point.score for point in curve):
            row = curve.where(method=method, score=score)
            found = ([100 * p.measure() for p in row.where(sparsity=level)] for level in LEVELS)
            cells = (f"{mean(values):.1f} ± {stdev(values):.1f}" for values in found)
            lines.append(f"| {method} | {score} | {' | '.join(cells)} |")
    return "\n".join(lines)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seeds", type=int, nargs="+", default=[*range(10)])
    parser.add_argument("--folder", type=Path, default=Path("runs") / "side_by_side")
    options = parser.parse_args()
    curve = Curve()
    for seed in options.seeds:
        for method in METHODS:
            curve += run(method, seed, options.folder)
    write_curve(curve, OUT / "side_by_side.csv")
    print(table(curve))
