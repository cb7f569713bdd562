"""What outputs are decides what is measured: logits, probabilities, one score."""

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from ewnprune import sparsity_curve

X, Y = torch.randn(40, 4), torch.arange(40) % 3
BATCHES = [(X[:16], Y[:16]), (X[16:], Y[16:])]


def _net(last, outputs=3):
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(4, 8), nn.ReLU(), nn.Linear(8, outputs), last).eval()


def test_probabilities_get_accuracy_and_no_loss_and_a_note():
    net = _net(nn.Softmax(-1))
    curve = sparsity_curve(net, BATCHES, (0, 0.5))
    assert [point.loss for point in curve] == [None, None]
    assert curve.points[0].correct == int((net(X).argmax(1) == Y).sum())
    (note,) = (note for note in curve.notes if note.kind == "measures")
    assert "probabilities" in str(note) and "loss_fn" in str(note)
    assert "loss" not in curve.table().partition("dense")[0]
    with pytest.raises(ValueError, match="'loss' was not measured"):
        curve.area("loss")


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float64])
def test_probabilities_are_known_in_any_precision(dtype):
    batches = [(x.to(dtype), y) for x, y in BATCHES]
    curve = sparsity_curve(_net(nn.Softmax(-1)).to(dtype), batches, (0,))
    assert curve.points[0].loss is None


def test_a_loss_that_is_given_is_measured_of_probabilities_too():
    net = _net(nn.Softmax(-1))
    curve = sparsity_curve(net, BATCHES, (0,), loss_fn=lambda p, y: F.nll_loss(p.log(), y))
    expected = float(F.cross_entropy(net[:3](X), Y).detach())
    assert curve.points[0].loss == pytest.approx(expected, rel=1e-5)
    assert not [note for note in curve.notes if note.kind == "measures"]


@pytest.mark.parametrize("last", [nn.Identity(), nn.LogSoftmax(-1)])
def test_logits_and_log_probabilities_have_a_loss(last):
    net = _net(last)
    curve = sparsity_curve(net, BATCHES, (0,))
    expected = float(F.cross_entropy(net[:3](X), Y).detach())
    assert curve.points[0].loss == pytest.approx(expected, rel=1e-5)


def test_one_score_is_no_choice_of_a_class():
    batches = [(x, y % 2) for x, y in BATCHES]
    with pytest.raises(ValueError, match="no measure fits outputs of shape \\(16, 1\\)"):
        sparsity_curve(_net(nn.Identity(), 1), batches, (0,))
