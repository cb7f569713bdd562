"""Collections of metrics: the numbers of each are those of the metric by itself."""

import torch
from torch import nn
from torchmetrics import MetricCollection
from torchmetrics.classification import BinaryAccuracy, BinaryF1Score

from ewnprune import sparsity_curve


class _Probability(nn.Module):
    def __init__(self):
        super().__init__()
        self.net = nn.Sequential(nn.Linear(4, 6), nn.Tanh(), nn.Linear(6, 1))

    def forward(self, x):
        return self.net(x).sigmoid().flatten()


def _metrics():
    return {"a50": BinaryAccuracy(0.5), "a30": BinaryAccuracy(0.3), "f1": BinaryF1Score(0.7)}


def _by_hand(probability, targets):
    right, yes = ((probability > t).long() == targets for t in (0.5, 0.3)), probability > 0.7
    a50, a30 = (float(r.double().mean()) for r in right)
    both = int((yes & (targets == 1)).sum())
    return {"a50": a50, "a30": a30, "f1": 2 * both / int(yes.sum() + targets.sum())}


def _batches(model):
    """First one on which all thresholds give the same counts, then those on which they do not."""
    x = torch.randn(400, 4)
    y = torch.randint(2, (400,))
    with torch.no_grad():
        p = model(x)
    sure = torch.cat([(p > 0.7).nonzero().flatten(), (p < 0.3).nonzero().flatten()])
    rest = ((p >= 0.3) & (p <= 0.7)).nonzero().flatten()
    assert len(sure) and len(rest)
    return [(x[sure], y[sure]), (x[rest], y[rest])]


def _model():
    torch.manual_seed(0)
    model = _Probability().eval()
    with torch.no_grad():
        model.net[2].weight.mul_(3)
    return model


def test_metrics_that_agree_on_the_first_batch_are_not_taken_for_one():
    model = _model()
    batches = _batches(model)
    collection = MetricCollection(_metrics())
    curve = sparsity_curve(model, batches, (0,), metric=collection)
    x, y = (torch.cat(part) for part in zip(*batches, strict=True))
    expected = _by_hand(model(x).detach(), y)
    torch.testing.assert_close(curve.points[0].metrics, expected, rtol=1e-6, atol=1e-6)
    assert collection["a50"].update_count == 0  # the user's own is left as it was


def test_a_collection_that_was_used_before_brings_no_groups_along():
    model = _model()
    batches = _batches(model)
    collection = MetricCollection(_metrics())
    collection.update(model(batches[0][0]), batches[0][1])
    assert len(collection.compute_groups) == 1
    curve = sparsity_curve(model, batches, (0, 0.5), metric=collection)
    fresh = {
        name: sparsity_curve(model, batches, (0, 0.5), metric=metric).points
        for name, metric in _metrics().items()
    }
    for place, point in enumerate(curve):
        for name, value in point.metrics.items():
            (alone,) = fresh[name][place].metrics.values()
            assert value == alone
    assert len(collection.compute_groups) == 1 and collection["a30"].update_count == 1
