"""The compatibility matrix: checkpoints, resuming, copies and files of a model."""

import copy
import io
import pickle

import pytest
import pytorch_lightning as pl
import torch
from pytorch_lightning.callbacks import ModelCheckpoint
from torch import nn
from toys import fits
from toys.data import loader, points
from toys.fits import BuildsInConfigureModel, make_trainer, mlp

import ewnprune
from ewnprune import EWN, SWN, WeightNormPruning, attached_parametrizations

LEVELS = (0, 0.5, 0.9)


class Batches:
    """Shuffled batches that can be stopped and gone on with in the middle of an epoch."""

    def __init__(self):
        self.data = points()
        self.epoch = self.batch = self.start = 0

    def __len__(self):
        return 4

    def __iter__(self):
        order = torch.randperm(64, generator=torch.Generator().manual_seed(self.epoch))
        self.batch, self.start = self.start, 0
        for rows in order.split(16)[self.batch :]:
            self.batch += 1
            yield self.data[rows]
        self.epoch, self.batch = self.epoch + 1, 0

    def state_dict(self):
        return {"epoch": self.epoch, "batch": self.batch}

    def load_state_dict(self, state):
        self.epoch, self.start = state["epoch"], state["batch"]


def _val():
    return loader(48, 1)


class Net(fits.Net):
    def __init__(self):
        layers = nn.Linear(6, 10), nn.ReLU(), nn.Dropout(0.3), nn.BatchNorm1d(10), nn.Linear(10, 2)
        super().__init__(nn.Sequential(*layers))

    def test_step(self, batch, _):
        self.validation_step(batch, _)

    def configure_optimizers(self):
        optimizer = torch.optim.Adam(self.parameters(), lr=0.02)
        scheduler = torch.optim.lr_scheduler.ExponentialLR(optimizer, 0.9)
        return [optimizer], [{"scheduler": scheduler, "interval": "step"}]


def _trainer(folder, *callbacks, **options):
    options = {"max_epochs": 3, "enable_checkpointing": True, **options}
    return make_trainer(folder, *callbacks, **options)


@pytest.mark.filterwarnings("ignore:The dirpath has changed")
@pytest.mark.parametrize("parametrization", [EWN(), SWN(), None], ids=["EWN", "SWN", "plain"])
def test_resuming_in_the_middle_of_an_epoch_is_bit_for_bit(tmp_path, parametrization):
    """Also with dropout, batch norm, Adam and a schedule by step."""

    class Reseed(pl.Callback):
        """Lightning does not store the state of torch's generator, which dropout draws from."""

        def on_train_batch_start(self, trainer, *_):
            torch.manual_seed(trainer.global_step)

    def run(folder, ckpt_path=None):
        torch.manual_seed(0)
        callback = WeightNormPruning(parametrization, LEVELS, scores=["norm", "norm_change"])
        keep = ModelCheckpoint(tmp_path / folder, every_n_train_steps=6, save_top_k=-1)
        end = tmp_path / folder / "end.ckpt"

        class Last(pl.Callback):
            def on_train_end(self, trainer, pl_module):
                trainer.save_checkpoint(end)

        trainer = _trainer(tmp_path / folder, callback, Reseed(), keep, Last())
        trainer.fit(Net(), Batches(), _val(), ckpt_path=ckpt_path)
        return callback.curve, torch.load(end, weights_only=True)

    curve, whole = run("whole")
    middle = tmp_path / "whole" / "epoch=1-step=6.ckpt"  # of 4 steps an epoch
    resumed_curve, resumed = run("resumed", middle)
    assert resumed_curve == curve
    assert resumed["global_step"] == whole["global_step"] == 12
    for part in ("state_dict", "ewnprune", "optimizer_states", "lr_schedulers"):
        _assert_identical(resumed[part], whole[part])


def _assert_identical(one, other):
    first, second = (torch.utils._pytree.tree_flatten_with_path(tree)[0] for tree in (one, other))
    assert [path for path, _ in first] == [path for path, _ in second]
    for (path, a), (_, b) in zip(first, second, strict=True):
        assert torch.equal(torch.as_tensor(a), torch.as_tensor(b)) if _number(a) else a == b, path


def _number(value):
    return isinstance(value, torch.Tensor | int | float)


def test_the_best_checkpoint_after_the_fit(tmp_path):
    callback = WeightNormPruning(EWN(), LEVELS)
    keep = ModelCheckpoint(tmp_path, monitor="val_loss", save_top_k=1)
    trainer, model = _trainer(tmp_path, callback, keep, max_epochs=6), Net()
    trainer.fit(model, Batches(), _val())
    best = torch.load(keep.best_model_path, weights_only=True)["state_dict"]
    (validated,) = trainer.validate(model, _val(), ckpt_path="best", verbose=False)
    assert validated["val_loss"] == pytest.approx(keep.best_model_score.item())
    assert all(torch.equal(best[key], value) for key, value in model.state_dict().items())
    (tested,) = trainer.test(model, _val(), ckpt_path="best", verbose=False)
    assert tested["val_loss"] == validated["val_loss"]
    assert len(callback.curve.where(split="test")) == len(LEVELS)


def test_configure_model_and_load_from_checkpoint(tmp_path):
    """Layers made in configure_model; the file loads with and without the callback."""

    trainer, model = _trainer(tmp_path, WeightNormPruning(EWN(), LEVELS)), BuildsInConfigureModel()
    trainer.fit(model, Batches(), _val())
    trainer.save_checkpoint(tmp_path / "late.ckpt")
    fresh = BuildsInConfigureModel.load_from_checkpoint(tmp_path / "late.ckpt")
    x = torch.randn(5, 6)
    assert torch.equal(fresh(x), model(x))
    for callbacks in ([], [WeightNormPruning(EWN(), LEVELS)]):
        other = BuildsInConfigureModel()
        _trainer(tmp_path, *callbacks).test(
            other, _val(), ckpt_path=tmp_path / "late.ckpt", verbose=False
        )
        assert torch.equal(other(x), model(x))


def test_deep_copies_are_independent():
    net, x = mlp(), torch.randn(4, 6)
    ewnprune.reparametrize(net, EWN())
    twin = copy.deepcopy(net)
    expected = net(x)
    assert torch.equal(twin(x), expected)
    with torch.no_grad():
        twin[0].parametrizations.weight.original0.add_(1.0)
    assert torch.equal(net(x), expected)
    torch.testing.assert_close(
        twin[0](x) - twin[0].bias, torch.e * (net[0](x) - net[0].bias), rtol=1e-5, atol=1e-6
    )
    ewnprune.fold(twin)
    assert torch.equal(net(x), expected)
    assert list(attached_parametrizations(net)) == ["0"]


def test_pickling_is_torchs_clear_error_until_folded():
    net = mlp()
    ewnprune.reparametrize(net, EWN())
    with pytest.raises(RuntimeError, match=r"only supported through state_dict"):
        pickle.dumps(net)
    ewnprune.fold(net)
    x = torch.randn(4, 6)
    assert torch.equal(pickle.loads(pickle.dumps(net))(x), net(x))


def test_torch_export_attached_and_folded():
    net, x = mlp().eval(), torch.randn(4, 6)
    ewnprune.reparametrize(net, SWN())
    expected = net(x)
    programs = [torch.export.export(net, (x,))]
    ewnprune.fold(net)
    programs.append(torch.export.export(net, (x,)))
    file = io.BytesIO()
    torch.export.save(programs[1], file)
    file.seek(0)
    programs.append(torch.export.load(file))
    for program in programs:
        torch.testing.assert_close(program.module()(x), expected)
    sizes = [len(program.graph.nodes) for program in programs]
    assert sizes[0] > sizes[1]  # attached, the graph computes the norms at every call


def test_a_model_with_tied_weights_trains_where_the_tie_is_left(tmp_path):
    class Tied(Net):
        def __init__(self):
            super().__init__()
            self.net = nn.Sequential(nn.Linear(6, 10), nn.Tanh(), nn.Linear(10, 10), nn.Tanh())
            self.again, self.head = nn.Linear(10, 10), nn.Linear(10, 2)
            self.again.weight = self.net[2].weight

        def forward(self, x):
            return self.head(self.again(self.net(x)))

    with pytest.raises(ValueError, match=r"'net.2' shares its weight with 'again.weight'"):
        _trainer(tmp_path, WeightNormPruning(EWN(), LEVELS)).fit(Tied(), Batches(), _val())
    callback, model = WeightNormPruning(EWN(), LEVELS, exclude=["net.2", "again"]), Tied()
    _trainer(tmp_path, callback).fit(model, Batches(), _val())
    assert model.again.weight is model.net[2].weight
    assert len(callback.curve) == len(LEVELS)


def test_spectral_norm_on_one_layer_and_ours_on_another(tmp_path):
    class Spectral(Net):
        def __init__(self):
            super().__init__()
            self.net.insert(1, nn.utils.parametrizations.spectral_norm(nn.Linear(10, 10)))

    with pytest.raises(ValueError, match=r"'net.1' is parametrized already \(_SpectralNorm\)"):
        _trainer(tmp_path, WeightNormPruning(EWN(), LEVELS)).fit(Spectral(), Batches(), _val())
    callback, model = WeightNormPruning(EWN(), LEVELS, exclude="net.1"), Spectral()
    keep = ModelCheckpoint(tmp_path, save_last=True)
    _trainer(tmp_path, callback, keep).fit(model, Batches(), _val())
    model.eval()  # else each look at its weight is a step of its power iteration
    assert torch.linalg.matrix_norm(model.net[1].weight, 2).item() == pytest.approx(1, abs=0.1)
    assert not attached_parametrizations(model)
    fresh = Spectral()
    fresh.load_state_dict(torch.load(keep.last_model_path, weights_only=True)["state_dict"])
    assert torch.equal(fresh.eval().net[1].weight, model.net[1].weight)
    # what is masked are the neurons of the other layer, and all that spectral norm keeps stays
    assert callback.curve.where(sparsity=0.5).points[0].neurons.total == 10


def test_one_layer_under_two_names(tmp_path):
    """A module that lies in the model twice is no tie between two: it is attached once."""

    class Twice(Net):
        def __init__(self):
            super().__init__()
            self.net = nn.Sequential(nn.Linear(6, 10), nn.Tanh(), nn.Linear(10, 10), nn.Tanh())
            self.again, self.head = self.net[2], nn.Linear(10, 2)

        def forward(self, x):
            return self.head(self.again(self.net(x)))

    callback, model = WeightNormPruning(EWN(), LEVELS), Twice()
    keep = ModelCheckpoint(tmp_path)
    trainer = _trainer(tmp_path, callback, keep)
    trainer.fit(model, Batches(), _val())
    state = torch.load(keep.best_model_path, weights_only=True)["state_dict"]
    assert list(state) == list(Twice().state_dict())
    assert torch.equal(state["again.weight"], state["net.2.weight"])
    assert torch.equal(state["again.weight"], model.again.weight)
    again = [WeightNormPruning(EWN(), LEVELS), ModelCheckpoint(tmp_path)]
    trainer = _trainer(tmp_path, *again, max_epochs=4)
    trainer.fit(Twice(), Batches(), _val(), ckpt_path=keep.best_model_path)
    assert trainer.current_epoch == 4
