"""The callback estimates the statistics of BatchNorms anew, and disturbs nothing by it."""

from functools import partial

import pytest
import pytorch_lightning as pl
import torch
from torch import nn
from torch.utils.data import BatchSampler, DataLoader, IterableDataset, RandomSampler
from toys.data import Points, loader, points
from toys.fits import Net, fit, make_trainer

from ewnprune import EWN, WeightNormPruning, sparsity_curve
from ewnprune.pruning.score_names import SCORE

LEVELS = (0, 0.5, 0.8)


def normed():
    torch.manual_seed(0)
    return Net(nn.Sequential(nn.Linear(6, 10), nn.BatchNorm1d(10), nn.ReLU(), nn.Linear(10, 2)))


def told(curve):
    return [note.text for note in curve.notes if note.kind == "statistics"]


def shuffled(**options):
    return DataLoader(points(), 16, shuffle=True, **options)


@pytest.mark.parametrize("parametrization", [None, EWN()], ids=["plain", "ewn"])
def test_the_curve_is_that_of_the_function_on_the_training_batches(tmp_path, parametrization):
    model, train = normed(), loader()
    pruning = WeightNormPruning(parametrization, LEVELS, recalibrate=3)
    fit(tmp_path, model, pruning, train=train)
    expected = sparsity_curve(model, loader(40, 1), LEVELS, SCORE, recalibrate=[*train][:3])
    for one, other in zip(pruning.curve, expected, strict=True):
        assert (one.correct, one.loss) == (other.correct, pytest.approx(other.loss, rel=1e-5))
    assert told(pruning.curve) == told(expected) != []
    stale = WeightNormPruning(parametrization, LEVELS, recalibrate=0)
    fit(tmp_path / "stale", normed(), stale, train=train)
    assert told(stale.curve) == []
    assert [p.loss for p in stale.curve][1:] != [p.loss for p in pruning.curve][1:]
    assert stale.curve.points[0].loss == pruning.curve.points[0].loss


def test_the_first_of_several_loaders_is_told_of(tmp_path):
    class Two(Net):
        def training_step(self, batch, _):
            return super().training_step(batch["a"] if isinstance(batch, dict) else batch, _)

    model, train = Two(normed().net), {"a": loader(), "b": loader()}
    callback = WeightNormPruning(None, LEVELS)
    fit(tmp_path, model, callback, train=train, max_epochs=1)
    assert "training batches are of the first of 2 training data loaders" in told(callback.curve)


class Drawing(IterableDataset):
    """A stream: what is taken of it is gone."""

    def __init__(self):
        self.given = 0

    def __iter__(self):
        for sample in points():
            self.given += 1
            yield sample


def drawn_by_a_batch_sampler(generator):
    drawn = RandomSampler(points(), generator=generator)
    return DataLoader(points(), batch_sampler=BatchSampler(drawn, 16, drop_last=False))


@pytest.mark.parametrize(
    "data",
    [
        shuffled,
        # one worker: torch warns of more than a machine has cores
        partial(shuffled, num_workers=1, persistent_workers=True),
        drawn_by_a_batch_sampler,
    ],
)
def test_training_is_as_without_it(tmp_path, data):
    weights = []
    for recalibrate in (0, 2):
        pl.seed_everything(4, verbose=False)
        own = torch.Generator().manual_seed(1)
        model = normed()
        pruning = WeightNormPruning(EWN(), LEVELS, every_n_epochs=1, recalibrate=recalibrate)
        fit(tmp_path / str(recalibrate), model, pruning, train=data(generator=own))
        weights.append(model.state_dict())
        assert len(told(pruning.curve)) == (recalibrate > 0)
    assert all(torch.equal(value, weights[1][key]) for key, value in weights[0].items())


def test_nothing_is_taken_of_a_stream(tmp_path):
    stream, pruning = Drawing(), WeightNormPruning(None, LEVELS)
    fit(tmp_path, normed(), pruning, train=DataLoader(stream, 16))
    assert stream.given == 2 * 64
    (note,) = told(pruning.curve)
    assert "those of the whole network: the training data are a stream" in note


def test_the_images_are_the_same_for_every_curve_of_a_seed(tmp_path):
    curves = []
    for draws in (0, 7):
        pl.seed_everything(4, verbose=False)
        model = normed()
        pruning = WeightNormPruning(None, LEVELS, recalibrate=2)
        trainer = make_trainer(tmp_path, pruning, max_epochs=1)
        trainer.fit(model, loader(), loader(40, 1))
        torch.rand(draws)  # random numbers stand elsewhere
        trainer = make_trainer(tmp_path, pruning)
        trainer.validate(model, datamodule=Shuffled(), verbose=False)
        curves.append(pruning.curve.points)
    assert curves[0] == curves[1]
    torch.manual_seed(4)  # that of the run
    drawn = [*shuffled()][:2]
    val = Shuffled().val_dataloader()
    expected = sparsity_curve(model, val, LEVELS, SCORE, recalibrate=drawn)
    assert [p.loss for p in curves[0]] == pytest.approx([p.loss for p in expected], rel=1e-5)


class Shuffled(Points):
    def train_dataloader(self):
        return shuffled()


class NoTraining(pl.LightningDataModule):
    def test_dataloader(self):
        return loader(40, 1)


class Broken(NoTraining):
    def train_dataloader(self):
        raise FileNotFoundError("train.bin is not on this machine")


@pytest.mark.filterwarnings("ignore:.pin_memory.")  # which from_datasets sets
@pytest.mark.parametrize(
    ("data", "message"),
    [
        (Shuffled(), "on 4 training batches (64 samples)"),
        (
            pl.LightningDataModule.from_datasets(
                points(), test_dataset=points(), batch_size=16, num_workers=0
            ),
            "on 4 training batches (64 samples)",
        ),
        (NoTraining(), "no training data are at hand"),
        (Broken(), "FileNotFoundError: train.bin is not on this machine"),
    ],
)
def test_an_evaluation_asks_the_data_module_for_training_data(tmp_path, data, message):
    pruning = WeightNormPruning(None, LEVELS)
    make_trainer(tmp_path, pruning).test(normed(), datamodule=data, verbose=False)
    (note,) = told(pruning.curve)
    assert message in note


def test_without_batch_norm_no_training_data_are_asked_for(tmp_path):
    pruning = WeightNormPruning(None, LEVELS)
    make_trainer(tmp_path, pruning).test(Net(), datamodule=Broken(), verbose=False)
    assert told(pruning.curve) == []


@pytest.mark.parametrize("recalibrate", [-1, 2.5, True, None])
def test_what_is_no_number_of_batches_is_refused(recalibrate):
    with pytest.raises(ValueError, match=r"recalibrate=.*: expected a number of training batches"):
        WeightNormPruning(None, recalibrate=recalibrate)
