"""What the runs of a study leave in their folders, and what they refuse as they begin."""

import csv
import warnings

import pytest
import torch
import yaml
from pytorch_lightning import Callback, LightningDataModule, LightningModule
from pytorch_lightning.callbacks import ModelCheckpoint, StochasticWeightAveraging
from pytorch_lightning.loggers import CSVLogger
from torch import nn
from torch.utils.data import DataLoader, IterableDataset
from torchmetrics import MeanSquaredError
from toys.data import Points, loader, points
from toys.fits import Net, TrainsOnly, assert_same_tensors, make_trainer

from ewnprune import EWN, WeightNormPruning
from ewnprune.callback.checkpoint import read_checkpoint
from ewnprune.files import read_rows, write_rows
from ewnprune.study.dense import DenseOfPrunedSize
from ewnprune.study.run import Recorder, _measured_on, _write_training


class Recurrent(nn.Module):
    def __init__(self):
        super().__init__()
        self.rnn, self.head = nn.LSTM(6, 8, batch_first=True), nn.Linear(8, 2)

    def forward(self, x):
        return self.head(self.rnn(x.unsqueeze(1))[0][:, -1])


class Regression(Net):
    def training_step(self, batch, _):
        return nn.functional.mse_loss(self(batch[0])[:, 0], batch[1][:, 0])


class Error(MeanSquaredError):
    def update(self, outputs, targets):
        super().update(outputs[:, 0], targets[:, 0])


class LogsEpoch(Net):
    def training_step(self, batch, index):
        self.log("epoch", float(self.current_epoch))
        return super().training_step(batch, index)


class Stream(IterableDataset):
    def __iter__(self):
        return iter(points(48))


def _trainer(folder, pruning=None, *callbacks, **options):
    (folder / "checkpoints").mkdir(exist_ok=True)
    pruning = WeightNormPruning(None, (0, 0.5), ("norm",)) if pruning is None else pruning
    return make_trainer(folder, *callbacks, Recorder(str(folder)), pruning, **options)


@pytest.mark.parametrize(
    ("levels", "told"), [((0.25, 0.75), (0.25, 0.75)), ((0, 0.25, 0.8), (0, 0.8))]
)
def test_details_are_of_the_levels_that_are_compared(tmp_path, levels, told):
    pruning = WeightNormPruning(None, levels, ("norm",))
    _trainer(tmp_path, pruning).test(Net(), loader(), verbose=False)
    for name in ("classes.csv", "layers.csv"):
        assert {float(row["sparsity"]) for row in read_rows(tmp_path / name)} == {*told}


def test_norms_of_recurrent_layers_are_kept(tmp_path):
    trainer = _trainer(tmp_path)
    trainer.save_checkpoint = lambda path: None  # of a fit, which this is not
    (recorder,) = (each for each in trainer.callbacks if isinstance(each, Recorder))
    steps = trainer.fit_loop.epoch_loop.automatic_optimization.optim_progress.optimizer.step
    steps.total.completed = 1
    recorder.on_train_end()
    recorder.on_fit_end(trainer, Net(Recurrent()))
    with open(tmp_path / "norms.csv", newline="") as file:
        assert [row["layer"] for row in csv.DictReader(file)] == ["net.rnn"] * 8


class FailsOnce(Callback):
    def __init__(self):
        self.failed = False

    def on_train_end(self, trainer, pl_module):
        if not self.failed:
            self.failed = True
            raise OSError("no space left")


@pytest.mark.parametrize("whole", [True, False])
def test_a_run_cut_off_after_its_last_epoch_is_finished(tmp_path, whole):
    folder = tmp_path / "checkpoints"
    keep_last = ModelCheckpoint(folder, "last", enable_version_counter=False)
    fails = FailsOnce()
    fails.failed = whole
    trainer = _trainer(tmp_path, WeightNormPruning(EWN(), (0, 0.5)), keep_last, fails)
    if not whole:
        with pytest.raises(OSError, match="no space left"):
            trainer.fit(Net(), loader(), loader(40, 1))
        assert not (folder / "final.ckpt").exists() and not (tmp_path / "norms.csv").exists()
        checkpoint = folder / "last.ckpt"
        trainer = _trainer(tmp_path, WeightNormPruning(EWN(), (0, 0.5)), keep_last, fails)
    trainer.fit(Net(), loader(), loader(40, 1), ckpt_path=None if whole else checkpoint)
    last, final = (read_checkpoint(folder / f"{name}.ckpt") for name in ("last", "final"))
    assert final["global_step"] == 8
    assert_same_tensors(final, last, "")
    with open(tmp_path / "norms.csv", newline="") as file:
        norms = [float(row["norm"]) for row in csv.DictReader(file)]
    assert norms == pytest.approx(final["state_dict"]["net.0.weight"].norm(dim=1).tolist())


def test_averages_that_were_cut_off_are_not_left_out(tmp_path):
    """They come when training ends, which it does not again: last.ckpt is of before."""
    folder, fails = tmp_path / "checkpoints", FailsOnce()
    keep_last = ModelCheckpoint(folder, "last", enable_version_counter=False)

    def fit(**options):
        averaging = StochasticWeightAveraging(0.05, swa_epoch_start=1, device=None)
        pruning, recorder = WeightNormPruning(None, (0, 0.5)), Recorder(str(tmp_path))
        given = pruning, keep_last, fails, averaging, recorder
        make_trainer(tmp_path, *given, max_epochs=3).fit(Net(), loader(), loader(40, 1), **options)

    with pytest.raises(OSError, match="no space left"):
        fit()
    with pytest.raises(
        ValueError, match=r"StochasticWeightAveraging puts averages .* trained anew"
    ):
        fit(ckpt_path=folder / "last.ckpt")
    assert not (folder / "final.ckpt").exists()


def test_a_fit_without_a_batch_is_not_finished(tmp_path):
    _trainer(tmp_path, limit_train_batches=0).fit(Net(), loader(), loader(40, 1))
    assert not (tmp_path / "checkpoints" / "final.ckpt").exists()


def test_epochs_of_a_stream_say_how_far_a_run_is(tmp_path, monkeypatch):
    trainer = _trainer(tmp_path, max_epochs=4, limit_val_batches=0)
    monkeypatch.setattr("ewnprune.study.run.time.monotonic", iter(range(0, 10_000, 5)).__next__)
    trainer.fit(TrainsOnly(), DataLoader(Stream(), 16))
    assert (tmp_path / "progress").read_text() == "0.7500\n"


def test_of_an_epoch_that_was_trained_again_the_last_attempt_holds(tmp_path):
    """The tenth comes after the second, whatever the order of their names."""
    for attempt, losses in {2: {0: 0.9, 1: 0.8}, 10: {1: 0.5, 2: 0.4}}.items():
        (tmp_path / f"fit_{attempt}").mkdir()
        rows = [{"epoch": epoch, "train/loss": loss} for epoch, loss in losses.items()]
        write_rows(tmp_path / f"fit_{attempt}" / "metrics.csv", rows)
    _write_training(tmp_path)
    with open(tmp_path / "training.csv", newline="") as file:
        assert [row["train/loss"] for row in csv.DictReader(file)] == ["0.9", "0.5", "0.4"]


def test_a_model_may_log_its_epochs(tmp_path):
    logger = CSVLogger(tmp_path, name="", version="fit_0")
    trainer = _trainer(tmp_path, max_epochs=2, logger=logger)
    trainer.fit(LogsEpoch(), loader(), loader(40, 1))
    _write_training(tmp_path)
    with open(tmp_path / "training.csv", newline="") as file:
        assert [row["epoch"] for row in csv.DictReader(file)] == ["0", "1"]


def test_a_task_without_an_accuracy_is_refused_before_it_is_trained(tmp_path):
    data = [DataLoader([(x, y[None].float()) for x, y in points(32)], 16) for _ in range(2)]
    trainer = _trainer(tmp_path, WeightNormPruning(None, (0, 0.5), ("norm",), metric=Error()))
    model = Regression()
    before = [parameter.clone() for parameter in model.parameters()]
    with pytest.raises(ValueError, match=r"a study compares accuracies, and 'accuracy' was not"):
        trainer.fit(model, *data)
    assert all(map(torch.equal, before, model.parameters()))


class NotTested(Net):
    test_step = LightningModule.test_step


class NoTestData(Points):
    test_dataloader = LightningDataModule.test_dataloader


class NoValidationData(Points):
    val_dataloader = LightningDataModule.val_dataloader


@pytest.mark.parametrize(
    ("model", "data", "lacking"),
    [
        (NotTested, Points, "NotTested has no test_step.*limit_test_batches: 0"),
        (Net, NoTestData, "NoTestData has no test_dataloader.*limit_test_batches: 0"),
        (Net, NoValidationData, "NoValidationData has no val_dataloader.*limit_val_batches: 0"),
        (TrainsOnly, Points, "TrainsOnly has no validation_step.*limit_val_batches: 0"),
    ],
)
def test_what_could_not_be_measured_is_refused_before_it_is_trained(tmp_path, model, data, lacking):
    with warnings.catch_warnings():  # Lightning has its own word
        warnings.simplefilter("ignore")
        with pytest.raises(ValueError, match=lacking):
            _trainer(tmp_path).fit(model(), datamodule=data())
    assert not list(tmp_path.glob("checkpoints/*"))


def test_loaders_that_are_given_to_a_data_module_are_its_own(tmp_path):
    data = LightningDataModule()
    data.train_dataloader = loader  # as LightningDataModule.from_datasets does it
    data.val_dataloader = data.test_dataloader = lambda: loader(40, 1)
    _trainer(tmp_path).fit(Net(), datamodule=data)
    assert (tmp_path / "checkpoints/final.ckpt").is_file()


def test_what_has_no_batch_is_not_asked_to_be_measured(tmp_path):
    for limits, splits in (
        ({}, ["validate", "test"]),
        ({"limit_test_batches": 0, "limit_val_batches": 0.5}, ["validate"]),
        ({"limit_test_batches": None, "limit_val_batches": "0"}, ["test"]),
    ):
        (tmp_path / "config.yaml").write_text(yaml.safe_dump({"trainer": limits}))
        assert _measured_on(tmp_path) == splits


def test_dense_networks_have_the_size_of_those_pruned_beside_them(tmp_path):
    sizes = []
    for level, dense in ((0.5, []), (0.0, [DenseOfPrunedSize(0.5)])):
        model = Net(
            nn.Sequential(
                *(nn.Linear(6, 20), nn.ReLU(), nn.Linear(20, 40), nn.ReLU(), nn.Linear(40, 2))
            )
        )
        pruning = WeightNormPruning(None, (level,), ("norm",), exclude="net.0")
        trainer = make_trainer(tmp_path, *dense, pruning, max_epochs=1)
        trainer.fit(model, datamodule=Points())
        sizes.append(pruning.curve.points[0].parameters.left)
    assert sizes == [602, 602]
    costs = WeightNormPruning(None, (0,), ("norm",), level_of="macs")
    trainer = make_trainer(tmp_path, DenseOfPrunedSize(0.5), costs)
    with pytest.raises(ValueError, match="without a fraction of its neurons"):
        trainer.fit(Net(), datamodule=Points())
