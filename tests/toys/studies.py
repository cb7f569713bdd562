"""The folder of a study as `ewnprune compare` leaves it, of numbers that follow from a formula."""

import json
from math import exp

import yaml

from ewnprune.curve.curve import Curve
from ewnprune.curve.files import write_curve
from ewnprune.curve.points import CurvePoint
from ewnprune.files import write_rows
from ewnprune.model.size import Count

LEVELS = (0.0, 0.5, 0.8, 0.9, 0.95)
VERSIONS = {
    "ewnprune": "0.1.0",
    "torch": "2.9.0",
    "python": "3.11.7",
    "platform": "Linux",
    "device": "cpu",
    "threads": "1",
    "processor": "Some Processor",
    "cores": "2",
}
FIT = {"data": {"class_path": "my.Data"}, "model": {"class_path": "my.Model"}}


def accuracy(method, seed, level, split="test", score="norm"):
    """It falls the faster the longer the method's name is."""
    rate = 1 + len(method.partition("[")[0]) / 4
    lost = 0.02 + 0.01 * (exp(rate * level**2) - 1) * (1 + seed * level / 8)
    lost += (0.002 * level if score == "norm_product" else 0) + (split == "val") * 0.001
    return max(0.1, 1 - lost)


def write_study(folder, methods, seeds=3, levels=LEVELS, scores=("norm", "norm_product")):
    """Points, settings and runs.

    Args:
        folder: of the study.
        methods: labels, each with those methods that only rank what it has trained.
        seeds: how many.
        levels: the sparsities.
        scores: of methods that train; others have their name for a score.
    """
    points = []
    for at, (label, ranks) in enumerate(methods.items()):
        for seed in range(seeds):
            for method in (label, *ranks):
                of = scores if method == label else (method,)
                points += _points(method, seed, of, levels)
            run = folder / f"runs/{at}-{seed}"
            (run / "checkpoints").mkdir(parents=True)
            (run / "checkpoints/final.ckpt").touch()
            (run / "fit_0").mkdir()
            fit = {**FIT, "seed_everything": seed, "prune": {"method": label}}
            settings = {"method": label, "seed": seed, "part": None, "fit": fit}
            (run / "run.json").write_text(json.dumps(settings))
            (run / "fit_0/config.yaml").write_text(yaml.safe_dump(fit))
            told = {**VERSIONS, "finished": f"2026-01-0{1 + seed}T10:00:00+00:00", "seconds": "3.5"}
            (run / "versions.json").write_text(json.dumps(told))
            _write_recorded(run, label, seed, levels, scores)
    write_curve(Curve(tuple(points)), folder / "points.csv")
    trains = {name: {"trains": label} for label, ranks in methods.items() for name in ranks}
    settings = {"fit": {"note": "<b id=evil>"}, "vary": {}, "own": trains, "reference": "none"}
    (folder / "study.yaml").write_text(yaml.safe_dump(settings))


def _points(method, seed, scores, levels):
    for split in ("val", "test"):
        for score in scores:
            for level in levels:
                left = 1000 - round(1000 * level)
                yield CurvePoint(
                    method=method,
                    seed=seed,
                    score=score,
                    unit="weights" if method == "magnitude" else "neurons",
                    split=split,
                    sparsity=level,
                    accuracy=accuracy(method, seed, level, split, score),
                    neurons=Count(left, 1000),
                    parameters=Count(8 * left, 8000),
                    macs=Count(7 * left, 7000),
                )


def _write_recorded(run, label, seed, levels, scores):
    norms = ((layer, n) for layer in ("fc1", "fc2") for n in range(20))
    write_rows(
        run / "norms.csv",
        [{"layer": layer, "neuron": n, "norm": max(0, 18 - n) * 0.1} for layer, n in norms],
    )
    write_rows(
        run / "training.csv",
        [{"epoch": epoch, "train/loss": exp(-epoch - len(label) / 9)} for epoch in range(3)],
    )
    of_levels = [(score, level) for score in scores for level in levels if level != 0.8]
    write_rows(
        run / "classes.csv",
        [
            {
                "score": score,
                "sparsity": level,
                "class": name,
                "accuracy": max(
                    0.0, accuracy(label, seed, level, "test", score) - name * level / 50
                ),
            }
            for score, level in of_levels
            for name in range(10)
        ],
    )
    write_rows(
        run / "layers.csv",
        [
            {"score": score, "sparsity": level, "layer": layer, "left": left, "total": total}
            for score, level in of_levels
            for layer, total in (("fc1", 800), ("fc2", 200))
            for left in (total - round(level * total),)
        ],
    )
