"""Training on MNIST at speed: the same path as the model, autograd and the optimizers take."""

import math

import numpy as np
import pytest
import torch
from torch.nn import functional as F
from tqdm import tqdm

from ewnprune.experiments import mnist_digits, mnist_train
from ewnprune.experiments.mnist_runs import history
from ewnprune.experiments.mnist_state import (
    Run,
    each_log_loss,
    log_mean_loss,
    network,
)
from ewnprune.experiments.mnist_train import (
    choose,
    epoch,
    judged_log_loss,
    share_left_out,
    train,
)
from ewnprune.experiments.two_layer import TwoLayer
from ewnprune.training.loss_rate import LossController, LossDrivenRate
from ewnprune.training.losses import LogCrossEntropyLoss
from ewnprune.training.optimizers import EWNSGD, SWNSGD, neuron_param_groups

METHODS = ["EWN", "SWN", "none"]


def _controller(method, data, hidden=12):
    model = network(hidden, 0).to(data.x)
    optimizer = (
        torch.optim.SGD(model.parameters(), lr=1.0)
        if method == "none"
        else {"EWN": EWNSGD, "SWN": SWNSGD}[method](neuron_param_groups(model), lr=1.0)
    )
    start = F.cross_entropy(model(data.x), data.y).log().item()
    return LossController(model, optimizer, start, LossDrivenRate(lr=0.01))


def _plain_epoch(controller, data, order):
    """What `epoch` does, with every image, by the model, autograd and the optimizer."""
    for batch in torch.from_numpy(order).split(128):
        controller.optimizer.zero_grad()
        log_loss = LogCrossEntropyLoss()(controller.model(data.x[batch]), data.y[batch])
        controller.relative(log_loss).backward()
        controller.optimizer.step()


def _train(tmp_path, method, data, depths, hidden=12):
    with tqdm(disable=True) as bar:
        train(method, 0, data, hidden, depths, tmp_path, bar)
    return history(tmp_path)


@pytest.mark.parametrize("method", METHODS)
def test_the_path_is_that_of_autograd_with_all_images(digits, method, tmp_path):
    data = digits(600)
    rows = _train(tmp_path, method, data, [4, 8, 12, 24])
    assert rows[-1]["images"] < 500  # most of what follows is about what is left out
    assert all(row["images"] == 600 for row in rows if row["log_loss"] > -8)
    assert 0 < sum(row["accepted"] for row in rows) < len(rows)
    controller = _controller(method, data)
    for k, row in enumerate(rows):
        _plain_epoch(controller, data, np.random.default_rng((0, k)).permutation(600))
        with torch.no_grad():
            full = LogCrossEntropyLoss()(controller.model(data.x), data.y).item()
        decision = controller.judge(full)
        assert decision.accepted == row["accepted"]
        if decision.accepted:
            # a share of 1e-7 is left out of each step; large steps add to the difference
            assert row["log_loss"] == pytest.approx(full, abs=2e-3)
        assert row["lr"] == pytest.approx(decision.lr)
    kept = torch.load(tmp_path / "depth24.pt", weights_only=True)["weights"]["fc1.weight"]
    expected = controller.model.fc1.weight.detach()
    assert (kept - expected).norm() < 1e-3 * (expected - network(12, 0).fc1.weight).norm()


@pytest.mark.parametrize("method", METHODS)
def test_one_epoch_is_that_of_autograd_to_the_rounding_of_each_type(digits, method):
    for dtype, rtol in ((torch.float64, 1e-11), (torch.float32, 2e-4)):
        data = digits(600, dtype)
        fast, plain = _controller(method, data), _controller(method, data)
        chosen = choose(each_log_loss(fast.model, data), data, 0.0)
        assert len(chosen.digits.y) == 600
        for controller in (fast, plain):
            for group in controller.optimizer.param_groups:
                group["lr"] = 0.05
        assert epoch(Run(method, 7, fast, []), chosen)
        _plain_epoch(plain, data, np.random.default_rng((7, 0)).permutation(600))
        start = network(12, 0).to(data.x)
        for a, b, old in zip(
            fast.model.parameters(), plain.model.parameters(), start.parameters(), strict=True
        ):
            assert (b - old).norm() > 1e-3
            assert (a - b).norm() < rtol * (b - old).norm()
        if method != "none":
            n, m = (c.optimizer.state[c.model.fc1.weight]["n"] for c in (fast, plain))
            assert m.max() > 1.0001
            torch.testing.assert_close(n, m, rtol=1e-10 if dtype == torch.float64 else 1e-5, atol=0)


@pytest.mark.parametrize("depth", [1, 40, 200])
def test_gradients_are_those_of_autograd_at_any_depth(digits, depth):
    data = digits(40, torch.float32)
    model = network(12, 0)
    with torch.no_grad():  # neuron k sees the pixels of class k
        model.fc1.weight.zero_()
        for k in range(10):
            model.fc1.weight[k, 5 * k : 5 * k + 5] = 1
        model.fc2.weight.copy_(torch.eye(10, 12) * depth / 10)
    log_loss = LogCrossEntropyLoss("sum")(model(data.x), data.y)
    log_loss.backward()  # divides by the loss
    grads, products = TwoLayer.of(model).gradients(data.x, data.y, log_loss.item())
    for mine, p in zip(grads, model.parameters(), strict=True):
        torch.testing.assert_close(mine, p.grad, rtol=1e-4, atol=1e-5 * p.grad.abs().max().item())
    expected = (model.fc1.weight.double() * model.fc1.weight.grad.double()).sum(1)
    torch.testing.assert_close(products.double(), expected, rtol=1e-3, atol=1e-4 * depth)


def test_blocks_in_which_an_image_comes_back_are_done_again_with_all(digits, tmp_path, monkeypatch):
    data = digits(300)
    monkeypatch.setattr(mnist_digits, "ALL_ABOVE", math.inf)
    monkeypatch.setattr(mnist_digits, "LEFT_OUT", 0.0)
    straight = _train(tmp_path / "all", "EWN", data, [6])
    monkeypatch.setattr(mnist_digits, "LEFT_OUT", 0.4)
    monkeypatch.setattr(mnist_train, "HARMLESS", 1.0)
    loose = _train(tmp_path / "loose", "EWN", data, [6])
    assert min(row["images"] for row in straight) == 300 > max(row["images"] for row in loose)
    assert [r["log_loss"] for r in loose] != [r["log_loss"] for r in straight]
    monkeypatch.setattr(mnist_train, "HARMLESS", 0.0)
    again = _train(tmp_path / "again", "EWN", data, [6])
    assert [r | {"seconds": 0} for r in again] == [r | {"seconds": 0} for r in straight]


def test_images_chosen_are_the_hardest_and_the_others_hardly_count(digits):
    data = digits(200)
    each = torch.linspace(0, -50, 200, dtype=torch.float64)[torch.randperm(200)]
    chosen = choose(each, data, 1e-7)
    share = (each.exp() / each.exp().sum()).sort().values
    count = len(chosen.digits.y)
    assert share[: 200 - count].sum() < 1e-7 <= share[: 201 - count].sum()
    found = chosen.place >= 0
    assert each[~found].max() < each[found].min()
    assert torch.equal(chosen.digits.y[chosen.place[found]], data.y[found])
    assert torch.equal(chosen.digits.x[chosen.place[found]], data.x[found])
    assert chosen.place[each.argmax()] == 0  # the hardest is looked at first
    later = each + torch.where(found, 0.0, 20.0)
    expected = later.exp()[~found].sum() / later.exp().sum()
    assert share_left_out(later, chosen) == pytest.approx(expected.item(), rel=1e-9)


def test_a_loss_that_has_passed_the_highest_is_not_summed_further(digits, monkeypatch):
    monkeypatch.setattr(mnist_train, "CHUNK", 16)
    data, model = digits(200), network(12, 0).double()
    chosen = choose(each_log_loss(model, data), data, 0.0)
    full = F.cross_entropy(model(data.x), data.y).log().item()
    assert log_mean_loss(model, data) == pytest.approx(full, rel=1e-12)
    assert judged_log_loss(model, chosen, math.inf) == pytest.approx(full, rel=1e-12)
    assert judged_log_loss(model, chosen, full + 1e-9) == pytest.approx(full, rel=1e-12)
    bound = judged_log_loss(model, chosen, full - 2)
    hardest = each_log_loss(model, data).sort(descending=True).values
    sums = hardest.logcumsumexp(0) - math.log(200)
    stop = next(k for k in range(15, 200, 16) if sums[k] > full - 2)
    assert stop < 199 and full - 2 < bound < full
    assert bound == pytest.approx(sums[stop].item(), rel=1e-12)


@pytest.mark.parametrize("method", METHODS)
def test_an_epoch_ends_when_the_weights_overflow(digits, method):
    data = digits(600, torch.float32)
    fast, plain = _controller(method, data), _controller(method, data)
    for controller in (fast, plain):
        for group in controller.optimizer.param_groups:
            group["lr"] = 1e25
    chosen = choose(each_log_loss(fast.model, data), data, 0.0)
    assert not epoch(Run(method, 0, fast, []), chosen)
    _plain_epoch(plain, data, np.random.default_rng((0, 0)).permutation(600))
    assert not math.isfinite(log_mean_loss(plain.model, data))


def test_a_weight_that_is_not_a_number_shows_in_the_loss(digits):
    data, model = digits(20, torch.float32), network(12, 0)
    model.fc1.weight.data[3, 5] = math.nan
    assert math.isnan(log_mean_loss(model, data))
    grads, _ = TwoLayer.of(model).gradients(data.x, data.y, 0.0)
    assert grads.out.isnan().any()
