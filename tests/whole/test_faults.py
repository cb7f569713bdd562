"""What goes wrong around a run: nothing is lost, nothing broken is taken for good, all is said."""

import os
from concurrent.futures import ThreadPoolExecutor

import pytest
import pytorch_lightning as pl
import torch
from pytorch_lightning.callbacks import ModelCheckpoint
from pytorch_lightning.loggers import CSVLogger
from torch import nn
from torch.utils.data import TensorDataset
from torchmetrics import Metric
from torchmetrics.classification import MulticlassF1Score
from toys.data import loader
from toys.fits import Net, fit, mlp

import ewnprune
from ewnprune import (
    EWN,
    Curve,
    CurvePoint,
    DGating,
    WeightNormPruning,
    attached_parametrizations,
    read_curve,
    sparsity_curve,
    write_curve,
)
from ewnprune.curve import measures, memory, sweep
from ewnprune.files import replacing
from ewnprune.study.run import CHECKPOINTS, _furthest_checkpoint

LEVELS = (0, 0.5, 0.9)


def test_a_clock_that_goes_backwards_changes_nothing(tmp_path):
    """The checkpoint that a study goes on from is the furthest, whatever the files' times say."""
    keep = ModelCheckpoint(tmp_path / "fit", save_top_k=-1, filename="{epoch}")
    fit(tmp_path, Net(), WeightNormPruning(EWN(), LEVELS), keep)
    older = tmp_path / "fit_0/checkpoints/interrupted.ckpt"
    for path, epoch in ((tmp_path / CHECKPOINTS[0], 1), (older, 0)):
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes((tmp_path / f"fit/epoch={epoch}.ckpt").read_bytes())
    for times in ((0, 9), (9, 0)):
        for path, time in zip((tmp_path / CHECKPOINTS[0], older), times, strict=True):
            os.utime(path, (time, time))
        assert _furthest_checkpoint(tmp_path) == tmp_path / CHECKPOINTS[0]


def test_a_folder_that_cannot_be_written_to_leaves_the_model_as_it_is(tmp_path):
    class Moves(CSVLogger):
        log_dir = property(lambda self: tmp_path / "file" if self.moved else self.root_dir)
        moved = False

    class Trained(pl.Callback):
        def on_fit_end(self, trainer, pl_module):  # before the curve
            trainer.logger.moved = True
            state = ewnprune.fold_state_dict(pl_module.state_dict())
            self.weights = {key: value.clone() for key, value in state.items()}

    (tmp_path / "file").touch()  # where a folder should be
    model, trained = Net(), Trained()
    with pytest.raises(FileExistsError, match="file"):
        fit(tmp_path, model, trained, WeightNormPruning(EWN(), LEVELS), logger=Moves(tmp_path))
    ewnprune.fold(model)
    assert not attached_parametrizations(model)
    assert model.state_dict().keys() == trained.weights.keys()
    assert all(torch.equal(v, trained.weights[k]) for k, v in model.state_dict().items())


def test_an_error_while_writing_leaves_the_old_file_alone(tmp_path):
    path = tmp_path / "a.txt"
    path.write_text("old")
    with pytest.raises(OSError, match="full"), replacing(path) as partial:
        partial.write_text("half of the n")
        raise OSError(28, "disk full")
    assert path.read_text() == "old"
    assert [p.name for p in tmp_path.iterdir()] == ["a.txt"]


class _Raising(Metric):
    def update(self, outputs, targets):
        raise ZeroDivisionError("a metric of the user's")

    def compute(self):
        return torch.tensor(0.0)


def test_a_metric_that_raises_is_an_error_before_the_training(tmp_path):
    model = Net()
    with pytest.raises(ValueError, match=r"_Raising does not fit .* a metric of the user's"):
        fit(tmp_path, model, WeightNormPruning(EWN(), LEVELS, metric=_Raising()))
    assert model.trainer.global_step == 0


def test_a_logger_that_raises_finds_the_curve_written(tmp_path):
    class Broken(CSVLogger):
        def log_metrics(self, metrics, step=None):
            if "prune/sparsity" in metrics:
                raise ConnectionError("the logger's server has gone")
            super().log_metrics(metrics, step)

    callback = WeightNormPruning(EWN(), LEVELS)
    with pytest.raises(ConnectionError):
        fit(tmp_path, Net(), callback, logger=Broken(tmp_path), log_every_n_steps=1)
    (path,) = tmp_path.rglob("sparsity_curve.csv")
    assert ewnprune.read_curve(path).points == callback.curve.points


def test_nan_in_the_weights_is_said_by_name(tmp_path):
    net = mlp()
    with torch.no_grad():
        net[0].weight[3, 2] = torch.nan
    with pytest.raises(ValueError, match=r"layer '0' has a NaN score .* index 3"):
        sparsity_curve(net, loader(32), LEVELS)
    with torch.no_grad():
        net[0].weight[3, 2] = 0.0
        net[2].weight[:] = torch.nan
    curve = sparsity_curve(net, loader(32), LEVELS)  # its outputs are all wrong, and counted so
    assert {point.correct for point in curve} == {0}


def test_dead_equal_and_single_neurons():
    torch.manual_seed(0)
    net = nn.Sequential(nn.Linear(6, 4), nn.ReLU(), nn.Linear(4, 1), nn.ReLU(), nn.Linear(1, 2))
    with torch.no_grad():
        net[0].weight.fill_(0.5)  # all scores are equal: the index decides
        net[0].weight[3] = 0.0  # and a dead one goes first
    ewnprune.reparametrize(net, EWN())
    ewnprune.fold(net)
    curve = sparsity_curve(net, loader(32), (0, 0.25, 0.5, 0.9))
    # one neuron of each layer always stays
    assert [p.neurons.left for p in curve] == [5, 4, 3, 2]
    small = ewnprune.remove_neurons(net, 0.5, torch.randn(2, 6))
    assert small[0].bias.tolist() == net[0].bias[[1, 2]].tolist()  # 3 is dead, then 0 by index


def test_an_empty_loader_is_said(tmp_path, capsys):
    with pytest.raises(ValueError, match="the loader gave no batch"):
        sparsity_curve(mlp(), [], LEVELS)
    callback = WeightNormPruning(EWN(), LEVELS)
    fit(tmp_path, Net(), callback, limit_val_batches=0)
    assert callback.curve is None
    assert "no validation data, so no curve" in capsys.readouterr().out


def test_a_fit_that_breaks_off_can_be_begun_again(tmp_path):
    """The model is left attached, as a checkpoint wants it; the next fit attaches its own."""

    class Breaks(pl.Callback):
        def on_train_epoch_end(self, *_):
            raise RuntimeError("out of luck")

    class Watch(pl.Callback):
        def on_train_start(self, trainer, pl_module):
            self.found = {k: str(p) for k, p in attached_parametrizations(pl_module).items()}

    model, watch = Net(nn.Sequential(nn.Linear(6, 6), *mlp())), Watch()
    for parametrization, layers, found in (
        (EWN(), "net.0", {"net.0": "EWN(dim=0)"}),
        (DGating(2), "net.1", {"net.1": "DGating(depth=2, dim=0)"}),
        (DGating(3), "net.1", {"net.1": "DGating(depth=3, dim=0)"}),
        (None, "net.1", {}),
    ):
        callback = WeightNormPruning(parametrization, LEVELS, layers=layers)
        with pytest.raises(RuntimeError, match="out of luck"):
            fit(tmp_path, model, callback, watch, Breaks())
        assert watch.found == found
    fit(tmp_path, model, WeightNormPruning(EWN(), LEVELS))
    assert not attached_parametrizations(model)
    assert list(model.net[:2].state_dict()) == ["0.weight", "0.bias", "1.weight", "1.bias"]


def test_a_file_that_two_write_at_once_is_of_one_of_them(tmp_path):
    """Two curves of the same name: what is read is one of them, whole."""

    def write(method):
        points = (
            CurvePoint(method=method, score="norm", sparsity=i / 50, accuracy=0.5)
            for i in range(50)
        )
        one = Curve(tuple(points))
        for _ in range(20):
            write_curve(one, tmp_path / "sparsity_curve.csv")
            found = read_curve(tmp_path / "sparsity_curve.csv")
            assert len(found) == 50
            assert len({point.method for point in found}) == 1

    with ThreadPoolExecutor(2) as pool:
        for done in [pool.submit(write, name) for name in ("first", "second")]:
            done.result()
    assert [path.name for path in tmp_path.iterdir()] == ["sparsity_curve.csv"]


@pytest.mark.parametrize("realize", ["mask", "remove"])
def test_out_of_memory_means_smaller_batches_and_is_said(realize, monkeypatch):
    """Every measure is that of a machine with enough memory; what was counted before is dropped."""
    net = mlp()
    data = TensorDataset(torch.randn(45, 6), torch.randint(2, (45,)))
    batches = [data[:8], data[8:16], data[16:]]
    options = {"metric": MulticlassF1Score(2), "realize": realize, "latency_seconds": 0.001}
    whole = sparsity_curve(net, batches, LEVELS, "norm", **options)
    sizes, enough = [], nn.Linear.forward

    def short(layer, x):
        sizes.append(len(x))
        if len(x) > 8:
            raise torch.cuda.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB")
        return enough(layer, x)

    monkeypatch.setattr(nn.Linear, "forward", short)
    found = sparsity_curve(net, batches, LEVELS, "norm", **options)
    assert max(sizes) == 29
    for one, expected in zip(found, whole, strict=True):
        assert (one.correct, one.total) == (expected.correct, expected.total)
        assert one.loss == pytest.approx(expected.loss, rel=1e-6)
        assert one.metrics["MulticlassF1Score"] == expected.metrics["MulticlassF1Score"]
    assert "memory was short: batches were evaluated in 4 parts each" in map(str, found.notes)


def test_out_of_memory_with_one_sample_or_data_that_cannot_begin_anew_is_the_error():
    net = mlp()
    batch = torch.randn(4, 6), torch.randint(2, (4,))

    def short(model, x):
        raise RuntimeError("[enforce fail] DefaultCPUAllocator: can't allocate memory: you tried")

    for batches in ([batch], iter([batch])):
        with pytest.raises(RuntimeError, match="DefaultCPUAllocator"):
            sparsity_curve(net, batches, LEVELS, "norm", forward=short)


def test_out_of_memory_beside_other_processes(monkeypatch):
    """What all do together cannot be done again by one; the last of it is the sums of counts."""
    net = nn.Sequential(nn.Linear(6, 10), nn.BatchNorm1d(10), nn.ReLU(), nn.Linear(10, 2))
    data = TensorDataset(torch.randn(29, 6), torch.randint(2, (29,)))
    enough, done = nn.Linear.forward, []

    def short(layer, x):
        if len(x) > 8:
            raise torch.cuda.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB")
        return enough(layer, x)

    def noting(owner, name):
        function = getattr(owner, name)
        monkeypatch.setattr(owner, name, lambda *a, **k: (done.append(name), function(*a, **k))[1])

    monkeypatch.setattr(memory, "several_processes", lambda: True)
    monkeypatch.setattr(nn.Linear, "forward", short)
    for together in ({"recalibrate": [data[:8]]}, {"inputs": True}):
        with pytest.raises(RuntimeError, match=r"memory was short, and .* give smaller ones$"):
            sparsity_curve(net, [data[:8], data[8:]], LEVELS, "norm", **together)
    found = sparsity_curve(net, [data[:8], data[8:]], LEVELS, "norm")
    assert "memory was short: batches were evaluated in 4 parts each" in map(str, found.notes)
    noting(measures.Measures, "results")
    noting(sweep, "measure_costs")
    options = {"realize": "remove", "latency_seconds": 0.001}
    sparsity_curve(net, [data[:8]], LEVELS, "norm", **options)
    assert done == ["measure_costs", "results"]
