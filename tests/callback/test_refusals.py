"""What cannot work is refused by name, before the training where that is possible."""

import sys
from types import SimpleNamespace

import pytest
from pytorch_lightning.callbacks import (
    BaseFinetuning,
    Callback,
    EarlyStopping,
    ModelCheckpoint,
    ModelPruning,
    StochasticWeightAveraging,
)
from pytorch_lightning.callbacks.weight_averaging import EMAWeightAveraging
from pytorch_lightning.cli import LightningCLI
from toys.commands import SMALL
from toys.data import Points
from toys.fits import BuildsInSetup, Net, fit, make_trainer

import ewnprune.lightning
from ewnprune import EWN, SWN, Finetune, WeightNormPruning, attached_parametrizations
from ewnprune.callback.refusals import put_behind, refuse_what_cannot_work
from ewnprune.cli import main

LEVELS = (0, 0.5, 0.9)


class ForCLI(Net):
    def __init__(self):
        super().__init__()


@pytest.mark.filterwarnings("ignore:No seed found", "ignore:.*configure_optimizers. will be over")
def test_an_optimizer_made_too_early_is_refused(tmp_path, monkeypatch):
    """A stock LightningCLI builds its optimizer from the plain parameters before any hook."""
    monkeypatch.setattr(sys, "argv", ["stock"])
    with pytest.raises(
        RuntimeError, match=r"no optimizer holds the EWN parameters of layer 'net.0'"
    ):
        LightningCLI(
            ForCLI,
            Points,
            trainer_defaults={
                "callbacks": [WeightNormPruning(EWN(), LEVELS)],
                "logger": False,
                "enable_checkpointing": False,
                "enable_progress_bar": False,
                "enable_model_summary": False,
                "accelerator": "cpu",
                "default_root_dir": str(tmp_path),
                "max_epochs": 1,
            },
            save_config_callback=None,
            args=["fit", "--optimizer=SGD", "--optimizer.lr=0.1"],
        )


def test_model_pruning_beside_it_is_refused(tmp_path):
    with pytest.raises(ValueError, match="ModelPruning"):
        fit(tmp_path, Net(), WeightNormPruning(EWN(), LEVELS), ModelPruning("l1_unstructured"))


@pytest.mark.parametrize(
    "averaging", [lambda: StochasticWeightAveraging(0.01), lambda: EMAWeightAveraging()]
)
def test_averaging_callbacks_must_come_later(tmp_path, averaging):
    with pytest.raises(ValueError, match="put WeightNormPruning before it"):
        fit(tmp_path, Net(), averaging(), WeightNormPruning(EWN(), LEVELS))
    with pytest.raises(ValueError, match="copies the model before"):
        fit(tmp_path, BuildsInSetup(), WeightNormPruning(EWN(), LEVELS), averaging())


class Thaw(BaseFinetuning):
    def freeze_before_training(self, pl_module):
        self.freeze(pl_module.net[0])

    def finetune_function(self, pl_module, epoch, optimizer):
        if epoch == 1:
            self.unfreeze_and_add_param_group(pl_module.net[0], optimizer)


def test_callbacks_that_freeze_must_come_later(tmp_path):
    with pytest.raises(ValueError, match="plain once unfrozen: put WeightNormPruning bef"):
        fit(tmp_path, Net(), Thaw(), WeightNormPruning(EWN(), LEVELS))
    with pytest.raises(ValueError, match="Thaw freezes layers before"):
        fit(tmp_path, Net(), Thaw(), WeightNormPruning(EWN(), LEVELS, weight_space=True))
    fit(tmp_path, Net(), Thaw(), WeightNormPruning(None, LEVELS), max_epochs=1)


class OfWhatTrains(ForCLI):
    def configure_optimizers(self):
        return self.optimizer([p for p in self.parameters() if p.requires_grad])


@pytest.mark.parametrize(
    "other", [["StochasticWeightAveraging", "swa_lrs=0.01", "device=cpu"], [f"{__name__}.Thaw"]]
)
def test_on_the_command_line_it_comes_before_them(other, tmp_path, capsys, monkeypatch):
    monkeypatch.setitem(sys.modules, __name__, sys.modules[Thaw.__module__])
    name, *options = other
    words = [f"--trainer.callbacks+={name}", *(f"--trainer.callbacks.{o}" for o in options)]
    words += [f"--model={__name__}.OfWhatTrains", "--data=toys.data.Points", *SMALL]
    words += ["--prune.sparsities=[0,0.5]", "--trainer.max_epochs=2"]
    assert main(["fit", *words, f"--trainer.default_root_dir={tmp_path}"]) == 0
    out = capsys.readouterr().out
    assert "chosen  net.0" in out and "sparsity" in out


SPARSE = "prune/val/acc@0.9"


@pytest.mark.parametrize(
    ("other", "options", "remedy"),
    [
        (
            ModelCheckpoint(monitor=SPARSE),
            {"check_val_every_n_epoch": 2},
            "save_on_train_epoch_end",
        ),
        (ModelCheckpoint(monitor=SPARSE), {"val_check_interval": 0.5}, "save_on_train_epoch_end"),
        (ModelCheckpoint(monitor=SPARSE, every_n_train_steps=3), {}, "every_n_epochs alone"),
        (EarlyStopping(SPARSE), {"val_check_interval": 2}, "check_on_train_epoch_end=True"),
        (EarlyStopping(SPARSE, check_on_train_epoch_end=False), {}, "check_on_train_epoch_end"),
        (ModelCheckpoint(monitor=SPARSE), {}, None),
        (EarlyStopping(SPARSE), {}, None),
        (EarlyStopping("pruned_loss"), {"val_check_interval": 0.5}, None),
        (ModelCheckpoint(monitor="val_loss"), {"check_val_every_n_epoch": 2}, None),
        (
            ModelCheckpoint(monitor=SPARSE, save_on_train_epoch_end=True),
            {"check_val_every_n_epoch": 2},
            None,
        ),
    ],
)
def test_decisions_before_the_curve_is_taken_are_refused(tmp_path, other, options, remedy):
    callback = WeightNormPruning(EWN(), LEVELS, every_n_epochs=1)
    trainer = make_trainer(tmp_path, callback, other, **options)
    if remedy is None:
        refuse_what_cannot_work(callback, trainer, later=False)
        return
    with pytest.raises(ValueError, match=f"monitors 'prune/val/acc@0.9' and decides .*{remedy}"):
        refuse_what_cannot_work(callback, trainer, later=False)


def test_what_does_not_fit_the_model_is_an_error_before_training(tmp_path):
    class Untraceable(Net):
        def forward(self, x):
            return self.net(x) if x.sum().item() > -1e9 else x

    # masked it can be, but not removed: nor is that found out at the end
    model = Untraceable()
    with pytest.raises(ValueError, match=r"cannot be removed safely from 'net\.0'"):
        fit(tmp_path, model, WeightNormPruning(EWN(), LEVELS, realize="remove"))
    assert model.trainer.global_step == 0
    # a score that needs to know all readers makes do without, and says so
    callback = WeightNormPruning(EWN(), LEVELS, scores=["norm_product"])
    fit(tmp_path, Untraceable(), callback)
    (note,) = [note for note in callback.curve.notes if note.kind == "score"]
    assert "those of 'net.0' are not known (the model cannot be traced" in str(note)
    finetuned = WeightNormPruning(EWN(), LEVELS, finetune=Finetune(1, score="norm_product"))
    with pytest.warns(UserWarning, match="norm_product: outgoing weights count as 1"):
        fit(tmp_path, Untraceable(), finetuned)


def test_bad_arguments_are_refused_at_once():
    with pytest.raises(ValueError, match=r"1\.2"):
        WeightNormPruning(EWN(), (0, 1.2))
    with pytest.raises(ValueError, match="nrom"):
        WeightNormPruning(EWN(), LEVELS, scores=["nrom"])
    with pytest.raises(ValueError, match="every_n_epochs=0"):
        WeightNormPruning(EWN(), LEVELS, every_n_epochs=0)
    with pytest.raises(ValueError, match="scope='globl'"):
        WeightNormPruning(EWN(), LEVELS, scope="globl")
    for name in ("forward", "batch", "loss_fn"):
        with pytest.raises(ValueError, match=f"{name}=3: expected a function"):
            WeightNormPruning(EWN(), LEVELS, **{name: 3})


@pytest.mark.parametrize("stage", ["fit", "validate", "test"])
@pytest.mark.parametrize("strategy", ["FSDPStrategy", "DeepSpeedStrategy"])
def test_what_flattens_weights_is_refused_wherever_they_are_measured(strategy, stage):
    trainer = SimpleNamespace(strategy=type(strategy, (), {})())
    callback = WeightNormPruning(EWN(), LEVELS)
    with pytest.raises(ValueError, match=f"{strategy}, which flattens"):
        callback.setup(trainer, Net(), stage)
    callback.setup(trainer, Net(), "predict")


def test_half_precision_that_overflows_is_refused_by_name():
    strategy = type("SingleDeviceStrategy", (), {})()
    trainer = SimpleNamespace(strategy=strategy, precision="16-true", callbacks=[])
    with pytest.raises(ValueError, match="precision='16-true'"):
        refuse_what_cannot_work(WeightNormPruning(EWN(), LEVELS), trainer, later=False)


def test_a_folder_on_another_machine_is_refused(tmp_path, monkeypatch):
    """The files went to a folder called s3: in the current one."""
    monkeypatch.chdir(tmp_path)
    logger = SimpleNamespace(save_dir="s3://bucket/runs")
    trainer = make_trainer(tmp_path)
    monkeypatch.setattr(type(trainer), "loggers", [logger])
    with pytest.raises(ValueError, match="s3://bucket/runs: expected a path on this machine"):
        WeightNormPruning(EWN()).curves.rehearse(trainer, Net())


def test_what_is_attached_already_must_be_the_same(tmp_path):
    model = Net()
    ewnprune.reparametrize(model, EWN())
    for parametrization, name in ((SWN(), "SWN"), (None, "plain")):
        with pytest.raises(ValueError, match=f"has EWN on layers already and this fit is {name}"):
            fit(tmp_path, model, WeightNormPruning(parametrization, LEVELS))
    fit(tmp_path, model, WeightNormPruning(EWN(), LEVELS))
    assert not attached_parametrizations(model)


class _Refuses(Callback):
    def setup(self, trainer, pl_module, stage):
        raise ValueError("not with me")


def test_a_fit_that_another_callback_refuses_leaves_the_model_as_it_was(tmp_path):
    model = BuildsInSetup()
    with pytest.raises(ValueError, match="not with me"):
        fit(tmp_path, model, WeightNormPruning(EWN(), LEVELS), _Refuses())
    assert "configure_model" not in vars(model)


def test_two_of_them_are_refused(tmp_path):
    with pytest.raises(ValueError, match="two WeightNormPruning callbacks"):
        fit(tmp_path, Net(), WeightNormPruning(EWN(), LEVELS), WeightNormPruning(SWN(), LEVELS))
    first, forced = (WeightNormPruning(EWN(), LEVELS) for _ in range(2))
    averaging, others, last = EMAWeightAveraging(), [Callback(), Callback()], Callback()
    callbacks = [first, averaging, *others, forced, last]
    put_behind(callbacks)  # the command line's own; then the fit refuses them
    assert callbacks == [first, *others, forced, averaging, last]


def test_half_precision_is_warned_of(tmp_path):
    with pytest.warns(UserWarning, match="bf16-true"):
        fit(tmp_path, Net(), WeightNormPruning(EWN(), LEVELS), precision="bf16-true", max_epochs=1)


def test_weight_space_with_another_optimizer_is_refused(tmp_path):
    with pytest.raises(ValueError, match=r"needs the optimizer EWNSGD and .* made SGD"):
        fit(tmp_path, Net(), WeightNormPruning(EWN(), LEVELS, weight_space=True))
    with pytest.raises(ValueError, match="parametrization=None: expected EWN"):
        fit(tmp_path, Net(), WeightNormPruning(None, LEVELS, weight_space=True))
