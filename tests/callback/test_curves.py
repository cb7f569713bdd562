"""Curves that a fit takes: when, of which weights, in which precision, of which measures."""

import pytest
import pytorch_lightning as pl
import torch
from pytorch_lightning.callbacks import StochasticWeightAveraging
from pytorch_lightning.callbacks.weight_averaging import EMAWeightAveraging
from torch import nn
from torch.utils.data import DataLoader
from torchmetrics.classification import MulticlassF1Score
from toys.data import Points, loader, points
from toys.fits import Net, fit, make_trainer

import ewnprune
from ewnprune import EWN, WeightNormPruning, attached_parametrizations

LEVELS = (0, 0.5, 0.9)


def test_curve_every_n_epochs_and_at_the_end(tmp_path):
    callback = WeightNormPruning(EWN(), LEVELS, every_n_epochs=2)
    trainer = fit(tmp_path, Net(), callback, max_epochs=5)
    assert sorted({p.epoch for p in callback.curve.points}) == [1, 3, 4]
    written = ewnprune.read_curve(f"{trainer.log_dir}/sparsity_curve.csv")
    assert written.points == callback.curve.points
    trainer.predict(trainer.lightning_module, DataLoader(points(8).tensors[0], 8))
    assert callback.curve.points == written.points  # to predict is to measure nothing


def test_another_trainers_epochs_are_not_of_the_curve_of_a_fit_that_broke_off(tmp_path):
    class Breaks(pl.Callback):
        def on_train_epoch_start(self, trainer, *_):
            if trainer.current_epoch == 1:
                raise RuntimeError("out of luck")

    model, callback = Net(), WeightNormPruning(EWN(), LEVELS, every_n_epochs=1)
    with pytest.raises(RuntimeError, match="out of luck"):
        fit(tmp_path, model, callback, Breaks())
    fit(tmp_path, model)
    written = ewnprune.read_curve(tmp_path / "sparsity_curve.csv")
    assert {point.epoch for point in written} == {point.epoch for point in callback.curve} == {0}


@pytest.mark.parametrize("every", [None, 1])
@pytest.mark.parametrize("norm", [False, True])
@pytest.mark.parametrize(
    "averaging",
    [lambda: StochasticWeightAveraging(0.01, 1), lambda: EMAWeightAveraging(decay=0.9)],
    ids=["SWA", "EMA"],
)
def test_the_last_curve_is_of_the_averaged_weights(tmp_path, averaging, norm, every):
    torch.manual_seed(0)
    model, callback = Net(), WeightNormPruning(EWN(), LEVELS, every_n_epochs=every)
    if norm:  # which makes SWA train an epoch more
        model.net.insert(1, nn.BatchNorm1d(10))
    trainer = fit(tmp_path, model, callback, averaging(), max_epochs=4)
    x, y = points(40, 1).tensors
    last = callback.curve.where(step=callback.curve.points[-1].step)
    assert [point.sparsity for point in last] == list(LEVELS)
    with torch.no_grad():  # what the user has in hand after the fit
        assert last.points[0].correct == (model.eval()(x).argmax(1) == y).sum().item()
        expected = nn.functional.cross_entropy(model(x), y).item()
    assert last.points[0].loss == pytest.approx(expected, rel=1e-5)
    # validation evaluates EMA's averages in mid-training too, and SWA's at the end alone
    before = [
        note for note in callback.curve.notes if "before StochasticWeightAveraging" in str(note)
    ]
    swa = isinstance(trainer.callbacks[1], StochasticWeightAveraging)
    assert len(before) == (len({p.epoch for p in callback.curve}) if every and swa else 0)
    assert not {"on_train_epoch_end", "on_save_checkpoint"} & set(vars(model))


def test_sweeping_does_not_change_the_training(tmp_path):
    results = []
    for every in (None, 1):
        torch.manual_seed(0)
        model = Net()
        model.net.insert(2, nn.Dropout(0.5))
        fit(tmp_path, model, WeightNormPruning(EWN(), LEVELS, every_n_epochs=every), max_epochs=3)
        results.append(model.state_dict())
    for key, value in results[0].items():
        assert torch.equal(results[1][key], value), key


class Augments(Points):
    """As Lightning has it for data on the device: training batches alone are augmented."""

    def on_after_batch_transfer(self, batch, dataloader_idx):
        x, y = batch
        return (3 * x + 1 if self.trainer.training else x), y


def test_what_augments_training_batches_leaves_those_of_the_curve(tmp_path):
    """Not those that statistics are estimated on, in a fit as afterwards."""
    torch.manual_seed(0)
    model, data = Net(), Augments()
    model.net.insert(1, nn.BatchNorm1d(10))
    fitted, validated = (WeightNormPruning(None, LEVELS) for _ in range(2))
    make_trainer(tmp_path, fitted).fit(model, data)
    dense = fitted.curve.where(sparsity=0.0).points[0]
    x, y = points(40).tensors
    expected = nn.functional.cross_entropy(model.eval()(x), y).item()
    assert dense.loss == pytest.approx(expected, rel=1e-5)
    make_trainer(tmp_path, validated).validate(model, data, verbose=False)
    assert [p.loss for p in fitted.curve] == [p.loss for p in validated.curve]


def test_networks_are_built_at_the_end_of_a_fit_where_asked_for(tmp_path):
    curves, states = [], []
    for realize in ("mask", "remove"):
        torch.manual_seed(0)
        model, callback = Net(), WeightNormPruning(EWN(), (0, 0.5), realize=realize)
        fit(tmp_path, model, callback)
        curves.append(callback.curve)
        states.append(model.state_dict())
    assert [p.correct for p in curves[0]] == [p.correct for p in curves[1]]
    assert [p.macs for p in curves[0]] == [p.macs for p in curves[1]]
    assert all("latency_ms" in point.metrics for point in curves[1])
    for key, value in states[0].items():
        assert torch.equal(states[1][key], value), key
    with pytest.raises(ValueError, match="realize='cut'"):
        WeightNormPruning(EWN(), realize="cut")


@pytest.mark.filterwarnings("ignore:You defined a `validation_step`")
def test_no_validation_data_is_said(tmp_path, capsys):
    callback = WeightNormPruning(EWN(), LEVELS)
    make_trainer(tmp_path, callback).fit(Net(), loader())
    assert callback.curve is None
    assert "no validation data" in capsys.readouterr().out


def test_mixed_precision_trains_in_float32_and_sweeps_as_the_trainer_evaluates(tmp_path):
    torch.manual_seed(0)
    model, callback = Net(), WeightNormPruning(EWN(), LEVELS)
    trainer = fit(tmp_path, model, callback, precision="bf16-mixed")
    assert {p.dtype for p in model.parameters()} == {torch.float32}
    dense = callback.curve.where(sparsity=0.0).points[0]
    (validated,) = trainer.validate(model, loader(40, 1), verbose=False)
    assert dense.loss == pytest.approx(validated["val_loss"], abs=2e-3)


@pytest.mark.slow
def test_compiled_modules_are_swept(tmp_path):
    torch.manual_seed(0)
    model, callback = Net(), WeightNormPruning(EWN(), LEVELS)
    compiled = torch.compile(model, backend="eager")
    fit(tmp_path, compiled, callback)
    assert len(callback.curve) == len(LEVELS)
    assert not attached_parametrizations(model)


class DictBatches(Net):
    def training_step(self, batch, _):
        return nn.functional.cross_entropy(self(batch["x"]), batch["y"])


def test_a_metric_and_a_batch_layout_of_the_users_own(tmp_path):
    x, y = points(40, 1).tensors
    rows = [{"x": a, "y": b} for a, b in zip(x, y, strict=True)]
    callback = WeightNormPruning(
        None, LEVELS, metric=MulticlassF1Score(2), batch=lambda batch: (batch["x"], batch["y"])
    )
    torch.manual_seed(0)
    model = DictBatches()
    fit(tmp_path, model, callback, train=DataLoader(rows, 16), val=DataLoader(rows, 16))
    dense = callback.curve.where(sparsity=0.0).points[0]
    with torch.no_grad():
        expected = MulticlassF1Score(2)(model(x), y).item()
    assert dense.metrics["MulticlassF1Score"] == pytest.approx(expected)
    assert dense.correct == (model(x).argmax(1) == y).sum().item()
