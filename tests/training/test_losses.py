import math

import mpmath  # torch brings it, by way of sympy
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.autograd import gradcheck, gradgradcheck
from torch.nn import functional as F

from ewnprune.training.losses import LogCrossEntropyLoss, LogExponentialLoss, log_softplus

POINTS = [-1e4, -740.0, -103.0, -88.0, -37.0, -36.0, -16.0, -15.0, -5.0, -1e-3, 0.0, 1e-3, 2.0]
POINTS += [19.0, 21.0, 40.0, 89.0, 710.0, 1e4]


def _exact(z):
    """log softplus and its derivative with 5,000 digits: exp(-1e4) is 1e-4343."""
    with mpmath.workdps(5000):
        z = mpmath.mpf(z)
        softplus = mpmath.log1p(mpmath.exp(z))
        return float(mpmath.log(softplus)), float(1 / (1 + mpmath.exp(-z)) / softplus)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_log_softplus_and_its_gradient_against_5000_digits(dtype):
    z = torch.tensor(POINTS, dtype=dtype, requires_grad=True)
    value = log_softplus(z)
    (gradient,) = torch.autograd.grad(value.sum(), z)
    exact = [_exact(float(point)) for point in z.detach()]
    eps = torch.finfo(dtype).eps
    for got, derivative, (log_loss, slope) in zip(value, gradient, exact, strict=True):
        assert abs(got.item() - log_loss) <= 4 * eps * max(1, abs(log_loss))
        assert abs(derivative.item() - slope) <= 8 * eps * slope


def test_gradients_pass_gradcheck_to_second_order():
    z = torch.tensor([-30.0, -3.0, -0.1, 0.2, 5.0], dtype=torch.float64, requires_grad=True)
    assert gradcheck(log_softplus, (z,))
    assert gradgradcheck(log_softplus, (z,))
    logits = torch.randn(4, 3, dtype=torch.float64, requires_grad=True)
    target = torch.tensor([0, 2, 1, 1])
    for loss in (LogCrossEntropyLoss(), LogExponentialLoss("sum")):
        assert gradcheck(lambda x, loss=loss: loss(x, target), (logits,))


@given(
    seed=st.integers(0, 2**31), scale=st.sampled_from([0.1, 1.0, 10.0]), classes=st.integers(2, 7)
)
@settings(max_examples=40, deadline=None)
def test_is_the_log_of_torchs_cross_entropy_at_ordinary_losses(seed, scale, classes):
    generator = torch.Generator().manual_seed(seed)
    logits = scale * torch.randn(5, classes, 3, generator=generator, dtype=torch.float64)
    target = torch.randint(classes, (5, 3), generator=generator)
    for reduction in ("none", "mean", "sum"):
        expected = F.cross_entropy(logits, target, reduction=reduction)
        got = LogCrossEntropyLoss(reduction)(logits, target)
        assert got.shape == expected.shape
        torch.testing.assert_close(got.exp(), expected, rtol=1e-12, atol=1e-14)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("depth", [1.0, 50.0, 100.0, 1000.0, 1e4])
def test_two_samples_at_any_depth(dtype, depth):
    # two classes, margins q and q + log 2: L = l(q) + l(q + log 2), deep down exp(-q) * 3/2
    gap = math.log(2)
    logits = torch.tensor([[depth, 0.0], [0.0, depth + gap]], dtype=dtype, requires_grad=True)
    target = torch.tensor([0, 1])
    margins = (logits[0, 0] - logits[0, 1], logits[1, 1] - logits[1, 0])
    with mpmath.workdps(5000):
        losses = [mpmath.log1p(mpmath.exp(-mpmath.mpf(m.item()))) for m in margins]
        total = sum(losses)
        expected = float(mpmath.log(total))
        slopes = [float(1 / (1 + mpmath.exp(mpmath.mpf(m.item()))) / total) for m in margins]
    log_loss = LogCrossEntropyLoss("sum")(logits, target)
    (gradient,) = torch.autograd.grad(log_loss, logits)
    eps = torch.finfo(dtype).eps
    assert abs(log_loss.item() - expected) <= 4 * eps * max(1, depth)
    # the difference of the two rounded margins is itself known to depth * eps only
    bound = dict(rtol=8 * eps * max(1, depth), atol=0)
    wanted = torch.tensor([[-slopes[0], slopes[0]], [slopes[1], -slopes[1]]], dtype=dtype)
    torch.testing.assert_close(gradient, wanted, **bound)


def test_gradient_is_that_of_the_loss_over_the_loss():
    logits = torch.randn(6, 4, dtype=torch.float64, requires_grad=True)
    target = torch.arange(6) % 4
    loss = F.cross_entropy(logits, target)
    (plain,) = torch.autograd.grad(loss, logits)
    (scaled,) = torch.autograd.grad(LogCrossEntropyLoss()(logits, target), logits)
    torch.testing.assert_close(scaled, plain / loss.item())


def test_exponential_loss_is_the_plain_sum_where_that_is_finite():
    logits = torch.randn(6, 4, dtype=torch.float64)
    target = torch.arange(6) % 4
    by_hand = [
        sum(math.exp(row[j] - row[y]) for j in range(4) if j != y)
        for row, y in zip(logits.tolist(), target.tolist(), strict=True)
    ]
    for reduction, expected in (("sum", sum(by_hand)), ("mean", sum(by_hand) / 6)):
        got = LogExponentialLoss(reduction)(logits, target).item()
        assert got == pytest.approx(math.log(expected), rel=1e-12)


def test_wrong_predictions_far_off_stay_finite():
    logits = torch.tensor([[0.0, 1e4], [1e4, 0.0]], requires_grad=True)
    log_loss = LogCrossEntropyLoss()(logits, torch.tensor([0, 1]))
    assert log_loss.item() == pytest.approx(math.log(1e4), rel=1e-6)
    (gradient,) = torch.autograd.grad(log_loss, logits)
    # each term of the mean loss is linear: d log L = (1/2) / 1e4
    torch.testing.assert_close(gradient, torch.tensor([[-0.5e-4, 0.5e-4], [0.5e-4, -0.5e-4]]))


def test_low_precision_logits_are_computed_in_float32():
    logits = torch.randn(4, 3).bfloat16()
    got = LogCrossEntropyLoss()(logits, torch.tensor([0, 1, 2, 0]))
    assert got.dtype == torch.float32
    torch.testing.assert_close(
        got.exp(), F.cross_entropy(logits.float(), torch.tensor([0, 1, 2, 0]))
    )


def test_bad_arguments_are_named():
    with pytest.raises(ValueError, match=r"reduction='batchmean'.*'none', 'mean' or 'sum'"):
        LogCrossEntropyLoss("batchmean")
    with pytest.raises(ValueError, match=r"shape \(3, 1\).*C >= 2.*log_softplus"):
        LogCrossEntropyLoss()(torch.zeros(3, 1), torch.zeros(3, dtype=torch.long))
    with pytest.raises(ValueError, match=r"target of shape \(3, 2\).*indices of shape \(3,\)"):
        LogCrossEntropyLoss()(torch.zeros(3, 2), torch.zeros(3, 2))
