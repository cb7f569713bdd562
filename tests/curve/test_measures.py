"""Accuracy, loss and metrics of a curve, and what is refused."""

from copy import deepcopy

import numpy as np
import pytest
import torch
from torch import nn
from torch.nn import functional as F
from torchmetrics import MeanAbsoluteError, MetricCollection
from torchmetrics.classification import MulticlassAccuracy, MulticlassF1Score
from toys.sweeps import logits, trained

from ewnprune.curve import measures
from ewnprune.curve.sweep import sparsity_curve
from ewnprune.pruning.zeroing import mask_neurons
from lightning_modules import MLP

LEVELS = (0, 0.3, 0.5, 0.8, 0.95)


def test_accuracy_and_loss_are_those_of_all_samples_at_once(batches):
    net = trained(MLP(hidden=(20,)), batches)
    x, y = (torch.cat(parts) for parts in zip(*batches, strict=True))
    point = sparsity_curve(net, batches, (0,)).points[0]
    with torch.no_grad():
        output = net.double()(x.double())
    assert point.correct == int((output.argmax(1) == y).sum())
    assert point.accuracy == point.correct / 150
    assert point.loss == pytest.approx(F.cross_entropy(output, y).item(), rel=1e-6)
    net.float()
    one_each = sparsity_curve(
        net, batches, (0,), loss_fn=lambda o, t: F.cross_entropy(o, t, reduction="none")
    )
    assert one_each.points[0].loss == pytest.approx(point.loss, rel=1e-6)


def test_nan_outputs_are_wrong_even_where_the_class_would_be_guessed():
    class Broken(nn.Module):
        def __init__(self):
            super().__init__()
            self.fc1, self.fc2 = nn.Linear(2, 2), nn.Linear(2, 2)

        def forward(self, x):
            bad = torch.tensor([[float("nan"), 0.0], [0.0, 1.0], [0.0, float("nan")]])
            return self.fc2(self.fc1(x)) * 0 + bad

    targets = torch.tensor([0, 1, 1])  # torch.argmax takes a NaN for the highest
    point = sparsity_curve(Broken(), [(torch.ones(3, 2), targets)], (0,)).points[0]
    assert (point.correct, point.total) == (1, 3)
    assert np.isnan(point.loss)


def test_a_removed_neuron_that_is_infinite_does_no_harm():
    net = nn.Sequential(nn.Linear(2, 3, bias=False), nn.Identity(), nn.Linear(3, 2))
    with torch.no_grad():
        net[0].weight.copy_(torch.tensor([[1.0, 0.0], [0.0, 1.0], [1e-3, 0.0]]))
    net[1].register_forward_hook(lambda m, a, out: out / torch.tensor([1.0, 1.0, 0.0]))
    x = torch.rand(4, 2) + 0.1
    dense, pruned = sparsity_curve(net, [(x, torch.zeros(4, dtype=torch.long))], (0, 1 / 3))
    assert np.isnan(dense.loss) or np.isinf(dense.loss)
    by_hand = x @ net[2].weight[:, :2].T + net[2].bias
    assert pruned.loss == pytest.approx(F.cross_entropy(by_hand, torch.zeros(4).long()).item())


def test_any_metric_or_collection_is_computed_for_each_network(batches):
    net = trained(MLP(hidden=(20,)), batches)
    metrics = MetricCollection(
        {"macro": MulticlassAccuracy(10), "top 3": MulticlassAccuracy(10, top_k=3, average="micro")}
    )
    metrics["macro"].update(torch.eye(10), torch.arange(10))  # a state of its own, not to be used
    curve = sparsity_curve(net, batches, LEVELS, "norm", metric=metrics)
    single = sparsity_curve(
        net, batches, LEVELS, "norm", metric=MulticlassF1Score(10, average="macro")
    )
    for point, other in zip(curve, single, strict=True):
        brute = deepcopy(net)
        mask_neurons(brute, point.sparsity, batches[0][0])
        output, y = torch.cat(logits(brute, batches)), torch.cat([y for _, y in batches])
        assert point.metrics["macro"] == MulticlassAccuracy(10)(output, y).item()
        in_top = (output.topk(3).indices == y[:, None]).any(1).float().mean().item()
        assert point.metrics["top 3"] == pytest.approx(in_top)
        f1 = MulticlassF1Score(10, average="macro")(output, y).item()
        assert other.metrics == {"MulticlassF1Score": f1}
        assert other.accuracy == point.accuracy
    assert metrics["macro"].compute() == pytest.approx(1)


def test_outputs_that_are_too_many_to_hold_back_are_evaluated_in_parts(batches, monkeypatch):
    net = trained(MLP(hidden=(20,)), batches)
    whole = sparsity_curve(net, batches, LEVELS, ("norm", "random"))
    monkeypatch.setattr(measures, "_AT_ONCE", 1000)  # a batch of one network has 640 scores
    assert sparsity_curve(net, batches, LEVELS, ("norm", "random")) == whole


def test_labels_may_be_small_integers(batches):
    net = MLP(hidden=(20,))
    small = [(x, y.to(torch.uint8)) for x, y in batches]
    assert sparsity_curve(net, small, LEVELS) == sparsity_curve(net, batches, LEVELS)


def test_tasks_other_than_classification():
    net = nn.Sequential(nn.Linear(3, 8), nn.ReLU(), nn.Linear(8, 1))
    x, y = torch.randn(10, 3), torch.randn(10, 1)
    loader = [(x[:6], y[:6]), (x[6:], y[6:])]
    point = sparsity_curve(
        net, loader, (0,), metric=MeanAbsoluteError(), loss_fn=F.mse_loss
    ).points[0]
    error = net(x) - y
    assert point.metrics["MeanAbsoluteError"] == pytest.approx(error.abs().mean().item())
    assert point.loss == pytest.approx(error.square().mean().item())
    assert (point.accuracy, point.correct, point.total) == (None, None, 10)
    with pytest.raises(
        ValueError, match=r"no measure fits outputs of shape \(6, 1\) and targets of sha"
    ):
        sparsity_curve(net, loader, (0,))


@pytest.mark.parametrize("first", [0, 9])
def test_objects_in_images_are_no_samples(first):
    net, x = nn.Sequential(nn.Linear(3, 8), nn.ReLU(), nn.Linear(8, 2)), torch.randn(5, 3)
    targets = [{"boxes": torch.rand(count, 4)} for count in (first, 1, 1, 2, 1)]
    loader = [(x, targets), (x[:2], targets[1:3])]  # the latter with one each
    point = sparsity_curve(net, loader, (0,), loss_fn=lambda o, _: o.square().mean(1)).points[0]
    assert point.total == 7
    expected = torch.cat([net(x), net(x[:2])]).square().mean()
    assert point.loss == pytest.approx(expected.item())


def test_pixels_are_classified_too():
    net = nn.Sequential(nn.Conv2d(1, 4, 3, padding=1), nn.ReLU(), nn.Conv2d(4, 3, 1))
    x, y = torch.randn(2, 1, 5, 5), torch.randint(3, (2, 5, 5))
    point = sparsity_curve(net, [(x, y)], (0,)).points[0]
    assert (point.correct, point.total) == (int((net(x).argmax(1) == y).sum()), 50)
    assert point.loss == pytest.approx(F.cross_entropy(net(x), y).item())


@pytest.mark.parametrize(
    ("options", "error", "message"),
    [
        ({"metric": MulticlassAccuracy(3)}, ValueError, "metric MulticlassAccuracy does not fit"),
        ({"metric": MulticlassAccuracy(10, average=None)}, ValueError, "expected one number"),
        ({"metric": "accuracy"}, TypeError, "metric='accuracy': expected a torchmetrics Metric"),
        ({"loss_fn": lambda o, t: o}, ValueError, r"loss_fn gives \(64, 10\): expected the mean"),
        ({"loss_fn": 3}, TypeError, "loss_fn=3: expected a function of outputs and targets"),
        ({"loss_fn": lambda o, t: 1.0}, ValueError, "loss_fn gives float: expected the mean"),
        ({"batch": lambda b: (b[0], b[1][:5])}, ValueError, "no measure fits outputs"),
        ({"sparsities": (0, 1.5)}, ValueError, "sparsity 1.5 is outside"),
        ({"scores": "l2"}, ValueError, "unknown score 'l2'"),
        ({"layers": "nothing"}, ValueError, "layers='nothing' matches no layer"),
        ({"scope": "network"}, ValueError, "scope='network'"),
    ],
)  # fmt: skip
def test_bad_arguments_are_refused_in_one_line(batches, options, error, message):
    with pytest.raises(error, match=message) as caught:
        sparsity_curve(MLP(hidden=(20,)), batches, **{"sparsities": (0, 0.5), **options})
    assert "\n" not in str(caught.value)


def test_bad_loaders_are_refused_in_one_line(batches):
    net = MLP(hidden=(20,))
    with pytest.raises(ValueError, match="the loader gave no batch"):
        sparsity_curve(net, [])
    with pytest.raises(
        ValueError, match=r"a batch of the loader is a Tensor: expected \(inputs, targ"
    ):
        sparsity_curve(net, [batches[0][0]])
    with pytest.raises(ValueError, match="a batch of the loader is a dict of 2: expected"):
        sparsity_curve(net, [{"x": 1, "y": 2}])


def test_lazy_layers_are_refused(batches):
    net = nn.Sequential(nn.Flatten(), nn.Linear(784, 5), nn.LazyLinear(10))
    with pytest.raises(ValueError, match=r"'2\.weight' has no values yet"):
        sparsity_curve(net, batches)


class Pixels(nn.Module):
    """Classes per pixel of images with two channels."""

    def __init__(self):
        super().__init__()
        self.hidden, self.out = nn.Conv2d(2, 6, 3, padding=1), nn.Conv2d(6, 3, 1)

    def forward(self, x):
        return self.out(self.hidden(x).relu())


def _marked(marks, dtype=torch.int64):
    """Batches whose pixels have no class here and there, one of them nowhere."""
    torch.manual_seed(0)
    batches = []
    for samples in (5, 3, 2):
        targets = torch.randint(3, (samples, 8, 8))
        gone = torch.rand(targets.shape) < 0.3
        gone[:] |= samples == 2
        marked = torch.tensor(marks)[torch.arange(targets.numel()) % len(marks)].view_as(targets)
        targets = torch.where(gone, marked, targets)
        batches.append((torch.randn(samples, 2, 8, 8), targets.to(dtype)))
    return batches


@pytest.mark.parametrize(
    ("marks", "loss", "dtype"),
    [
        ([255], None, torch.int64),
        ([255], None, torch.uint8),
        ([-100, -1, 255], None, torch.int64),
        ([255], nn.CrossEntropyLoss(ignore_index=255), torch.int64),
        ([99], nn.CrossEntropyLoss(ignore_index=99), torch.int64),
        ([1], nn.CrossEntropyLoss(ignore_index=1), torch.int64),
    ],
)
def test_targets_without_a_class_are_left_out(marks, loss, dtype):
    batches = _marked(marks, dtype)
    net = Pixels().eval()
    curve = sparsity_curve(net, batches, (0, 0.5), "norm", loss_fn=loss)
    right, losses, total, size = [0, 0], [0.0, 0.0], 0, 0
    masked = deepcopy(net)
    mask_neurons(masked, 0.5, batches[0][0])
    for x, targets in batches:  # pixel by pixel, in NumPy
        y = targets.numpy().ravel().astype(int)
        counts = ~np.isin(y, marks)
        total, size = total + counts.sum(), size + len(y)
        for place, network in enumerate((net, masked)):
            with torch.no_grad():
                scores = network(x).movedim(1, -1).flatten(0, 2).double().numpy()[counts]
            right[place] += int((scores.argmax(1) == y[counts]).sum())
            shifted = scores - np.log(np.exp(scores).sum(1, keepdims=True))
            losses[place] -= shifted[np.arange(counts.sum()), y[counts]].sum()
    for point, correct, summed in zip(curve, right, losses, strict=True):
        assert (point.correct, point.total) == (correct, total)
        assert point.accuracy == correct / total
        assert point.loss == pytest.approx(summed / total, rel=1e-5)
    note = f"{size - total} of {size} targets are no class: accuracy and loss leave them out"
    assert [str(note) for note in curve.notes if note.kind == "measures"] == [note]


def test_targets_that_cannot_be_meant_are_refused_in_one_line():
    net = Pixels().eval()
    with pytest.raises(
        ValueError, match="target 3 is none of the model's 3 classes: expected 0 to"
    ):
        sparsity_curve(net, _marked([3]), (0,))
    with pytest.raises(ValueError, match="target 3 is none of the model's 3 classes"):
        sparsity_curve(net, [*_marked([255]), *_marked([3])], (0,))
    with pytest.raises(ValueError, match="none of 128 targets is a class"):
        sparsity_curve(net, _marked([255])[2:], (0,))
