"""Of which weights a curve is: the last of those that the user gets, others of those validated."""

import copy
from contextlib import suppress
from types import SimpleNamespace

import pytest
import pytorch_lightning as pl
import torch
from pytorch_lightning.callbacks import ModelCheckpoint
from pytorch_lightning.callbacks.weight_averaging import EMAWeightAveraging
from torch import nn
from torchmetrics.functional import accuracy
from toys import fits
from toys.data import loader, points

from ewnprune import EWN, WeightNormPruning
from ewnprune.callback.weights import fingerprint, on_root_device

LEVELS = (0, 0.5, 0.9)


class Net(fits.Net):
    """Takes down what validation found in each epoch."""

    def __init__(self):
        layers = nn.Linear(6, 20), nn.BatchNorm1d(20), nn.ReLU(), nn.Dropout(0.2), nn.Linear(20, 2)
        super().__init__(nn.Sequential(*layers))
        self.validated = {}

    def validation_step(self, batch, _):
        self.log("val_acc", accuracy(self(batch[0]), batch[1], "multiclass", num_classes=2))
        super().validation_step(batch, _)

    def on_validation_epoch_end(self):
        metrics = self.trainer.callback_metrics
        self.validated[self.trainer.current_epoch] = {k: v.item() for k, v in metrics.items()}

    def configure_optimizers(self):
        return torch.optim.SGD(self.parameters(), lr=0.2, momentum=0.9)


def _fit(folder, model, *callbacks, **options):
    return fits.fit(folder, model, *callbacks, val=loader(96, 1, 96), max_epochs=4, **options)


def _assert_last_is_the_users(callback, model):
    """The last curve, against the model that the user has in hand after the fit."""
    x, y = points(96, 1).tensors
    last = callback.curve.where(epoch=callback.curve.points[-1].epoch)
    assert [point.sparsity for point in last] == list(LEVELS)
    with torch.no_grad():
        outputs = model.eval()(x)
    assert last.points[0].correct == (outputs.argmax(1) == y).sum().item()
    expected = nn.functional.cross_entropy(outputs, y).item()
    assert last.points[0].loss == pytest.approx(expected, rel=1e-5)


class _OwnAverage(pl.Callback):
    """What users write themselves: an average of their own, or the best weights, put in late."""

    def __init__(self, hook):
        self.state = None
        setattr(self, hook, self._put_in)

    def on_train_batch_end(self, trainer, pl_module, *_):
        state = {k: v.detach().clone().float() for k, v in pl_module.state_dict().items()}
        old = self.state or state
        self.state = {key: 0.7 * old[key] + 0.3 * value for key, value in state.items()}

    def _put_in(self, trainer, pl_module, *_):
        with torch.no_grad():
            for name, tensor in pl_module.state_dict(keep_vars=True).items():
                tensor.copy_(self.state[name])


class _PutsIn(Net):
    """The same by the module itself, in its hook of this name."""

    def __init__(self, hook):
        super().__init__()
        setattr(self, hook, self._put_in)

    def _put_in(self):
        with torch.no_grad():
            for parameter in self.parameters():
                parameter.mul_(0.5)


@pytest.mark.parametrize("every", [None, 2, 3])
@pytest.mark.parametrize("hook", ["on_train_end", "on_fit_end"])
@pytest.mark.parametrize("who", ["callback before", "callback after", "module"])
def test_the_last_curve_is_of_the_model_that_the_user_gets(tmp_path, who, hook, every):
    callback = WeightNormPruning(EWN(), LEVELS, every_n_epochs=every)
    model = _PutsIn(hook) if who == "module" else Net()
    callbacks = [callback]
    if who != "module":
        callbacks.insert(who == "callback after", _OwnAverage(hook))
    _fit(tmp_path, model, *callbacks)
    _assert_last_is_the_users(callback, model)
    epochs = {None: [3], 2: [1, 3], 3: [2, 3]}[every]
    assert [p.epoch for p in callback.curve.where(sparsity=0.0)] == epochs
    again = [note for note in callback.curve.notes if "other weights had been put in" in str(note)]
    assert bool(again) == (every == 2 or (hook == "on_fit_end" and who != "callback before"))


def test_weights_that_stay_are_measured_once(tmp_path, monkeypatch):
    callback = WeightNormPruning(EWN(), LEVELS, every_n_epochs=2)
    steps = []
    take = callback.curves.take
    monkeypatch.setattr(
        callback.curves, "take", lambda *a, **k: steps.append(a[0]) or take(*a, **k)
    )
    model = Net()
    _fit(tmp_path, model, callback)
    assert len(steps) == 2  # after epochs 1 and 3, and not once more at the end
    _assert_last_is_the_users(callback, model)
    assert not [note for note in callback.curve.notes if "put in" in str(note)]


def test_checkpoints_of_the_end_hold_what_they_held(tmp_path):
    """The last curve comes after them: a run that goes on from one measures its own end."""

    class AtTheEnd(pl.Callback):
        def on_train_end(self, trainer, pl_module):
            trainer.save_checkpoint(tmp_path / "end.ckpt")

    last = ModelCheckpoint(tmp_path, save_last=True)
    callback = WeightNormPruning(EWN(), LEVELS)
    _fit(tmp_path, Net(), callback, AtTheEnd(), last)
    for path in (tmp_path / "end.ckpt", last.last_model_path):
        stored = torch.load(path, weights_only=True)
        assert stored["ewnprune"]["curve"] is None
        assert stored["ewnprune"]["originals"]
        assert "net.0.weight" in stored["state_dict"]


@pytest.mark.filterwarnings("ignore:The dirpath has changed")
@pytest.mark.parametrize("every", [None, 2])
def test_a_run_that_had_ended_is_not_measured_again_when_it_is_resumed(tmp_path, capsys, every):
    keep = ModelCheckpoint(tmp_path)
    _fit(tmp_path, Net(), WeightNormPruning(EWN(), LEVELS, every_n_epochs=every), keep)
    again = WeightNormPruning(EWN(), LEVELS, every_n_epochs=every)
    capsys.readouterr()
    _fit(tmp_path, Net(), again, ckpt_path=keep.best_model_path)
    found = again.curve or ()  # the checkpoint is of before the last curve
    assert [p.epoch for p in found if p.sparsity == 0] == ([] if every is None else [1, 3])
    assert "no curve" not in capsys.readouterr().out


# --- in mid-training -----------------------------------------------------------------------------


class ScheduleFree(torch.optim.Optimizer):
    """As schedulefree's SGD: trains at y, evaluates at x, and holds z; x = y + (1 - 1/beta)(z - y).

    https://arxiv.org/abs/2405.15682
    """

    def __init__(self, params, lr, beta=0.6):
        super().__init__(params, {"lr": lr, "beta": beta, "k": 0, "training": True})

    @torch.no_grad()
    def _move(self, training):
        for group in self.param_groups:
            if group["training"] == training:
                continue
            group["training"] = training
            weight = 1 - group["beta"] if training else 1 - 1 / group["beta"]
            for p in group["params"]:
                if "z" in self.state[p]:
                    p.lerp_(self.state[p]["z"], weight)

    def eval(self):
        self._move(False)

    def train(self):
        self._move(True)

    @torch.no_grad()
    def step(self, closure=None):
        with torch.enable_grad():
            loss = closure()
        for group in self.param_groups:
            assert group["training"], "a step while the weights of evaluation were in"
            group["k"] += 1
            for p in group["params"]:
                z = self.state[p].setdefault("z", p.clone())
                p.lerp_(z, 1 / group["k"])
                p.add_(p.grad, alpha=group["lr"] * (group["beta"] * (1 - 1 / group["k"]) - 1))
                z.sub_(p.grad, alpha=group["lr"])
        return loss


class FreeNet(Net):
    def __init__(self):
        super().__init__()
        self.net[1] = nn.Identity()  # batch norm's statistics are of the weights trained with
        self.frozen = nn.Dropout(0.5).eval()  # a flag of its own

    def configure_optimizers(self):
        return ScheduleFree(self.parameters(), lr=1.0)

    def on_validation_model_eval(self):
        super().on_validation_model_eval()
        self.optimizers().optimizer.eval()

    def on_validation_model_train(self):
        self.train()
        self.frozen.eval()
        self.optimizers().optimizer.train()


@pytest.mark.filterwarnings("ignore:Found . module.s. in eval mode")
@pytest.mark.parametrize("parametrization", [None, EWN()], ids=["plain", "EWN"])
def test_schedule_free_weights_of_evaluation_are_swept_and_training_goes_on(
    tmp_path, parametrization
):
    runs = []
    for every in (None, 1):
        torch.manual_seed(0)
        model, flags, weights = FreeNet(), [], []

        class Watch(pl.Callback):
            def on_train_batch_end(self, trainer, pl_module, *_):
                flags.append([module.training for module in pl_module.modules()])  # noqa: B023
                weights.append([p.detach().clone() for p in pl_module.parameters()])  # noqa: B023

        callback = WeightNormPruning(parametrization, LEVELS, every_n_epochs=every)
        _fit(tmp_path, model, callback, Watch())
        runs.append((flags, weights))
        _assert_last_is_the_users(callback, model)
    for epoch in range(3):  # the fourth is measured anew: the user gets the weights trained with
        point = callback.curve.where(epoch=epoch, sparsity=0.0).points[0]
        assert point.accuracy == pytest.approx(model.validated[epoch]["val_acc"], abs=1e-6)
        assert point.loss == pytest.approx(model.validated[epoch]["val_loss"], rel=1e-5)
    assert any("other weights had been put in" in str(note) for note in callback.curve.notes)
    (flags, weights), (flags_too, weights_too) = runs
    assert flags == flags_too  # as if no curve had been taken, bit for bit
    for one, other in zip(weights, weights_too, strict=True):
        assert all(map(torch.equal, one, other))


@pytest.mark.filterwarnings("ignore:Found . module.s. in eval mode")
def test_a_sweep_leaves_flags_that_the_modules_hook_would_set(tmp_path):
    """Lightning leaves the flags as the hook does; a curve is not to be noticed at all."""

    class Partly(FreeNet):
        def on_validation_model_train(self):
            super().on_validation_model_train()
            self.net[3].eval()  # as if by mistake

    class Flags(pl.Callback):
        def on_train_epoch_end(self, trainer, pl_module):
            pl_module.net[3].train()  # after validation, before the sweep
            self.before = [module.training for module in pl_module.modules()]

        def on_train_epoch_start(self, trainer, pl_module):
            if trainer.current_epoch:
                assert [module.training for module in pl_module.modules()] == self.before

    _fit(tmp_path, Partly(), WeightNormPruning(EWN(), LEVELS, every_n_epochs=1), Flags())


def test_averages_that_validation_evaluates_are_swept(tmp_path):
    states = []
    for every in (None, 1):
        torch.manual_seed(0)
        model, callback = Net(), WeightNormPruning(EWN(), LEVELS, every_n_epochs=every)
        _fit(tmp_path, model, callback, EMAWeightAveraging(decay=0.8))
        states.append(model.state_dict())
        _assert_last_is_the_users(callback, model)
    for epoch in range(4):
        point = callback.curve.where(epoch=epoch, sparsity=0.0).points[0]
        assert point.accuracy == pytest.approx(model.validated[epoch]["val_acc"], abs=1e-6)
        assert point.loss == pytest.approx(model.validated[epoch]["val_loss"], rel=1e-5)
    assert not [note for note in callback.curve.notes if "put in" in str(note)]
    assert all(torch.equal(states[0][key], value) for key, value in states[1].items())


def test_a_model_that_was_taken_off_its_device_is_measured_there():
    """As after the fit on a GPU: there, for as long as it takes, and back."""
    moves = []

    class Module:
        device = torch.device("cpu")

        def to(self, device):
            moves.append(str(device))
            self.device = device

    for root, expected in (("cuda:0", ["cuda:0", "cpu"]), ("cpu", [])):
        trainer = SimpleNamespace(strategy=SimpleNamespace(root_device=torch.device(root)))
        moves.clear()
        with suppress(ZeroDivisionError), on_root_device(trainer, module := Module()):
            assert module.device == torch.device(root)
            1 / 0  # noqa: B018  an error on the way brings it home too
        assert moves == expected


@pytest.mark.parametrize(
    "dtype",
    [torch.float32, torch.float64, torch.bfloat16, torch.complex64, torch.bool, torch.int64],
)
def test_a_fingerprint_tells_one_value_and_their_order(dtype):
    model = nn.Module()
    model.register_buffer("x", torch.tensor([[1, 0, 1], [0, 1, 1]]).to(dtype))
    model.register_buffer("empty", torch.empty(0))
    before = fingerprint(model)
    assert fingerprint(copy.deepcopy(model)) == before
    assert fingerprint(model.register_buffer("x", model.x.T.contiguous().T) or model) == before
    seen = {before}
    for row in range(2):
        for column in range(3):
            other = copy.deepcopy(model)
            other.x[row, column] = not model.x[row, column]
            seen.add(fingerprint(other))
    other = copy.deepcopy(model)
    other.x = other.x.flip(0)
    seen.add(fingerprint(other))
    assert len(seen) == 8
