import copy
import math
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import lightning.pytorch
import pytest
import pytorch_lightning
import torch
from pytorch_lightning.callbacks import (
    LearningRateFinder,
    ModelCheckpoint,
    ModelPruning,
    StochasticWeightAveraging,
)
from pytorch_lightning.callbacks.weight_averaging import EMAWeightAveraging
from pytorch_lightning.cli import LightningCLI
from pytorch_lightning.loggers import CSVLogger
from torch import nn
from torch.utils.data import DataLoader, TensorDataset
from torchmetrics.classification import MulticlassF1Score

import ewnprune.lightning
from ewnprune import EWN, SWN, WeightNormPruning, attached_parametrizations
from ewnprune.callback import WeightNormPruning as Callback
from ewnprune.callback.refusals import refuse_what_cannot_work

LEVELS = (0, 0.5, 0.9)


def _data(n=64, seed=0):
    generator = torch.Generator().manual_seed(seed)
    x = torch.randn(n, 6, generator=generator)
    return TensorDataset(x, (x[:, 0] * x[:, 1] > 0).long())


def _loaders():
    return {
        "train_dataloaders": DataLoader(_data(), batch_size=16),
        "val_dataloaders": DataLoader(_data(40, 1), batch_size=16),
    }


def _module(base):
    class Net(base):
        def __init__(self):
            super().__init__()
            self.net = nn.Sequential(nn.Linear(6, 10), nn.ReLU(), nn.Linear(10, 2))

        def forward(self, x):
            return self.net(x)

        def training_step(self, batch, _):
            x, y = batch
            return nn.functional.cross_entropy(self(x), y)

        def validation_step(self, batch, _):
            self.log("val_loss", self.training_step(batch, _))

        def test_step(self, batch, _):
            self.log("test_loss", self.training_step(batch, _))

        def configure_optimizers(self):
            return torch.optim.SGD(self.parameters(), lr=0.1, momentum=0.9)

    return Net


Net = _module(pytorch_lightning.LightningModule)


class BuildsInSetup(Net):
    def __init__(self):
        super().__init__()
        del self.net

    def setup(self, stage):
        self.net = nn.Sequential(nn.Linear(6, 10), nn.ReLU(), nn.Linear(10, 2))


class BuildsInConfigureModel(BuildsInSetup):
    setup = pytorch_lightning.LightningModule.setup

    def configure_model(self):
        if not hasattr(self, "net"):
            self.net = nn.Sequential(nn.Linear(6, 10), nn.ReLU(), nn.Linear(10, 2))


def _trainer(tmp_path, *callbacks, package=pytorch_lightning, **options):
    defaults = {
        "max_epochs": 2,
        "accelerator": "cpu",
        "devices": 1,
        "enable_progress_bar": False,
        "enable_model_summary": False,
        "log_every_n_steps": 1,
        "logger": package.pytorch.loggers.CSVLogger(tmp_path)
        if package is lightning
        else CSVLogger(tmp_path),
        "default_root_dir": tmp_path,
    }
    trainer = package.pytorch.Trainer if package is lightning else package.Trainer
    return trainer(callbacks=list(callbacks), **{**defaults, **options})


def _fit(tmp_path, model, *callbacks, ckpt_path=None, **options):
    trainer = _trainer(tmp_path, *callbacks, **options)
    trainer.fit(model, **_loaders(), ckpt_path=ckpt_path)
    return trainer


class _Watch(pytorch_lightning.Callback):
    """What is attached while training, and which names the optimizer holds."""

    def on_train_start(self, trainer, pl_module):
        self.attached = list(attached_parametrizations(pl_module))
        held = {id(p) for group in trainer.optimizers[0].param_groups for p in group["params"]}
        self.held = {name for name, p in pl_module.named_parameters() if id(p) in held}


@pytest.mark.parametrize("model_class", [Net, BuildsInSetup, BuildsInConfigureModel])
def test_attaches_before_the_optimizer_wherever_layers_are_built(tmp_path, model_class):
    torch.manual_seed(0)
    watch, model = _Watch(), model_class()
    callback = WeightNormPruning(EWN(), LEVELS)
    _fit(tmp_path, model, callback, watch)
    assert watch.attached == ["net.0"]
    assert "net.0.parametrizations.weight.original0" in watch.held
    assert "net.0.parametrizations.weight.original1" in watch.held
    assert not attached_parametrizations(model)
    assert "configure_model" not in vars(model)
    assert "on_save_checkpoint" not in vars(model)
    assert [p.sparsity for p in callback.curve.where(score="norm").points] == list(LEVELS)


def test_training_moves_the_attached_parameters_as_by_hand(tmp_path):
    """Two epochs under the Trainer are the same two epochs in a bare loop."""
    torch.manual_seed(0)
    model = Net()
    bare = copy.deepcopy(model.net)
    _fit(tmp_path, model, WeightNormPruning(EWN(), LEVELS))
    ewnprune.reparametrize(bare, EWN())
    optimizer = torch.optim.SGD(bare.parameters(), lr=0.1, momentum=0.9)
    for _ in range(2):
        for x, y in DataLoader(_data(), batch_size=16):
            optimizer.zero_grad()
            nn.functional.cross_entropy(bare(x), y).backward()
            optimizer.step()
    ewnprune.fold(bare)
    for key, value in bare.state_dict().items():
        assert torch.equal(model.net.state_dict()[key], value), key


def test_both_lightning_namespaces(tmp_path):
    for package, callback_class in (
        (pytorch_lightning, Callback),
        (lightning, ewnprune.lightning.WeightNormPruning),
    ):
        torch.manual_seed(0)
        base = getattr(package, "pytorch", package).LightningModule
        model, callback = _module(base)(), callback_class(SWN(), LEVELS)
        trainer = _trainer(tmp_path / package.__name__, callback, package=package)
        trainer.fit(model, **_loaders())
        assert len(callback.curve.where(score="norm").points) == len(LEVELS)
        if package is pytorch_lightning:
            first = callback.curve
    assert [p.accuracy for p in first.points] == [p.accuracy for p in callback.curve.points]


@pytest.mark.parametrize("weights_only", [False, True])
@pytest.mark.parametrize("parametrization", [EWN, SWN])
def test_checkpoints_are_plain(tmp_path, weights_only, parametrization):
    torch.manual_seed(0)
    model = Net()
    checkpointing = ModelCheckpoint(tmp_path, save_weights_only=weights_only)
    _fit(tmp_path, model, WeightNormPruning(parametrization(), LEVELS), checkpointing)
    path = checkpointing.best_model_path
    stored = torch.load(path, weights_only=True)
    assert list(stored["state_dict"]) == [f"net.{key}" for key in model.net.state_dict()]
    fresh = Net.load_from_checkpoint(path)
    for key, value in model.state_dict().items():
        assert torch.equal(fresh.state_dict()[key], value), key
    plain = nn.Sequential(nn.Linear(6, 10), nn.ReLU(), nn.Linear(10, 2))
    plain.load_state_dict({k.removeprefix("net."): v for k, v in stored["state_dict"].items()})


@pytest.mark.filterwarnings("ignore:The dirpath has changed")
@pytest.mark.parametrize("parametrization", [EWN(), SWN(), None], ids=["EWN", "SWN", "plain"])
def test_resuming_is_the_uninterrupted_run_bit_for_bit(tmp_path, parametrization):
    def run(folder, epochs, ckpt_path=None):
        torch.manual_seed(0)
        model = Net()
        callback = WeightNormPruning(parametrization, LEVELS, scores=["norm", "norm_change"])
        checkpointing = ModelCheckpoint(tmp_path / folder)
        options = {"max_epochs": epochs, "ckpt_path": ckpt_path}
        _fit(tmp_path / folder, model, callback, checkpointing, **options)
        stored = torch.load(checkpointing.best_model_path, weights_only=True)
        return callback.curve, stored, checkpointing.best_model_path

    curve, whole, _ = run("whole", 4)
    _, _, half = run("half", 2)
    resumed_curve, resumed, _ = run("resumed", 4, ckpt_path=half)
    assert resumed_curve == curve
    assert bool(whole["ewnprune"]["originals"]) == (parametrization is not None)
    for tensors in (
        lambda c: c["state_dict"],
        lambda c: c["ewnprune"]["originals"],
        lambda c: c["ewnprune"]["initial_norms"],
        lambda c: {k: v["momentum_buffer"] for k, v in c["optimizer_states"][0]["state"].items()},
    ):
        assert tensors(whole).keys() == tensors(resumed).keys()
        for key, value in tensors(whole).items():
            assert torch.equal(tensors(resumed)[key], value), key


def test_resuming_with_another_method_is_refused(tmp_path):
    checkpointing = ModelCheckpoint(tmp_path)
    _fit(tmp_path, Net(), WeightNormPruning(EWN(), LEVELS), checkpointing)
    with pytest.raises(ValueError, match=r"trained with EWN on 'net.0', and this run has SWN"):
        _fit(
            tmp_path,
            Net(),
            WeightNormPruning(SWN(), LEVELS),
            ckpt_path=checkpointing.best_model_path,
            max_epochs=3,
        )


@pytest.mark.filterwarnings("ignore:The dirpath has changed")
def test_testing_with_and_without_the_callback(tmp_path):
    torch.manual_seed(0)
    model, checkpointing = Net(), ModelCheckpoint(tmp_path)
    trainer = _fit(tmp_path, model, WeightNormPruning(EWN(), LEVELS), checkpointing)
    test = DataLoader(_data(50, 2), batch_size=16)
    best = trainer.test(model, test, ckpt_path="best", verbose=False)
    for callbacks in ([], [callback := WeightNormPruning(EWN(), LEVELS)]):
        fresh = _trainer(tmp_path, *callbacks)
        again = fresh.test(Net(), test, ckpt_path=checkpointing.best_model_path, verbose=False)
        assert again == best
    assert {p.split for p in callback.curve.points} == {"test"}
    assert callback.curve.where(score="norm").points[0].total == 50


def test_several_fits_in_one_process(tmp_path):
    torch.manual_seed(0)
    model = Net()
    for _ in range(3):
        _fit(tmp_path, model, WeightNormPruning(EWN(), LEVELS))
        assert list(model.net.state_dict()) == ["0.weight", "0.bias", "2.weight", "2.bias"]


def test_learning_rate_finder_restores_the_originals(tmp_path):
    class Tunable(Net):
        def __init__(self):
            super().__init__()
            self.lr = 0.1

        def configure_optimizers(self):
            return torch.optim.SGD(self.parameters(), lr=self.lr)

    before = {}

    class Snapshot(pytorch_lightning.Callback):
        def on_train_start(self, trainer, pl_module):
            before.update({k: v.clone() for k, v in pl_module.state_dict().items()})

    torch.manual_seed(0)
    model = Tunable()
    expected = copy.deepcopy(model.net)
    ewnprune.reparametrize(expected, EWN())
    finder = LearningRateFinder(num_training_steps=4, early_stop_threshold=None)
    _fit(tmp_path, model, WeightNormPruning(EWN(), LEVELS), finder, Snapshot(), max_epochs=1)
    # Snapshot ran last at the start of the true training, after the finder had put things back
    for key, value in expected.state_dict().items():
        assert torch.equal(before[f"net.{key}"], value), key


@pytest.mark.filterwarnings("ignore:No seed found", "ignore:.*configure_optimizers. will be over")
def test_an_optimizer_made_too_early_is_refused(tmp_path, monkeypatch):
    """A stock LightningCLI builds its optimizer from the plain parameters before any hook."""
    monkeypatch.setattr(sys, "argv", ["stock"])
    with pytest.raises(
        RuntimeError, match=r"no optimizer holds the EWN parameters of layer 'net.0'"
    ):
        LightningCLI(
            _WithData,
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


class _WithData(Net):
    def train_dataloader(self):
        return DataLoader(_data(), batch_size=16)

    def val_dataloader(self):
        return DataLoader(_data(40, 1), batch_size=16)


def test_model_pruning_beside_it_is_refused(tmp_path):
    with pytest.raises(ValueError, match="ModelPruning"):
        _fit(tmp_path, Net(), WeightNormPruning(EWN(), LEVELS), ModelPruning("l1_unstructured"))


@pytest.mark.parametrize(
    "averaging", [lambda: StochasticWeightAveraging(0.01), lambda: EMAWeightAveraging()]
)
def test_averaging_callbacks_must_come_later(tmp_path, averaging):
    with pytest.raises(ValueError, match="put WeightNormPruning before it"):
        _fit(tmp_path, Net(), averaging(), WeightNormPruning(EWN(), LEVELS))
    with pytest.raises(ValueError, match="copies the model before"):
        _fit(tmp_path, BuildsInSetup(), WeightNormPruning(EWN(), LEVELS), averaging())


def test_curve_every_n_epochs_and_at_the_end(tmp_path):
    callback = WeightNormPruning(EWN(), LEVELS, every_n_epochs=2)
    trainer = _fit(tmp_path, Net(), callback, max_epochs=5)
    assert sorted({p.epoch for p in callback.curve.points}) == [1, 3, 4]
    written = ewnprune.read_curve(f"{trainer.log_dir}/sparsity_curve.csv")
    assert written.points == callback.curve.points


@pytest.mark.filterwarnings("ignore:The dirpath has changed")
def test_a_resumed_run_keeps_the_curves_of_before(tmp_path):
    def run(folder, epochs, ckpt_path=None):
        torch.manual_seed(0)
        callback = WeightNormPruning(EWN(), LEVELS, every_n_epochs=1)
        checkpointing = ModelCheckpoint(tmp_path / folder)
        options = {"max_epochs": epochs, "ckpt_path": ckpt_path}
        trainer = _fit(tmp_path / folder, Net(), callback, checkpointing, **options)
        files = [
            Path(trainer.log_dir, f"sparsity_curve.{kind}").read_bytes() for kind in ("csv", "json")
        ]
        return callback.curve, files, checkpointing.best_model_path

    whole, files, _ = run("whole", 4)
    _, _, half = run("half", 2)
    resumed, again, _ = run("resumed", 4, half)
    assert resumed == whole
    assert [p.epoch for p in resumed.where(sparsity=0.0)] == [0, 1, 2, 3]
    assert again == files


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
    trainer = _fit(tmp_path, model, callback, averaging(), max_epochs=4)
    x, y = _data(40, 1).tensors
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
        _fit(tmp_path, model, WeightNormPruning(EWN(), LEVELS, every_n_epochs=every), max_epochs=3)
        results.append(model.state_dict())
    for key, value in results[0].items():
        assert torch.equal(results[1][key], value), key


def test_networks_are_built_at_the_end_of_a_fit_where_asked_for(tmp_path):
    curves, states = [], []
    for realize in ("mask", "remove"):
        torch.manual_seed(0)
        model, callback = Net(), WeightNormPruning(EWN(), (0, 0.5), realize=realize)
        _fit(tmp_path, model, callback)
        curves.append(callback.curve)
        states.append(model.state_dict())
    assert [p.correct for p in curves[0]] == [p.correct for p in curves[1]]
    assert [p.macs for p in curves[0]] == [p.macs for p in curves[1]]
    assert all("latency_ms" in point.metrics for point in curves[1])
    for key, value in states[0].items():
        assert torch.equal(states[1][key], value), key
    with pytest.raises(ValueError, match="realize='cut'"):
        WeightNormPruning(EWN(), realize="cut")


def test_norm_statistics_are_logged(tmp_path):
    trainer = _fit(tmp_path, Net(), WeightNormPruning(None, LEVELS))
    logged = trainer.logged_metrics
    for statistic in ("q05", "q50", "q95", "effective", "gini"):
        assert f"norms/net.0/{statistic}" in logged


@pytest.mark.filterwarnings("ignore:You defined a `validation_step`")
def test_no_validation_data_is_said(tmp_path, capsys):
    callback = WeightNormPruning(EWN(), LEVELS)
    trainer = _trainer(tmp_path, callback)
    trainer.fit(Net(), DataLoader(_data(), batch_size=16))
    assert callback.curve is None
    assert "no validation data" in capsys.readouterr().out


def test_what_does_not_fit_the_model_is_an_error_before_training(tmp_path):
    class Untraceable(Net):
        def forward(self, x):
            return self.net(x) if x.sum() > -1e9 else x

    # masked it can be, but not removed: nor is that found out at the end
    model = Untraceable()
    with pytest.raises(ValueError, match=r"cannot be removed safely from 'net\.0'"):
        _fit(tmp_path, model, WeightNormPruning(EWN(), LEVELS, realize="remove"))
    assert model.trainer.global_step == 0
    # a score that needs to know all readers makes do without, and says so
    callback = WeightNormPruning(EWN(), LEVELS, scores=["norm_product"])
    _fit(tmp_path, Untraceable(), callback)
    (note,) = [note for note in callback.curve.notes if note.kind == "score"]
    assert "those of 'net.0' are not known (the model cannot be traced" in str(note)


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


def test_two_processes_train_and_come_home_folded(tmp_path):
    """ddp_spawn sends the worker's weights back into the main process's plain model.

    They are those that another callback put in when the fit ended, and so is the last curve.
    """
    script = tmp_path / "spawn.py"
    script.write_text(_SPAWN)
    done = subprocess.run(
        [sys.executable, "-W", "ignore", str(script), str(tmp_path)],
        capture_output=True,
        text=True,
        timeout=180,
        check=False,
    )
    assert done.returncode == 0, done.stderr[-3000:]
    assert "home and trained" in done.stdout


_SPAWN = """
import sys, torch, pytorch_lightning as pl
from torch import nn
from torch.utils.data import DataLoader, TensorDataset
from torchmetrics.classification import MulticlassF1Score
from ewnprune import EWN, WeightNormPruning, read_curve

class PutsIn(pl.Callback):
    def on_fit_end(self, trainer, pl_module):
        with torch.no_grad():
            for parameter in pl_module.parameters():
                parameter.add_(0.1)

class Net(pl.LightningModule):
    def __init__(self):
        super().__init__()
        self.net = nn.Sequential(nn.Linear(6, 10), nn.ReLU(), nn.Linear(10, 2))
    def forward(self, x):
        return self.net(x)
    def training_step(self, batch, _):
        return nn.functional.cross_entropy(self(batch[0]), batch[1])
    def validation_step(self, batch, _):
        self.training_step(batch, _)
    def configure_optimizers(self):
        return torch.optim.SGD(self.parameters(), lr=0.1)

def loader():
    x = torch.randn(64, 6, generator=torch.Generator().manual_seed(0))
    return DataLoader(TensorDataset(x, (x[:, 0] > 0).long()), batch_size=8)

if __name__ == "__main__":
    torch.manual_seed(0)
    model = Net()
    before = {k: v.clone() for k, v in model.state_dict().items()}
    trainer = pl.Trainer(accelerator="cpu", devices=2, strategy="ddp_spawn", max_epochs=1,
                         logger=False, enable_progress_bar=False, enable_model_summary=False,
                         enable_checkpointing=False, default_root_dir=sys.argv[1],
                         callbacks=[WeightNormPruning(EWN(), (0, 0.5), every_n_epochs=1), PutsIn()])
    trainer.fit(model, loader(), loader())
    curve = read_curve(sys.argv[1] + "/sparsity_curve.json")
    x, y = loader().dataset.tensors
    with torch.no_grad():
        outputs = model(x)
    assert len(curve) == 2 and curve.points[0].total == 64
    assert curve.points[0].correct == int((outputs.argmax(1) == y).sum()), curve.points
    loss = nn.functional.cross_entropy(outputs, y).item()
    assert abs(curve.points[0].loss - loss) < 1e-5, (curve.points, loss)
    after = model.state_dict()
    assert list(after) == list(before), list(after)
    assert all(not torch.equal(after[k], before[k]) for k in before)
    print("home and trained")
"""


@pytest.mark.parametrize(
    ("strategy", "precision", "expected"),
    [
        ("FSDPStrategy", "32-true", "FSDPStrategy, which flattens"),
        ("DeepSpeedStrategy", "32-true", "DeepSpeedStrategy, which flattens"),
        ("SingleDeviceStrategy", "16-true", "precision='16-true'"),
    ],
)
def test_what_cannot_work_is_refused_by_name(strategy, precision, expected):
    trainer = SimpleNamespace(strategy=type(strategy, (), {})(), precision=precision, callbacks=[])
    with pytest.raises(ValueError, match=expected):
        refuse_what_cannot_work(WeightNormPruning(EWN(), LEVELS), trainer, later=False)


def test_what_is_attached_already_must_be_the_same(tmp_path):
    model = Net()
    ewnprune.reparametrize(model, EWN())
    for parametrization, name in ((SWN(), "SWN"), (None, "plain")):
        with pytest.raises(ValueError, match=f"has EWN on layers already and this fit is {name}"):
            _fit(tmp_path, model, WeightNormPruning(parametrization, LEVELS))
    _fit(tmp_path, model, WeightNormPruning(EWN(), LEVELS))
    assert not attached_parametrizations(model)


def test_two_of_them_are_refused(tmp_path):
    with pytest.raises(ValueError, match="two WeightNormPruning callbacks"):
        _fit(tmp_path, Net(), WeightNormPruning(EWN(), LEVELS), WeightNormPruning(SWN(), LEVELS))


def test_half_precision_is_warned_of(tmp_path):
    with pytest.warns(UserWarning, match="bf16-true"):
        _fit(tmp_path, Net(), WeightNormPruning(EWN(), LEVELS), precision="bf16-true", max_epochs=1)


class LogsLoss(Net):
    def training_step(self, batch, _):
        loss = super().training_step(batch, _)
        self.log("train/loss", loss, on_step=False, on_epoch=True)
        return loss


class _WatchLoss(pytorch_lightning.Callback):
    def on_train_start(self, trainer, pl_module):
        self.losses = []

    def on_train_epoch_end(self, trainer, pl_module):
        self.losses.append(float(trainer.callback_metrics["train/loss"]))


def test_loss_levels_sweep_checkpoint_and_stop(tmp_path):
    torch.manual_seed(0)
    levels = (-0.7, -0.8, -1.0)
    callback = WeightNormPruning(
        EWN(), LEVELS, loss_levels=levels, at_level=("sweep", "checkpoint", "stop")
    )
    watch = _WatchLoss()
    trainer = _fit(tmp_path, LogsLoss(), callback, watch, max_epochs=200)
    assert callback.loss_levels.passed == sorted(levels, reverse=True)
    assert 2 < trainer.current_epoch < 200
    losses = watch.losses
    expected = sorted({next(i for i, x in enumerate(losses) if math.log(x) <= v) for v in levels})
    assert sorted({point.epoch for point in callback.curve}) == expected
    assert len(losses) == expected[-1] + 1  # it stopped there
    for level in levels:
        stored = torch.load(
            f"{trainer.log_dir}/checkpoints/log_loss_{level:g}.ckpt", weights_only=True
        )
        assert stored["ewnprune"]["passed_levels"][-1] <= level


@pytest.mark.filterwarnings("ignore:The dirpath has changed")
def test_passed_levels_are_not_passed_again_after_resuming(tmp_path):
    torch.manual_seed(0)
    options = {"loss_levels": (-0.7,), "at_level": ("checkpoint",)}
    model, checkpointing = LogsLoss(), ModelCheckpoint(tmp_path)
    callback = WeightNormPruning(EWN(), LEVELS, **options)
    _fit(tmp_path, model, callback, checkpointing, max_epochs=30)
    assert callback.loss_levels.passed == [-0.7]
    again = WeightNormPruning(EWN(), LEVELS, **options)
    path = checkpointing.best_model_path
    trainer = _fit(tmp_path, LogsLoss(), again, ckpt_path=path, max_epochs=31)
    assert again.loss_levels.passed == [-0.7]
    assert not Path(trainer.log_dir, "checkpoints", "log_loss_-0.7.ckpt").exists()


def test_loss_levels_need_a_logged_loss(tmp_path):
    with pytest.raises(ValueError, match="log 'train/log_loss' or 'train/loss'"):
        _fit(tmp_path, Net(), WeightNormPruning(EWN(), LEVELS, loss_levels=(-1,)))
    with pytest.raises(ValueError, match="at_level='halt'"):
        WeightNormPruning(EWN(), LEVELS, loss_levels=(-1,), at_level=("halt",))
    with pytest.raises(ValueError, match="loss_levels=-inf"):
        WeightNormPruning(EWN(), LEVELS, loss_levels=(-math.inf,))


class AnySGD(Net):
    def __init__(self, kind):
        super().__init__()
        self.kind = kind

    def configure_optimizers(self):
        optimizer = self.kind(self.parameters(), lr=0.2)
        return [optimizer], [torch.optim.lr_scheduler.StepLR(optimizer, 1, 0.5)]


@pytest.mark.parametrize(
    ("parametrization", "optimizer"), [(EWN(), ewnprune.EWNSGD), (SWN(), ewnprune.SWNSGD)]
)
def test_weight_space_is_the_same_training(tmp_path, parametrization, optimizer):
    curves, states = [], []
    for options in ({"kind": torch.optim.SGD}, {"kind": optimizer}):
        torch.manual_seed(0)
        model, checkpointing = AnySGD(**options), ModelCheckpoint(tmp_path)
        space = options["kind"] is not torch.optim.SGD
        callback = WeightNormPruning(parametrization, LEVELS, weight_space=space)
        _fit(tmp_path, model, callback, checkpointing, max_epochs=4)
        curves.append([(p.score, p.sparsity, p.correct) for p in callback.curve])
        states.append(model.state_dict())
    torch.testing.assert_close(*states, rtol=1e-4, atol=1e-6)
    assert curves[0] == curves[1]
    stored = torch.load(checkpointing.best_model_path, weights_only=True)
    assert stored["ewnprune"]["originals"] == {}
    assert "configure_optimizers" not in vars(model)


def test_weight_space_with_another_optimizer_is_refused(tmp_path):
    with pytest.raises(ValueError, match=r"needs the optimizer EWNSGD and .* made SGD"):
        _fit(tmp_path, Net(), WeightNormPruning(EWN(), LEVELS, weight_space=True))
    with pytest.raises(ValueError, match="parametrization=None: expected EWN"):
        _fit(tmp_path, Net(), WeightNormPruning(None, LEVELS, weight_space=True))


def test_mixed_precision_trains_in_float32_and_sweeps_as_the_trainer_evaluates(tmp_path):
    torch.manual_seed(0)
    model, callback = Net(), WeightNormPruning(EWN(), LEVELS)
    trainer = _fit(tmp_path, model, callback, precision="bf16-mixed")
    assert {p.dtype for p in model.parameters()} == {torch.float32}
    dense = callback.curve.where(sparsity=0.0).points[0]
    (validated,) = trainer.validate(model, _loaders()["val_dataloaders"], verbose=False)
    assert dense.loss == pytest.approx(validated["val_loss"], abs=2e-3)


def test_compiled_modules_are_swept(tmp_path):
    torch.manual_seed(0)
    model, callback = Net(), WeightNormPruning(EWN(), LEVELS)
    compiled = torch.compile(model, backend="eager")
    _trainer(tmp_path, callback).fit(compiled, **_loaders())
    assert len(callback.curve.where(score="norm")) == len(LEVELS)
    assert not attached_parametrizations(model)


class DictBatches(Net):
    def training_step(self, batch, _):
        return nn.functional.cross_entropy(self(batch["x"]), batch["y"])


def test_a_metric_and_a_batch_layout_of_the_users_own(tmp_path):
    x, y = _data(40, 1).tensors
    rows = [{"x": a, "y": b} for a, b in zip(x, y, strict=True)]
    callback = WeightNormPruning(
        None, LEVELS, metric=MulticlassF1Score(2), batch=lambda batch: (batch["x"], batch["y"])
    )
    torch.manual_seed(0)
    model = DictBatches()
    _trainer(tmp_path, callback).fit(model, DataLoader(rows, 16), DataLoader(rows, 16))
    dense = callback.curve.where(sparsity=0.0).points[0]
    with torch.no_grad():
        expected = MulticlassF1Score(2)(model(x), y).item()
    assert dense.metrics["MulticlassF1Score"] == pytest.approx(expected)
    assert dense.correct == (model(x).argmax(1) == y).sum().item()
