"""Pruning while training: the schedule, what stays zero, what is told of it, what is refused."""

import csv
import math
from itertools import pairwise

import numpy as np
import pytest
import pytorch_lightning as pl
import torch
from pytorch_lightning.callbacks import (
    EarlyStopping,
    GradientAccumulationScheduler,
    ModelCheckpoint,
)
from pytorch_lightning.callbacks.weight_averaging import EMAWeightAveraging
from pytorch_lightning.cli import LightningArgumentParser
from pytorch_lightning.loggers import CSVLogger
from pytorch_lightning.strategies import SingleDeviceStrategy
from toys import fits
from toys.data import points
from toys.gradual import LEVELS, METHODS, Net
from toys.gradual import by_hand as _by_hand
from toys.gradual import fit as _fit
from toys.gradual import loader as _loader
from toys.gradual import made as _made

from ewnprune import EWN, Finetune, Gradual, WeightNormPruning
from ewnprune.scores import norm


class _Watch(pl.Callback):
    """Which neurons of the two hidden layers are gone after each step, whole."""

    def __init__(self):
        self.gone = []

    def on_train_batch_end(self, trainer, pl_module, *_):
        self.gone.append(_gone(pl_module.net))


def _gone(net):
    """By the weights alone: no way in, no bias, no way out."""
    layers = [net[0], net[2], net[4]]
    found = []
    for layer, reader in pairwise(layers):
        rows = ~layer.weight.detach().any(dim=1)
        assert torch.equal(rows, ~reader.weight.detach().any(dim=0))
        assert not layer.bias.detach()[rows].any()
        found.append(rows)
    return found


@pytest.mark.parametrize(("every", "each"), [(None, 1), (3, 3), (100, 100)])
def test_the_schedule_is_the_formula(every, each):
    schedule = Gradual(0.9, 0.25, 0.75, every)
    for step in range(40):
        expected = _by_hand(step, 0.9, 10, 30, each)
        assert schedule.sparsity(step, 40) == pytest.approx(expected), step
    long = [Gradual(0.9, 0.2, 0.7).sparsity(step, 10_000) for step in range(10_000)]
    assert len({*long}) == 51  # a fiftieth of the steps from 2000 to 7000 is 100
    assert np.flatnonzero(np.diff(long)).tolist() == list(range(2099, 7000, 100))
    assert Gradual(0.9).sparsity(0, 1) == 0.9  # a dry run does what a run does


@pytest.mark.parametrize("method", METHODS)
def test_neurons_go_along_the_schedule_and_stay_gone(tmp_path, method):
    """Counts at each step, nothing comes back, and the last curve is of what is left."""
    callback, model = _made(method, Gradual(0.8, 0.25, 0.75, 3))
    watch = _Watch()
    trainer = _fit(tmp_path, model, callback, watch)
    assert trainer.global_step == len(watch.gone) == 32
    before = [torch.zeros(20, dtype=torch.bool), torch.zeros(10, dtype=torch.bool)]
    for step, gone in enumerate(watch.gone):
        level = _by_hand(step, 0.8, 8, 24, 3)
        for size, rows, earlier in zip((20, 10), gone, before, strict=True):
            assert rows.sum() == round(level * size), step
            assert rows[earlier].all(), step
        before = gone
    assert [int(rows.sum()) for rows in _gone(model.net)] == [16, 8]
    curve = callback.curve
    assert {p.method for p in curve} == {f"{callback.method}, gradually to 0.8"}
    assert {p.epoch for p in curve} == {3}
    # nothing is left of the neurons that a level below it would keep
    for score in ("norm", "norm_product"):
        series = curve.where(score=score).points
        assert [p.sparsity for p in series] == list(LEVELS)
        assert [p.neurons.left for p in series] == [6, 6, 6, 2]
        assert len({p.correct for p in series[:3]}) == 1
    x, y = (torch.cat(part) for part in zip(*_loader(40, 1), strict=True))
    assert series[0].correct == (model.eval()(x).argmax(1) == y).sum().item()
    assert not any(p._backward_hooks for p in model.parameters())


class _FromAnother(SingleDeviceStrategy):
    """The first process of several, as another hears of it: there all is the other way round."""

    def broadcast(self, obj, src=0):
        if not isinstance(obj, dict):
            return super().broadcast(obj, src)
        return {name: keep.flip(tuple(range(keep.ndim))) for name, keep in obj.items()}


@pytest.mark.parametrize("several", [False, True])
def test_what_goes_is_what_the_first_score_says_at_that_step(tmp_path, several):
    """At once, before the first step: by hand from the weights at initialisation.

    Where there are several processes, by those of the first: running statistics may differ.
    """
    callback, model = _made("plain", Gradual(0.5, 0.0, 1e-9), scores=["norm_product", "norm"])
    net, watch = model.net, _Watch()
    product = (net[0].weight.norm(dim=1) * net[2].weight.norm(dim=0)).detach()
    strategy = _FromAnother(torch.device("cpu")) if several else "auto"
    _fit(tmp_path, model, callback, watch, max_epochs=1, strategy=strategy)
    gone = watch.gone[0][0].nonzero().flatten().tolist()
    expected = product.argsort()[:10]
    assert sorted(gone) == sorted((19 - expected if several else expected).tolist())


def test_all_processes_finetune_what_the_first_has_pruned(tmp_path):
    masks = []
    for strategy in ("auto", _FromAnother(torch.device("cpu"))):
        callback, model = _made("plain", None, finetune=Finetune(1, 0.5))
        _fit(tmp_path, model, callback, max_epochs=1, strategy=strategy)
        masks.append(callback.finetuning.pruned["masks"])
    for name, keep in masks[0].items():
        assert torch.equal(masks[1][name], keep.flip(tuple(range(keep.ndim)))), name


@pytest.mark.filterwarnings("ignore:.max_epochs. was not set")
def test_a_fit_may_be_so_many_steps_long(tmp_path):
    callback, model = _made("SWN", Gradual(0.8, 0.25, 0.75, 1))
    watch = _Watch()
    _fit(tmp_path, model, callback, watch, max_epochs=-1, max_steps=12)
    counts = [int(gone[0].sum()) for gone in watch.gone]
    assert counts == [round(_by_hand(step, 0.8, 3, 9, 1) * 20) for step in range(12)]


def test_what_went_is_listed_and_logged(tmp_path, capsys):
    callback, model = _made("EWN", Gradual(0.8, 0.25, 0.75, 4))
    watch = _Watch()
    _fit(tmp_path, model, callback, watch, logger=CSVLogger(tmp_path, "runs"))
    folder = tmp_path / "runs" / "version_0"
    rows = list(csv.DictReader((folder / "gradual_neurons.csv").read_text().splitlines()))
    for number, layer in ((0, "net.0"), (1, "net.2")):
        listed = {int(r["neuron"]): int(r["step"]) for r in rows if r["layer"] == layer}
        seen = [gone[number] for gone in watch.gone]
        for neuron in seen[-1].nonzero().flatten().tolist():
            first = next(step for step, gone in enumerate(seen) if gone[neuron])
            assert listed.pop(neuron) == first
        assert not listed
    logged = list(csv.DictReader((folder / "metrics.csv").read_text().splitlines()))
    left = {int(r["step"]): r["gradual/net.0/neurons"] for r in logged if r["gradual/sparsity"]}
    assert [int(float(left[step])) for step in sorted(left)] == [
        20 - round(_by_hand(step, 0.8, 8, 24, 4) * 20) for step in (12, 16, 20, 24)
    ]
    told = capsys.readouterr().out
    assert "pruned while training: 16 of 20 of net.0, 8 of 10 of net.2" in told
    assert str(folder / "gradual_neurons.csv") in told


def test_two_runs_in_one_folder_keep_their_lists(tmp_path):
    for number, to in enumerate((0.8, 0.5)):
        callback, model = _made("plain", Gradual(to))
        _fit(tmp_path, model, callback)
        rows = (tmp_path / f"gradual_neurons{'_1' * number}.csv").read_text().splitlines()
        assert len(rows) == 1 + round(to * 20) + round(to * 10)
    first = (tmp_path / "gradual_neurons.csv").read_text().splitlines()
    assert len(first) == 1 + 16 + 8


def test_a_fit_that_is_stopped_says_how_far_it_came(tmp_path, capsys):
    callback, model = _made("EWN", Gradual(0.8, 0.25, 0.75, 1))
    _fit(tmp_path, model, callback, EarlyStopping("val_loss", patience=2, min_delta=math.inf))
    level = _by_hand(15, 0.8, 8, 24, 1)
    told = f"to {level:.3g} and not 0.8, for the fit was stopped at step 16 of 32"
    assert told in capsys.readouterr().out


class LossDrivenTraining(Net):
    pass


class _Exchanges(Net):
    def on_validation_model_train(self):
        self.trainer.optimizers[0].train()


class _Stream(torch.utils.data.IterableDataset):
    def __iter__(self):
        return iter(points())


@pytest.mark.filterwarnings("ignore:The dirpath has changed", "ignore:.max_epochs. was not set")
def test_what_cannot_be_is_refused(tmp_path):
    for options, message in (
        ({"to": 1}, "to=1: expected a fraction"),
        ({"to": 0.9, "start": 0.7, "end": 0.2}, "0 <= start < end < 1"),
        ({"to": 0.9, "end": 1}, "0 <= start < end < 1"),
        ({"to": 0.9, "every": 0}, "every=0: expected a number of steps"),
    ):
        with pytest.raises(ValueError, match=message):
            Gradual(**options)
    for options, message in (
        ({"gradual": 0.9}, r"gradual=0.9: expected Gradual\(to="),
        ({"gradual": Gradual(0.5), "finetune": Finetune(1)}, "leave out one of the two"),
        ({"gradual": Gradual(0.5), "level_of": "macs"}, "expected level_of='units'"),
        ({"gradual": Gradual(0.5), "inputs": True}, "prune inputs afterwards"),
        ({"gradual": Gradual(0.5), "scores": ["taylor"]}, "score 'taylor', which goes by eval"),
        ({"gradual": Gradual(0.5), "scores": "taylor"}, "score 'taylor', which goes by eval"),
        ({"gradual": Gradual(0.5), "scope": "sensitivity"}, "scope='sensitivity', which goes by"),
    ):
        with pytest.raises(ValueError, match=message):
            WeightNormPruning(EWN(), LEVELS, **options)
    assert WeightNormPruning(EWN(), LEVELS, gradual=Gradual(0.5), scores=norm).scores is norm
    callback, model = _made("EWN", Gradual(0.5))
    with pytest.raises(ValueError, match="gradual needs to know the length"):
        _fit(tmp_path, model, callback, max_epochs=-1)
    with pytest.raises(ValueError, match=r"length .* for data without a length, limit"):
        fits.fit(tmp_path, model, callback, train=torch.utils.data.DataLoader(_Stream()))
    with pytest.raises(ValueError, match="gradual beside EMAWeightAveraging"):
        _fit(tmp_path, model, callback, EMAWeightAveraging())
    with pytest.raises(ValueError, match=r"with on_validation_model_eval or .* finetune"):
        _fit(tmp_path, _Exchanges(), callback)
    with pytest.raises(ValueError, match="gradual with LossDrivenTraining"):
        _fit(tmp_path, LossDrivenTraining(), callback)
    weights, model = _made("plain", Gradual(0.5), scores=["magnitude", "norm"])
    with pytest.raises(ValueError, match="'magnitude', ranks single weights"):
        _fit(tmp_path, model, weights)
    checkpointing = ModelCheckpoint(tmp_path)
    _fit(tmp_path, Net(), callback, checkpointing)
    for options in (None, Gradual(0.6)):
        other, model = _made("EWN", options)
        with pytest.raises(ValueError, match=r"pruned by norm with Gradual\(to=0.5.*resume it"):
            _fit(tmp_path, model, other, ckpt_path=checkpointing.best_model_path)


@pytest.mark.parametrize("together", [[2, 2, 2, 2], [1, 1, 4, 4]], ids=["always", "scheduled"])
def test_accumulated_gradients_count_as_one_step(tmp_path, together):
    callback, model = _made("EWN", Gradual(0.8, 0.25, 0.75, 1))
    watch, scheduled = _Watch(), GradientAccumulationScheduler({0: together[0], 2: together[-1]})
    if together[0] == together[-1]:
        _fit(tmp_path, model, callback, watch, accumulate_grad_batches=together[0])
    else:
        _fit(tmp_path, model, callback, watch, scheduled)
    steps = [step for count in together for step in [1 / count] * 8]
    total = int(sum(steps))  # 16 or 20
    for batch, gone in enumerate(watch.gone):
        step = int(sum(steps[:batch]))
        assert gone[0].sum() == round(_by_hand(step, 0.8, total // 4, 3 * total // 4, 1) * 20)


def test_it_is_asked_for_on_the_command_line():
    parser = LightningArgumentParser(exit_on_error=False)
    parser.add_lightning_class_args(WeightNormPruning, "prune")
    words = ["--prune.parametrization=null", "--prune.gradual.to=0.9", "--prune.gradual.every=7"]
    made = parser.instantiate_classes(parser.parse_args(words)).prune
    assert made.gradual.options == Gradual(0.9, every=7)
