"""Of which weights the last curve is: those that the user gets, told by a fingerprint."""

import copy
from contextlib import suppress
from types import SimpleNamespace

import pytest
import pytorch_lightning as pl
import torch
from pytorch_lightning.callbacks import ModelCheckpoint
from torch import nn
from toys.data import loader
from toys.processes import run_together
from toys.validated import LEVELS, Net
from toys.validated import assert_last_is_the_users as _assert_last_is_the_users
from toys.validated import fit as _fit

from ewnprune import EWN, WeightNormPruning, sparsity_curve
from ewnprune.callback.weights import fingerprint, on_root_device


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


ONE_OF_TWO = """
import sys, warnings, torch
from torch import nn
from torch.utils.data import DataLoader, DistributedSampler
from toys import fits
from toys.data import loader, points
from ewnprune import WeightNormPruning

rank, folder = sys.argv[1:]
warnings.simplefilter("ignore")

class Net(fits.Net):
    def __init__(self):
        torch.manual_seed(0)
        layers = nn.Linear(6, 24), nn.BatchNorm1d(24), nn.ReLU(), nn.Linear(24, 2)
        super().__init__(nn.Sequential(*layers))
    def validation_step(self, batch, _):
        pass

callback = WeightNormPruning(None, (0, 0.5), ("norm",), recalibrate=0)
trainer = fits.make_trainer(folder, callback, devices=2, strategy="ddp", max_epochs=1,
    check_val_every_n_epoch=2)
model, train = Net(), points(64)
sampler = DistributedSampler(train, num_replicas=2, rank=int(rank), shuffle=False)
trainer.fit(model, DataLoader(train, batch_size=4, sampler=sampler), loader(41, 1, 8))
found = [(p.sparsity, p.correct, p.total, p.loss) for p in callback.curve]
torch.save((model.net.state_dict(), found), f"{folder}/{rank}.pt")
torch.distributed.barrier()
torch.distributed.destroy_process_group()
"""


def test_two_processes_measure_one_network(tmp_path):
    """Each has running statistics of its own batches, by which it would prune other neurons."""
    run_together(ONE_OF_TWO, tmp_path)
    (state, found), (other, also) = (torch.load(tmp_path / f"{rank}.pt") for rank in range(2))
    assert not torch.equal(state["1.running_mean"], other["1.running_mean"])  # left as they were
    net = nn.Sequential(nn.Linear(6, 24), nn.BatchNorm1d(24), nn.ReLU(), nn.Linear(24, 2))
    net.load_state_dict(state)
    expected = sparsity_curve(net, loader(41, 1), (0, 0.5), "norm")
    assert found == also
    for point, (sparsity, correct, total, loss) in zip(expected, found, strict=True):
        assert (point.sparsity, point.correct, point.total) == (sparsity, correct, total)
        assert loss == pytest.approx(point.loss, rel=1e-5)
