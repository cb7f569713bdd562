"""Rates that a loss drives: the paper's loop step by step, what is undone, logged and resumed."""

import copy
import math

import pytest
import torch
from torch import nn

from ewnprune.training.loss_rate import LossController, LossDrivenRate
from ewnprune.training.losses import LogCrossEntropyLoss, log_softplus
from ewnprune.training.optimizers import EWNSGD, neuron_param_groups


def _paper_loop(x, y, w, lr, lr_limit, frac, limit):
    """The paper's controller in plain Python for logistic regression, word for word."""
    lll, steps, rejected = 0.0, 0, 0

    def scaled(w):
        margins = [yi * (xi[0] * w[0] + xi[1] * w[1]) for xi, yi in zip(x, y, strict=True)]
        if min(margins) > 30:
            return sum(math.exp(-m - lll) for m in margins)
        return sum(math.log1p(math.exp(-m)) for m in margins) * math.exp(-lll)

    while lll >= -limit:
        loss = scaled(w)
        sigmas = [
            1 / (1 + math.exp(yi * (xi[0] * w[0] + xi[1] * w[1])))
            for xi, yi in zip(x, y, strict=True)
        ]
        gradient = [
            sum(-s * yi * xi[k] for s, xi, yi in zip(sigmas, x, y, strict=True)) * math.exp(-lll)
            for k in range(2)
        ]
        while True:
            eta = lr * math.exp(lll / frac)
            new = [w[k] - eta * gradient[k] for k in range(2)]
            if scaled(new) > loss:
                rejected, lr = rejected + 1, lr / 1.1
                continue
            lr = lr * 1.1 if lr < lr_limit else lr
            w, steps = new, steps + 1
            break
        lll += math.log(loss)
    return w, lr, steps, rejected


def test_lagged_rule_follows_the_papers_loop_step_by_step():
    x, y = [(1.0, 0.3), (-0.8, 0.3), (0.1, -0.5)], [1, 1, -1]
    # 5 * 1.1^k passes the limit 40 first at k = 22; rejections come with so large a rate
    lr_max = 5 * 1.1**22
    expected, lr, steps, rejected = _paper_loop(x, y, [0.0, 0.1], 5.0, 40.0, 30, 15)
    assert rejected > 3

    model = nn.Linear(2, 1, bias=False).double()
    model.weight.data.copy_(torch.tensor([[0.0, 0.1]], dtype=torch.float64))
    data, labels = torch.tensor(x, dtype=torch.float64), torch.tensor(y)

    def log_loss():
        return log_softplus(-labels * model(data)[:, 0]).logsumexp(0)

    optimizer = torch.optim.SGD(model.parameters(), lr=1.0)
    rate = LossDrivenRate(lr=5.0, lr_max=lr_max, power=1 / 30, lagged=True)
    controller = LossController(model, optimizer, log_loss().item(), rate)
    while controller.state.log_scale >= -15:
        optimizer.zero_grad()
        controller.relative(log_loss()).backward()
        optimizer.step()
        controller.judge(log_loss().item())
    assert int(controller.state.accepted) == steps
    assert int(controller.state.rejected) == rejected
    assert controller.state.lr.item() == pytest.approx(lr, rel=1e-12)
    torch.testing.assert_close(
        model.weight.detach(), torch.tensor([expected], dtype=torch.float64), rtol=1e-7, atol=0
    )


def test_step_size_is_the_rate_times_a_power_of_the_loss():
    state = LossDrivenRate(lr=0.5, power=0.25).start(torch.tensor(-8.0))
    assert LossDrivenRate(lr=0.5, power=0.25).step_size(state).item() == pytest.approx(
        0.5 * math.exp(-2)
    )
    assert LossDrivenRate(lr=0.5).step_size(state).item() == 0.5


def test_decisions_by_hand_for_runs_side_by_side():
    rate = LossDrivenRate(lr=1.0, lr_max=1.15, factor=1.1)
    start = torch.tensor([0.0, 0.0, 0.0, 0.0], dtype=torch.float64)
    kept, state = rate.decide(rate.start(start), torch.tensor([-1.0, 0.0, 0.5, math.nan]).double())
    assert kept.tolist() == [True, True, False, False]
    assert state.lr.tolist() == pytest.approx([1.1, 1.1, 1 / 1.1, 1 / 1.1])
    assert state.log_loss.tolist() == state.log_scale.tolist() == [-1, 0, 0, 0]
    kept, state = rate.decide(state, torch.tensor([-2.0, 1.0, 1.0, -0.1], dtype=torch.float64))
    assert state.lr.tolist() == pytest.approx([1.15, 1, 1 / 1.21, 1])
    assert state.accepted.tolist() == [2, 1, 0, 1]
    assert state.rejected.tolist() == [0, 1, 2, 1]
    assert state.streak.tolist() == [0, 1, 2, 0]


def _network():
    torch.manual_seed(3)
    return nn.Sequential(nn.Linear(4, 6), nn.BatchNorm1d(6), nn.ReLU(), nn.Linear(6, 3))


def _step(model, optimizer, seed=0):
    generator = torch.Generator().manual_seed(seed)
    x = torch.randn(16, 4, generator=generator)
    optimizer.zero_grad()
    LogCrossEntropyLoss()(model(x), torch.arange(16) % 3).backward()
    optimizer.step()


def test_undo_restores_weights_buffers_and_optimizer_state_bit_for_bit():
    model = _network()
    optimizer = EWNSGD(neuron_param_groups(model), lr=1.0)
    controller = LossController(model, optimizer, 0.0, LossDrivenRate(lr=0.1))
    _step(model, optimizer)
    assert controller.judge(-1.0).accepted
    before = copy.deepcopy((model.state_dict(), optimizer.state_dict()["state"]))
    for attempt in range(3):  # what is undone must not be written into either
        _step(model, optimizer, seed=attempt)
        assert model[1].num_batches_tracked == 2
        decision = controller.judge(-0.5)
        assert not decision.accepted and decision.rejections == attempt + 1
        after = (model.state_dict(), optimizer.state_dict()["state"])
        for old, new in zip(before[0].values(), after[0].values(), strict=True):
            assert torch.equal(old, new)
        assert torch.equal(before[1][0]["n"], after[1][0]["n"])
    assert controller.log_loss == -1.0
    assert optimizer.param_groups[0]["lr"] == pytest.approx(0.1 / 1.1**2)


def test_first_step_undone_leaves_no_optimizer_state():
    model = _network()
    optimizer = EWNSGD(neuron_param_groups(model), lr=1.0)
    controller = LossController(model, optimizer, 0.0, LossDrivenRate())
    _step(model, optimizer)
    controller.judge(math.inf)
    assert not optimizer.state_dict()["state"]


def test_rejections_are_bounded_with_a_message():
    model = _network()
    optimizer = torch.optim.SGD(model.parameters(), lr=1.0)
    controller = LossController(model, optimizer, 0.0, LossDrivenRate(), max_rejections=3)
    controller.judge(1.0)
    controller.judge(math.nan)
    with pytest.raises(RuntimeError, match=r"3 steps in a row.*log L = 0.*attempt 2.*0\.0075"):
        controller.judge(2.0)


def test_a_loss_that_has_underflowed_is_refused():
    model = _network()
    optimizer = torch.optim.SGD(model.parameters(), lr=1.0)
    controller = LossController(model, optimizer, 0.0, LossDrivenRate())
    before = controller.state
    with pytest.raises(ValueError, match=r"log_loss=-inf: .*underflowed.*LogCrossEntropyLoss"):
        controller.judge(-math.inf)
    assert controller.state is before


def test_decisions_are_logged(caplog):
    model = _network()
    optimizer = torch.optim.SGD(model.parameters(), lr=1.0)
    controller = LossController(model, optimizer, 0.0, LossDrivenRate())
    with caplog.at_level("INFO", logger="ewnprune.training.loss_rate"):
        controller.judge(-1.0)
        controller.judge(3.0)
    assert "accepted=True, attempted=-1.0" in caplog.messages[0]
    assert "accepted=False, attempted=3.0, log_loss=-1.0" in caplog.messages[1]


def test_state_dict_goes_through_a_safe_file_and_resumes(tmp_path):
    def build():
        model = _network().eval()
        optimizer = EWNSGD(neuron_param_groups(model), lr=1.0)
        return model, optimizer, LossController(model, optimizer, 0.0, LossDrivenRate(lr=0.1))

    def go_on(model, optimizer, controller, log_losses):
        decisions = []
        for k, log_loss in enumerate(log_losses):
            _step(model, optimizer, seed=k)
            decisions.append(controller.judge(log_loss))
        return decisions

    model, optimizer, controller = build()
    go_on(model, optimizer, controller, [-1.0, -0.5, -2.0])
    saved = {"m": model.state_dict(), "o": optimizer.state_dict(), "c": controller.state_dict()}
    torch.save(saved, tmp_path / "run.pt")
    straight = go_on(model, optimizer, controller, [-1.0, -3.0, -2.0, -4.0])

    saved = torch.load(tmp_path / "run.pt", weights_only=True)
    other, other_optimizer, resumed = build()
    other.load_state_dict(saved["m"])
    other_optimizer.load_state_dict(saved["o"])
    resumed.load_state_dict(saved["c"])
    assert go_on(other, other_optimizer, resumed, [-1.0, -3.0, -2.0, -4.0]) == straight
    for a, b in zip(model.parameters(), other.parameters(), strict=True):
        assert torch.equal(a, b)


def test_bad_input_is_named():
    with pytest.raises(ValueError, match=r"lr=0.*\(0, lr_max"):
        LossDrivenRate(lr=0)
    with pytest.raises(ValueError, match=r"factor=1\.0.*above 1"):
        LossDrivenRate(factor=1.0)
    model = _network()
    with pytest.raises(ValueError, match=r"log_loss=-inf.*underflowed.*LogCrossEntropy"):
        LossController(
            model, torch.optim.SGD(model.parameters(), lr=1.0), -math.inf, LossDrivenRate()
        )
