"""The compatibility matrix: ways to train. Each is the same training as in a bare loop."""

import copy

import pytest
import pytorch_lightning as pl
import torch
from torch import nn
from torch.utils.data import DataLoader, IterableDataset, TensorDataset
from torchmetrics import MeanSquaredError
from torchmetrics.classification import MulticlassJaccardIndex, MultilabelF1Score
from toys.data import loader, points
from toys.fits import Net, fit

import ewnprune
from ewnprune import EWN, WeightNormPruning, attached_parametrizations

LEVELS = (0, 0.5, 0.9)


def _fit(folder, model, train=None, val=None, callback=None, callbacks=(), **options):
    callback = callback or WeightNormPruning(EWN(), LEVELS)
    fit(folder, model, callback, *callbacks, train=train, val=val, **options)
    return callback


def _losses(net, epochs=2):
    for _ in range(epochs):
        for index, (x, y) in enumerate(loader()):
            yield index, nn.functional.cross_entropy(net(x), y)


def _bare(model):
    net = copy.deepcopy(model.net)
    ewnprune.reparametrize(net, EWN(), exclude="2")
    return net


def _assert_same(model, net):
    ewnprune.fold(net)
    for key, value in net.state_dict().items():
        assert torch.equal(model.net.state_dict()[key], value), key


def test_gradient_accumulation(tmp_path):
    model = Net()
    net = _bare(model)
    _fit(tmp_path, model, accumulate_grad_batches=2)
    optimizer = torch.optim.SGD(net.parameters(), lr=0.1, momentum=0.9)
    for index, loss in _losses(net):
        (loss / 2).backward()
        if index % 2:
            optimizer.step()
            optimizer.zero_grad()
    _assert_same(model, net)


@pytest.mark.parametrize("algorithm", ["norm", "value"])
def test_gradient_clipping(tmp_path, algorithm):
    """What is clipped are the gradients of the attached parameters, not of the weight."""
    model = Net()
    net = _bare(model)
    _fit(tmp_path, model, gradient_clip_val=0.02, gradient_clip_algorithm=algorithm)
    optimizer = torch.optim.SGD(net.parameters(), lr=0.1, momentum=0.9)
    clip = getattr(nn.utils, f"clip_grad_{algorithm}_")
    for _, loss in _losses(net):
        optimizer.zero_grad()
        loss.backward()
        clip(net.parameters(), 0.02)
        optimizer.step()
    _assert_same(model, net)


class TwoOptimizersByHand(Net):
    def __init__(self):
        super().__init__()
        self.automatic_optimization = False

    def training_step(self, batch, _):
        optimizers = self.optimizers()
        for optimizer in optimizers:
            optimizer.zero_grad()
        self.manual_backward(super().training_step(batch, _))
        for optimizer in optimizers:
            optimizer.step()

    def validation_step(self, batch, _):
        self.log("val_loss", super().training_step(batch, _))

    def configure_optimizers(self):
        return _two_optimizers(self.net)


def _two_optimizers(net):
    return [
        torch.optim.Adam(net[0].parameters(), lr=0.01),
        torch.optim.SGD(net[2].parameters(), lr=0.1),
    ]


def test_manual_optimization_with_several_optimizers(tmp_path):
    model = TwoOptimizersByHand()
    net = _bare(model)
    callback = _fit(tmp_path, model)
    optimizers = _two_optimizers(net)
    for _, loss in _losses(net):
        for optimizer in optimizers:
            optimizer.zero_grad()
        loss.backward()
        for optimizer in optimizers:
            optimizer.step()
    _assert_same(model, net)
    assert len(callback.curve) == len(LEVELS)


def test_one_of_several_optimizers_holding_a_stale_weight_is_refused(tmp_path):
    class Stale(TwoOptimizersByHand):
        def __init__(self):
            super().__init__()
            self.early = torch.optim.SGD(self.net[0].parameters(), lr=0.1)

        def configure_optimizers(self):
            return [self.early, torch.optim.SGD(self.net[2].parameters(), lr=0.1)]

    with pytest.raises(RuntimeError, match=r"no optimizer holds the EWN parameters of layer"):
        _fit(tmp_path, Stale())


@pytest.mark.parametrize("precision", ["bf16-true", "bf16-mixed", "16-mixed"])
@pytest.mark.filterwarnings(
    "ignore:precision=.bf16-true.", "ignore:You passed .Trainer.accelerator=.cpu."
)
def test_low_precision_trains_and_sweeps_as_the_trainer_evaluates(tmp_path, precision):
    class Watch(pl.Callback):
        def on_train_end(self, trainer, pl_module):
            self.dtypes = {p.dtype for p in pl_module.parameters()}
            self.finite = all(p.isfinite().all() for p in pl_module.parameters())
            self.correct = 0
            with trainer.precision_plugin.forward_context():
                for x, y in trainer.val_dataloaders:  # rounding depends on the size of a batch
                    logits = pl_module(trainer.precision_plugin.convert_input(x))
                    self.correct += int((logits.argmax(1) == y).sum())

    model, watch = Net(), Watch()
    before = copy.deepcopy(model.state_dict())
    callback = _fit(tmp_path, model, callbacks=[watch], precision=precision)
    assert watch.finite
    assert watch.dtypes == {torch.bfloat16 if precision == "bf16-true" else torch.float32}
    assert all(not torch.equal(before[k], v) for k, v in model.state_dict().items())
    assert {p.dtype for p in model.parameters()} == watch.dtypes
    assert callback.curve.where(sparsity=0.0).points[0].correct == watch.correct


@pytest.mark.slow
def test_compile_before_and_after_attaching(tmp_path):
    """Compiled in configure_model, by the user, or the whole module: the same training."""

    class CompilesItself(Net):
        def configure_model(self):
            self.net = torch.compile(self.net, backend="eager")

    class CompilesInPlace(Net):
        def configure_model(self):
            self.net.compile(backend="eager")

    plain = Net()
    start = copy.deepcopy(plain.state_dict())
    expected = _fit(tmp_path, plain).curve
    for make in (CompilesItself, CompilesInPlace, lambda: torch.compile(Net(), backend="eager")):
        torch.compiler.reset()
        model = make()
        getattr(model, "_orig_mod", model).load_state_dict(start)
        curve = _fit(tmp_path, model).curve
        assert [p.correct for p in curve] == [p.correct for p in expected]
        assert not attached_parametrizations(model)
        state = {k.replace("_orig_mod.", ""): v for k, v in model.state_dict().items()}
        for key, value in plain.state_dict().items():
            assert torch.equal(state[key], value), key


class _Stream(IterableDataset):
    def __init__(self, data):
        self.data = data

    def __iter__(self):
        return iter(self.data)


def test_iterable_datasets(tmp_path):
    model, streamed = Net(), Net()
    streamed.load_state_dict(model.state_dict())
    expected = _fit(tmp_path, model).curve
    loaders = [DataLoader(_Stream(points(*a)), batch_size=16) for a in ((64, 0), (40, 1))]
    assert _fit(tmp_path, streamed, *loaders).curve == expected


def test_several_validation_loaders_and_an_unlimited_stream(tmp_path):
    """The curve is of the first loader, and says so; limits of the Trainer hold for it."""
    model = Net()
    loaders = [loader(40, 1), loader(64, 2)]
    callback = _fit(tmp_path, model, val=loaders, limit_val_batches=2)
    dense = callback.curve.where(sparsity=0.0).points[0]
    x, y = (tensor[:32] for tensor in points(40, 1).tensors)
    assert (dense.total, dense.correct) == (32, int((model(x).argmax(1) == y).sum()))
    assert "measured on the first of 2 val data loaders" in map(str, callback.curve.notes)


@pytest.mark.parametrize("task", ["regression", "multilabel", "segmentation"])
def test_other_tasks_than_classification(tmp_path, task):
    """The whole fit, with curve, files and figure of the metric that fits the task."""
    x = torch.randn(40, 2, 6, 6)
    layers: list[nn.Module] = [nn.Conv2d(2, 10, 3, padding=1), nn.ReLU()]
    if task == "segmentation":
        layers, y = [*layers, nn.Conv2d(10, 3, 1)], torch.randint(3, (40, 6, 6))
        metric, loss = MulticlassJaccardIndex(3), nn.functional.cross_entropy
    else:
        layers += [nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(10, 4)]
        if task == "regression":
            y, metric, loss = torch.randn(40, 4), MeanSquaredError(), nn.functional.mse_loss
        else:
            y, metric = torch.randint(2, (40, 4)), MultilabelF1Score(4)

            def loss(outputs, targets):
                return nn.functional.binary_cross_entropy_with_logits(outputs, targets.float())

    class Task(Net):
        def __init__(self):
            super().__init__()
            self.net = nn.Sequential(*layers)

        def training_step(self, batch, _):
            return loss(self(batch[0]), batch[1])

    model, data = Task(), DataLoader(TensorDataset(x, y), batch_size=16)
    callback = WeightNormPruning(EWN(), LEVELS, metric=metric)
    _fit(tmp_path, model, data, data, callback)
    with torch.no_grad():
        outputs = model(x)
    dense = callback.curve.where(sparsity=0.0).points[0]
    metric.reset()
    metric.update(outputs, y)
    assert dense.metrics[type(metric).__name__] == pytest.approx(metric.compute().item(), rel=1e-5)
    assert (dense.accuracy is not None) == (task == "segmentation")
    if task == "segmentation":
        assert dense.accuracy == pytest.approx((outputs.argmax(1) == y).float().mean().item())
    assert (tmp_path / "sparsity_curve.svg").is_file()
    written = ewnprune.read_curve(tmp_path / "sparsity_curve.json")
    assert written.points == callback.curve.points
