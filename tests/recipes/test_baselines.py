from copy import deepcopy

import numpy as np
import pytest
import pytorch_lightning as pl
import torch
from torch import nn
from toys.fits import Net, make_trainer, sgd

from ewnprune import EWN, SWN, DGating, FactorDecay, WeightNormPruning, reparametrize
from ewnprune.callback.checkpoint import read_checkpoint
from ewnprune.pruning.ranking import rank
from ewnprune.pruning.scores import Neurons, norm, norm_shuffled
from ewnprune.recipes.group_lasso import GroupLasso
from ewnprune.recipes.log_sum_penalty import LogSumPenalty
from ewnprune.study.dense import DenseOfPrunedSize


class _Net(Net):
    def __init__(self, hidden=12):
        super().__init__(nn.Sequential(nn.Linear(5, hidden), nn.ReLU(), nn.Linear(hidden, 3)))

    def configure_optimizers(self):
        made = super().configure_optimizers()
        step = torch.optim.lr_scheduler.StepLR(made, 1, 0.5)
        return {"optimizer": made, "lr_scheduler": {"scheduler": step, "interval": "step"}}


class _Data(pl.LightningDataModule):
    def __init__(self):
        super().__init__()
        generator = torch.Generator().manual_seed(0)
        x = torch.randn(32, 5, generator=generator)
        self.data = torch.utils.data.TensorDataset(x, (x[:, 0] > 0).long())

    def train_dataloader(self):
        return torch.utils.data.DataLoader(self.data, 8)

    val_dataloader = test_dataloader = train_dataloader


def _trainer(*callbacks, **options):
    return make_trainer(None, *callbacks, **{"max_epochs": 1, **options})


@pytest.mark.parametrize("until", [1.0, 0.5])
@pytest.mark.parametrize("accumulate", [1, 2])
def test_group_lasso_follows_the_schedule_and_the_optimizer(accumulate, until):
    """Against a plain loop: SGD with momentum, the rate of that step, then the proximal step."""
    pl.seed_everything(3)
    model = _Net()
    expected = torch.nn.Sequential(nn.Linear(5, 12), nn.ReLU(), nn.Linear(12, 3))
    expected.load_state_dict(model.net.state_dict())
    data = _Data()
    lasso = GroupLasso(0.3, until=until)
    _trainer(lasso, accumulate_grad_batches=accumulate).fit(model, datamodule=data)

    optimizer, rate = sgd(expected.parameters()), 0.1
    for index, (x, y) in enumerate(data.train_dataloader()):
        (nn.functional.cross_entropy(expected(x), y) / accumulate).backward()
        if (index + 1) % accumulate == 0:
            optimizer.step()
            optimizer.zero_grad()
            if index < until * 4:
                _shorten(expected[0], rate / 0.1 * 0.3)
            rate /= 2
            optimizer.param_groups[0]["lr"] = rate
    for name, value in expected.state_dict().items():
        torch.testing.assert_close(model.net.state_dict()[name], value)
    if until == 1:
        assert (model.net[0].weight.norm(dim=1) == 0).any()


@torch.no_grad()
def _shorten(layer, threshold):
    for row, bias in zip(layer.weight, layer.bias.view(-1, 1), strict=True):
        length = np.hypot(float(row.norm()), float(bias))
        factor = max(0.0, 1 - threshold / length) if length else 0.0
        row *= factor
        bias *= factor


@pytest.mark.parametrize("kind", [EWN, SWN])
def test_penalties_by_proximal_steps_are_felt_under_weight_normalization(kind, tmp_path):
    pl.seed_everything(3)
    model, callbacks = _Net(), (WeightNormPruning(kind(), (0,)), GroupLasso(0.3))
    _trainer(*callbacks, default_root_dir=tmp_path).fit(model, datamodule=_Data())
    gone = model.net[0].weight.norm(dim=1) < 1e-30
    assert 0 < gone.sum() < 12
    assert (model.net[0].bias[gone] == 0).all()


def test_frozen_neurons_and_the_end_of_training_feel_no_proximal_step():
    pl.seed_everything(3)
    model = _Net()
    model.net[0].requires_grad_(False)
    before = deepcopy(model.net[0].state_dict())
    _trainer(GroupLasso(0.3)).fit(model, datamodule=_Data())
    for key, value in model.net[0].state_dict().items():
        assert torch.equal(value, before[key])

    ends = []
    for penalty in (LogSumPenalty(0.5, until=0.0), LogSumPenalty(0.0), LogSumPenalty(0.5)):
        pl.seed_everything(3)
        model = _Net()
        _trainer(penalty).fit(model, datamodule=_Data())
        ends.append(model.net[0].weight.detach())
    assert torch.equal(ends[0], ends[1])
    assert (ends[2].norm(dim=1) == 0).any()


@pytest.mark.parametrize("depth", [2, 3, 4])
def test_decay_of_all_factors_is_a_penalty_on_the_norm(depth):
    """Descent on ||w - c||^2 / 2 ends in the minimum of it and strength * ||w||^(2 / D) near c."""
    torch.manual_seed(0)
    model, strength = nn.Sequential(nn.Linear(5, 6), nn.Linear(6, 1)).double(), 0.2
    targets = model[0].weight.detach().clone()
    targets /= targets.norm(dim=1, keepdim=True)
    targets *= torch.tensor([[0.05], [0.1], [0.15], [1.0], [1.5], [2.0]])
    model[0].weight.data.copy_(targets)
    reparametrize(model, DGating(depth))
    optimizer = torch.optim.SGD(model[0].parametrizations.weight.parameters(), lr=0.1)
    decay = FactorDecay(strength)
    decay.on_fit_start(None, model)
    for _ in range(1200):
        optimizer.zero_grad()
        ((model[0].weight - targets).square().sum() / 2).backward()
        decay.on_before_optimizer_step(None, model, optimizer)
        optimizer.step()
    found = model[0].weight.detach()
    for row, target in zip(found.numpy(), targets.numpy(), strict=True):
        length = np.linalg.norm(target)
        grid = np.linspace(0, length, 20_001)
        costs = (grid - length) ** 2 / 2 + strength * grid ** (2 / depth)
        downhill = np.flatnonzero(np.diff(costs)[::-1] < 0)  # where the way down from c ends
        expected = grid[len(grid) - 1 - downhill[0]] if len(downhill) else 0.0
        np.testing.assert_allclose(row, target / length * expected, atol=3e-4)
    assert (found.norm(dim=1) < 1e-3).tolist() == 3 * [True] + 3 * [False]


def test_factor_decay_refuses():
    with pytest.raises(ValueError, match="strength=-1"):
        FactorDecay(-1)
    with pytest.raises(ValueError, match="no layer is under it"):
        _trainer(WeightNormPruning(EWN(), (0,)), FactorDecay(0.1)).fit(_Net(), datamodule=_Data())
    with pytest.raises(ValueError, match="parametrization other than SWN and EWN"):
        pruning = WeightNormPruning(DGating(), (0,))
        _trainer(pruning, GroupLasso(0.1)).fit(_Net(), datamodule=_Data())


def test_proximal_penalties_refuse():
    with pytest.raises(ValueError, match="strength=-1"):
        GroupLasso(-1)
    with pytest.raises(ValueError, match="until=2"):
        LogSumPenalty(1, until=2)
    with pytest.raises(ValueError, match="epsilon=0"):
        LogSumPenalty(1, epsilon=0)
    model = _Net()
    nn.utils.parametrizations.weight_norm(model.net[0])
    with pytest.raises(ValueError, match=r"GroupLasso on layer 'net\.0', which has"):
        _trainer(GroupLasso(0.1)).fit(model, datamodule=_Data())
    with pytest.raises(ValueError, match="length of the training"):
        _trainer(GroupLasso(0.1, until=0.5), max_epochs=-1).fit(_Net(), datamodule=_Data())


def test_dense_of_pruned_size(tmp_path):
    """It has the size of the pruned network, Kaiming's variance, and the counts of the full one."""
    pl.seed_everything(0)
    model = _Net(hidden=4000)
    nn.init.kaiming_normal_(model.net[0].weight)
    nn.init.kaiming_normal_(model.net[2].weight)
    trainer = _trainer(DenseOfPrunedSize(0.9), max_steps=0, max_epochs=-1)
    trainer.fit(model, datamodule=_Data())
    first, second = model.net[0].requires_grad_(False), model.net[2].requires_grad_(False)
    assert (first.out_features, second.in_features) == (400, 400)
    assert float(first.weight.std()) == pytest.approx((2 / 5) ** 0.5, rel=0.1)
    assert float(second.weight.std()) == pytest.approx((2 / 400) ** 0.5, rel=0.1)
    trainer.save_checkpoint(tmp_path / "small.ckpt")
    counts = read_checkpoint(tmp_path / "small.ckpt")["callbacks"]["DenseOfPrunedSize"]
    assert counts["neurons"] == (400, 4000)
    assert counts["parameters"] == (400 * 9 + 3, 4000 * 9 + 3)
    assert counts["macs"] == (400 * 8, 4000 * 8)


def test_shuffled_norms_keep_the_ratios_of_layers():
    generator = torch.Generator().manual_seed(5)
    layers = {
        name: Neurons(name, scale * torch.randn(20, 4, generator=generator), seed=7)
        for name, scale in {"a": 1.0, "b": 2.0}.items()
    }
    kept, shuffled = (
        rank({name: score(n) for name, n in layers.items()}, "global").keep(0.6)
        for score in (norm, norm_shuffled)
    )
    for name in layers:
        assert kept[name].sum() == shuffled[name].sum()
        assert not torch.equal(kept[name], shuffled[name])
    assert torch.equal(norm_shuffled(layers["a"]), norm_shuffled(layers["a"]))
