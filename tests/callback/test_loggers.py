"""Loggers by what they can do: real ones where installed, else ones with the same methods."""

import csv

import torch
from matplotlib.figure import Figure
from pytorch_lightning.loggers import CSVLogger, TensorBoardLogger
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from ewnprune import Curve, CurvePoint
from ewnprune.callback.loggers import log_curve, log_norms

CURVE = Curve(
    tuple(
        CurvePoint(
            sparsity=level,
            accuracy=accuracy,
            loss=1 - accuracy,
            score=score,
            split="val",
            metrics={"f1": accuracy / 2},
        )
        for score in ("norm", "random")
        for level, accuracy in ((0.0, 0.98), (0.5, 0.9))
    )
)


def test_tensorboard_gets_scalars_over_sparsity_a_figure_and_histograms(tmp_path):
    logger = TensorBoardLogger(tmp_path)
    log_curve([logger], CURVE, Figure(), step=7)
    log_norms([logger], {"fc1": torch.rand(20)}, step=7)
    logger.experiment.flush()
    events = EventAccumulator(logger.log_dir)
    events.Reload()
    scalars = events.Scalars("prune/val_acc/norm")
    assert [(e.step, round(e.value, 5)) for e in scalars] == [(0, 0.98), (500, 0.9)]
    assert [e.step for e in events.Scalars("prune/val_f1/random")] == [0, 500]
    assert events.Images("prune/val")[0].step == 7
    assert events.Histograms("norms/fc1")[0].histogram_value.num == 20


def test_csv_gets_one_row_per_level(tmp_path):
    logger = CSVLogger(tmp_path)
    log_curve([logger], CURVE, Figure(), step=7)
    logger.save()
    with open(f"{logger.log_dir}/metrics.csv", newline="") as file:
        rows = list(csv.DictReader(file))
    assert [float(row["prune/sparsity"]) for row in rows] == [0.0, 0.5]
    assert [float(row["prune/val_acc/random"]) for row in rows] == [0.98, 0.9]
    assert {row["step"] for row in rows} == {"7"}


class _Recorder:
    """Notes every call; has only the methods it is given."""

    def __init__(self, *names):
        self.calls = []
        for name in names:
            setattr(self, name, lambda *a, _name=name, **k: self.calls.append((_name, a, k)))


def test_wandb_gets_a_table_and_an_axis_of_its_own():
    logger = _Recorder("log_table", "log_metrics")
    logger.experiment = _Recorder("define_metric")
    log_curve([logger], CURVE, Figure(), step=7)
    defined = {args[0]: options["step_metric"] for _, args, options in logger.experiment.calls}
    logged = [args[0] for name, args, _ in logger.calls if name == "log_metrics"]
    assert set().union(*logged) == {*defined, "prune/sparsity"}  # exact names, no globs
    assert set(defined.values()) == {"prune/sparsity"}
    assert all(args[1] is None for name, args, _ in logger.calls if name == "log_metrics")
    ((_, args, table),) = [call for call in logger.calls if call[0] == "log_table"]
    assert args == ("prune/val_curve",)
    assert [row[:2] for row in table["data"]] == [[p.score, p.sparsity] for p in CURVE]
    assert all(len(row) == len(table["columns"]) for row in table["data"])


def test_mlflow_gets_the_figure_and_whole_steps():
    logger = _Recorder("log_metrics")
    logger.run_id, logger.experiment, figure = "run", _Recorder("log_figure"), Figure()
    log_curve([logger], CURVE, figure, step=7)
    assert logger.experiment.calls == [
        ("log_figure", ("run", figure, "sparsity_curve_val.png"), {})
    ]
    assert [args[1] for _, args, _ in logger.calls] == [0, 500]
    allowed = set("abcdefghijklmnopqrstuvwxyz0123456789_/. -")
    assert all(set(key) <= allowed for _, args, _ in logger.calls for key in args[0])


def test_an_unknown_logger_gets_the_numbers():
    for experiment in (None, object()):
        logger = _Recorder("log_metrics")
        logger.experiment = experiment
        log_curve([logger], CURVE, Figure(), step=7)
        log_norms([logger], {"fc1": torch.rand(3)}, step=7)
        assert [args[1] for _, args, _ in logger.calls] == [7, 7]
        assert logger.calls[1][1][0]["prune/val_acc/random"] == 0.9
