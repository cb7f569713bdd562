"""Loggers by what they can do: real ones where installed, else ones with the same methods."""

import csv

import pytest
import torch
from matplotlib.figure import Figure
from pytorch_lightning.callbacks import EarlyStopping, ModelCheckpoint
from pytorch_lightning.loggers import CSVLogger, TensorBoardLogger
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from toys.data import loader
from toys.fits import Net, fit

from ewnprune import EWN, Curve, CurvePoint, WeightNormPruning, sparsity_curve
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
    for epoch in (3, 4):  # as it is taken every epoch
        log_curve([logger], CURVE.tagged(epoch=epoch), Figure(), step=epoch + 4)
    diverged = {"fc2": torch.full((3,), torch.nan), "fc3": torch.tensor([1.0, torch.inf])}
    log_norms([logger], {"fc1": torch.rand(20), **diverged}, step=7)
    logger.experiment.flush()
    events = EventAccumulator(logger.log_dir)
    events.Reload()
    scalars = events.Scalars("prune/val_acc/norm/epoch_4/over_thousandths_removed")
    assert [(e.step, round(e.value, 5)) for e in scalars] == [(0, 0.98), (500, 0.9)]
    tags = [tag for tag in events.Tags()["scalars"] if tag.startswith("prune/")]
    assert len(tags) == 2 * 2 * 3  # epochs, scores, measures
    assert {tuple(e.step for e in events.Scalars(tag)) for tag in tags} == {(0, 500)}
    assert [image.step for image in events.Images("prune/val")] == [7, 8]
    assert events.Tags()["histograms"] == ["norms/fc1"]
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
    # of Comet's name, with other arguments than MLflow's
    for experiment in (None, object(), _Recorder("log_figure")):
        logger = _Recorder("log_metrics")
        logger.experiment = experiment
        log_curve([logger], CURVE, Figure(), step=7)
        log_norms([logger], {"fc1": torch.rand(3)}, step=7)
        assert [args[1] for _, args, _ in logger.calls] == [7, 7]
        assert logger.calls[1][1][0]["prune/val_acc/random"] == 0.9


@pytest.mark.parametrize("first", [True, False], ids=["listed first", "listed last"])
def test_the_checkpoint_that_prunes_best_can_be_kept(first, tmp_path):
    """Beside the last one, which prunes worse here: the rate is too high to settle."""
    torch.manual_seed(3)
    pruning = WeightNormPruning(EWN(), (0, 0.8), every_n_epochs=1)
    keep = ModelCheckpoint(
        tmp_path, monitor="prune/val/acc@0.8", mode="max", filename="{epoch}", save_last=False
    )
    callbacks = [keep, pruning] if first else [pruning, keep]
    model = Net(optimizer=lambda parameters: torch.optim.SGD(parameters, lr=2.0))
    trainer = fit(tmp_path, model, *callbacks, max_epochs=6)
    found = [point.accuracy for point in pruning.curve.where(sparsity=0.8)]
    best = found.index(max(found))
    assert found[-1] < found[best], "the last would do"
    assert keep.best_model_path == str(tmp_path / f"epoch={best}.ckpt")
    # measured anew, of a network that has never heard of the callback
    plain = Net()
    plain.load_state_dict(torch.load(keep.best_model_path, weights_only=True)["state_dict"])
    curve = sparsity_curve(plain, loader(40, 1), (0, 0.8))
    assert [point.accuracy for point in curve] == [
        point.accuracy for point in pruning.curve.where(epoch=best)
    ]
    assert float(trainer.callback_metrics["prune/val/acc@0.8"]) == pytest.approx(found[-1])


def test_a_fit_stops_where_pruning_no_longer_gets_better(tmp_path):
    pruning = WeightNormPruning(EWN(), (0, 0.5), every_n_epochs=1)
    stop = EarlyStopping("prune/val/acc@0.5", mode="max", patience=1, min_delta=1.0)
    trainer = fit(tmp_path, Net(), stop, pruning, max_epochs=6)
    assert trainer.current_epoch == 2  # nothing gets better by a whole
