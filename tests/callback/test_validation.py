"""Validation data are those of the fit, also where Lightning has not loaded them yet."""

import random

import numpy as np
import torch
from toys.data import Points, loader
from toys.fits import Net, TrainsOnly, fit, make_trainer

from ewnprune import EWN, Finetune, WeightNormPruning
from ewnprune.callback.validation import validation_data

LATE = {"max_epochs": 1, "check_val_every_n_epoch": 5, "num_sanity_val_steps": 0}


def test_a_fit_without_a_validation_has_its_curves_and_is_finetuned(tmp_path):
    callback = WeightNormPruning(EWN(), (0, 0.5), finetune=Finetune(1, 0.5))
    fit(tmp_path, Net(), callback, **LATE)
    assert [(point.epoch, point.total) for point in callback.curve] == [(0, 40)] * 2 + [(1, 40)] * 2


def test_data_of_an_evaluation_before_are_not_those_of_the_fit(tmp_path, capsys):
    callback = WeightNormPruning(EWN(), (0,))
    trainer = make_trainer(tmp_path, callback, **LATE)
    trainer.validate(Net(), loader(8, 5), verbose=False)
    trainer.fit(Net(), loader(), loader(40, 1))
    assert [point.total for point in callback.curve] == [40]
    trainer = make_trainer(tmp_path, callback, **LATE)
    trainer.validate(Net(), loader(8, 5), verbose=False)
    capsys.readouterr()
    trainer.fit(TrainsOnly(), loader())
    assert callback.curve is None and "no validation data" in capsys.readouterr().out


def test_loading_draws_no_random_numbers_of_the_training(tmp_path):
    class Draws(Points):
        def val_dataloader(self):
            self.drawn = random.random(), np.random.rand(), torch.rand(1)
            assert self.trainer.validating
            return super().val_dataloader()

    class Looks(WeightNormPruning):
        def on_train_start(self, trainer, pl_module):
            before = random.getstate(), np.random.get_state()[1].sum(), torch.get_rng_state().sum()
            _, limits = validation_data(trainer)
            after = random.getstate(), np.random.get_state()[1].sum(), torch.get_rng_state().sum()
            assert before == after and limits == [10] and trainer.training

    data = Draws()
    make_trainer(tmp_path, Looks(EWN(), (0,)), **LATE).fit(Net(), data)
    assert data.drawn
