from types import SimpleNamespace

import pytest
import pytorch_lightning as pl
import torch
from torch import nn
from toys.fits import Net, TrainsOnly, fit, make_trainer

from ewnprune import EWN, SWN, Finetune, WeightNormPruning, reparametrize
from ewnprune.recipes import log_norm_penalty, proximal
from ewnprune.recipes.alpha_rate import AlphaLearningRate
from ewnprune.recipes.group_lasso import GroupLasso
from ewnprune.recipes.initial_norms import InitialNorms
from ewnprune.recipes.log_norm_penalty import LogNormPenalty


def _mlp():
    return nn.Sequential(nn.Linear(5, 8), nn.ReLU(), nn.Linear(8, 3)).double()


class _Net(TrainsOnly):
    def __init__(self, optimizer):
        super().__init__(_mlp(), optimizer)

    def configure_optimizers(self):
        made = super().configure_optimizers()
        step = torch.optim.lr_scheduler.StepLR(made, 2, 0.5)
        return {"optimizer": made, "lr_scheduler": {"scheduler": step, "interval": "step"}}


class _End(pl.Callback):
    """Keeps the network as it is before the fold."""

    def on_train_end(self, trainer, pl_module):
        self.state = {k: v.clone() for k, v in pl_module.net.named_parameters()}
        self.steps = trainer.global_step


def _loader():
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(48, 5, generator=generator, dtype=torch.float64)
    return torch.utils.data.DataLoader(torch.utils.data.TensorDataset(x, (x[:, 0] > 0).long()), 8)


def _fit(model, *callbacks, parametrization=None, **options):
    end = _End()
    callbacks = [*callbacks, WeightNormPruning(parametrization or EWN(), (0,)), end]
    make_trainer(None, *callbacks, max_epochs=1, **options).fit(model, _loader())
    return end.state


def _by_hand(start, optimizer, strength, lasso, rate, schedule, factor):
    """The same with the penalty in the loss and alpha in a parameter group of its own."""
    net = _mlp()
    net.load_state_dict(start)
    with torch.no_grad():
        net[0].weight *= factor
    reparametrize(net, EWN())
    alpha = net[0].parametrizations.weight.original0
    rest = [p for p in net.parameters() if p is not alpha]
    made = optimizer([{"params": rest}])
    group = {"params": [alpha], "lr": rate * made.param_groups[0]["lr"]}
    made.add_param_group(group)
    decay = torch.optim.lr_scheduler.StepLR(made, 2, 0.5)
    loader = _loader()
    for step, (x, y) in enumerate(loader):
        made.zero_grad()
        norms = net[0].weight.norm(dim=1)
        penalty = (strength * norms.log() + lasso * norms).sum() * schedule(step / len(loader))
        (nn.functional.cross_entropy(net(x), y) + penalty).backward()
        made.step()
        decay.step()
    return dict(net.named_parameters())


OPTIMIZERS = {
    "sgd": lambda p: torch.optim.SGD(p, lr=0.05, momentum=0.9, nesterov=True),
    "adam": lambda p: torch.optim.Adam(p, lr=0.01, eps=1e-3),
    "adamw": lambda p: torch.optim.AdamW(p, lr=0.01, weight_decay=0.1, eps=1e-3),
    "rmsprop": lambda p: torch.optim.RMSprop(p, lr=0.01, momentum=0.5, eps=1e-3),
}


@pytest.mark.parametrize("name", OPTIMIZERS)
def test_options_are_what_they_stand_for_under_any_optimizer(name):
    """Penalty in the loss, parameter group, scaled start: a plain loop gives the same network."""
    pl.seed_everything(1)
    model = _Net(OPTIMIZERS[name])
    start = {k: v.clone() for k, v in model.net.state_dict().items()}
    penalty = LogNormPenalty(0.02, ramp=0.5, until=0.8, lasso=0.03)
    found = _fit(model, InitialNorms(0.3), penalty, AlphaLearningRate(4.0, max_change=100.0))

    def schedule(done):
        return 0.0 if done >= 0.8 else min(1.0, done / 0.5)

    expected = _by_hand(start, OPTIMIZERS[name], 0.02, 0.03, 4.0, schedule, 0.3)
    assert found.keys() == expected.keys()
    for key, value in expected.items():
        torch.testing.assert_close(found[key], value)


def test_accumulated_gradients_get_the_penalty_once():
    pl.seed_everything(1)
    model = _Net(lambda p: torch.optim.SGD(p, lr=0.5))
    start = {k: v.clone() for k, v in model.net.state_dict().items()}
    with_penalty = _fit(model, LogNormPenalty(0.1), accumulate_grad_batches=6)
    again = _Net(lambda p: torch.optim.SGD(p, lr=0.5))
    again.net.load_state_dict(start)
    without = _fit(again, accumulate_grad_batches=6)
    key = "0.parametrizations.weight.original0"
    # one step in all: alpha is lower by rate times strength, and nothing else differs
    torch.testing.assert_close(
        without[key] - with_penalty[key], torch.full_like(without[key], 0.05)
    )
    for other in set(without) - {key}:
        torch.testing.assert_close(without[other], with_penalty[other])


class _TwoOptimizers(_Net):
    """Of whose loss nothing has a gradient."""

    automatic_optimization = False

    def configure_optimizers(self):
        return [self.optimizer(self.net[0].parameters()), self.optimizer(self.net[2].parameters())]

    def training_step(self, batch, _):
        self.manual_backward(0 * self(batch[0]).sum())
        for optimizer in self.optimizers():
            optimizer.step()
            optimizer.zero_grad()


@pytest.mark.parametrize(
    ("module", "name", "made"),
    [
        (log_norm_penalty, "gradients", LogNormPenalty(0.1)),
        (proximal, "shorten", GroupLasso(0.1)),
        (proximal, "shorten", GroupLasso(0.1, until=0.5)),
    ],
    ids=["log norms", "lasso", "half of the lasso"],
)
def test_there_is_no_penalty_while_a_pruned_network_is_finetuned(
    tmp_path, monkeypatch, module, name, made
):
    steps, pruning = [], WeightNormPruning(EWN(), (0, 0.5), finetune=Finetune(1, 0.5))
    monkeypatch.setattr(module, name, lambda *_: steps.append(1) or {})
    trainer = fit(tmp_path, Net(), made, pruning, max_epochs=1)
    assert trainer.global_step == 8
    assert len(steps) == (2 if getattr(made, "until", 1) < 1 else 4)  # of the first epoch


def test_under_several_optimizers_penalties_and_the_rate_of_alpha_are_on():
    """Lightning counts the steps of each, and does not plan them."""
    pl.seed_everything(1)
    model = _TwoOptimizers(lambda p: torch.optim.SGD(p, lr=0.5))
    before = model.net[0].weight.detach().norm(dim=1, keepdim=True).log()
    found = _fit(model, LogNormPenalty(0.1), AlphaLearningRate(3.0))
    alpha = found["0.parametrizations.weight.original0"].detach()
    torch.testing.assert_close(alpha, before - 3 * 6 * 0.5 * 0.1)


def test_a_schedule_asks_how_long_the_training_is():
    trainer = SimpleNamespace(callbacks=[], current_epoch=0)
    trainer.fit_loop = SimpleNamespace(max_epochs=2)
    trainer.lightning_module = SimpleNamespace(automatic_optimization=True)
    trainer.estimated_stepping_batches = -1  # as Lightning has it for data without a length
    with pytest.raises(ValueError, match="needs to know the length of the training: set max_ep"):
        LogNormPenalty(0.1, until=0.5).on_train_start(trainer, None)


def test_initial_norms_leave_what_is_frozen_and_are_set_once():
    pl.seed_everything(1)
    layers = [nn.Linear(5, 5), nn.Linear(5, 5), nn.Linear(5, 4), nn.Linear(4, 3)]
    layers[1].weight = layers[0].weight
    layers[2].requires_grad_(False)
    net, factor = nn.Sequential(*layers), InitialNorms(0.5)
    before = [layer.weight.detach().clone() for layer in layers]
    for _ in range(2):  # of a Trainer each
        factor.setup(None, net, "fit")
    for layer, was, times in zip(layers, before, (0.5, 0.5, 1.0, 1.0), strict=True):
        assert torch.equal(layer.weight, times * was)
    other = _mlp()
    was = other[0].weight.detach().clone()
    factor.setup(None, other, "fit")
    assert torch.equal(other[0].weight, 0.5 * was)


def test_alpha_moves_no_further_than_the_cap():
    pl.seed_everything(1)
    model = _Net(lambda p: torch.optim.SGD(p, lr=1.0))
    before = model.net[0].weight.detach().norm(dim=1).log()
    found = _fit(model, AlphaLearningRate(1e6, max_change=0.1), max_steps=1)
    moved = found["0.parametrizations.weight.original0"].detach().flatten()
    change = (moved - before).abs()
    assert change.max().item() == pytest.approx(0.1)


def test_initial_norms_count_for_the_change_score():
    pl.seed_everything(1)
    model = _Net(lambda p: torch.optim.SGD(p, lr=0.1))
    before = model.net[0].weight.detach().norm(dim=1)
    pruning = WeightNormPruning(SWN(), (0,))
    make_trainer(None, InitialNorms(0.01), pruning, max_steps=1).fit(model, _loader())
    torch.testing.assert_close(pruning.attachment.initial_norms["net.0"].double(), 0.01 * before)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: InitialNorms(0), "factor=0"),
        (lambda: LogNormPenalty(-1), "strength=-1"),
        (lambda: LogNormPenalty(1, lasso=-1), "lasso=-1"),
        (lambda: LogNormPenalty(1, ramp=2), "ramp=2"),
        (lambda: AlphaLearningRate(0), "rate=0"),
        (lambda: AlphaLearningRate(1, max_change=0), "max_change=0"),
    ],
)
def test_numbers_out_of_range(make, message):
    with pytest.raises(ValueError, match=message):
        make()


@pytest.mark.parametrize("callback", [LogNormPenalty(0.1), AlphaLearningRate(2)])
def test_they_ask_for_ewn(callback):
    with pytest.raises(ValueError, match="no layer is under it"):
        _fit(_Net(lambda p: torch.optim.SGD(p, lr=0.1)), callback, parametrization=SWN())
