"""BatchNorm of images that see different networks, each normalized by those that see the same."""

import pytest
import pytorch_lightning as pl
import torch
from torch import nn
from torch.nn import functional
from torch.utils.data import DataLoader, TensorDataset
from toys.fits import TrainsOnly, make_trainer

from ewnprune.recipes.level_statistics import Order, normalize_apart
from ewnprune.recipes.nested import NestedTraining, draw_levels


def _normed():
    torch.manual_seed(0)
    return nn.Sequential(
        nn.Linear(5, 8), nn.BatchNorm1d(8), nn.ReLU(),
        nn.Linear(8, 6), nn.BatchNorm1d(6), nn.ReLU(), nn.Linear(6, 3),
    ).double()  # fmt: skip


class _Seen(TrainsOnly):
    def training_step(self, batch, batch_idx):
        self.given = self(batch[0]).detach().clone()
        return super().training_step(batch, batch_idx)


def test_images_are_normalized_by_those_that_see_the_same_network():
    """A step against networks cut out by hand, each run on its images alone in train mode."""
    pl.seed_everything(3)
    net, levels = _normed(), (0.5, 0.75)
    x = torch.randn(40, 5, dtype=torch.float64)
    data = DataLoader(TensorDataset(x, torch.arange(40) % 3), 40)
    nested = NestedTraining(0.6, levels, score="norm_with_bias", layers="net.0")
    model, twin = _Seen(net, lambda p: torch.optim.SGD(p, lr=0.0)), _normed()
    make_trainer(None, nested, max_epochs=1).fit(model, data)
    draws = draw_levels(40, 0.6, 2, (3, 0, 0, 0))
    assert draws.bincount().tolist() != [40] and draws.bincount().min() > 1
    # of the first BatchNorm all images see the same network
    hidden = functional.batch_norm(
        functional.linear(x, twin[0].weight, twin[0].bias), None, None, training=True
    ).relu()
    order = (twin[0].weight.square().sum(1) + twin[0].bias.square()).argsort()
    for number, level in enumerate((0, *levels)):
        gone = order[: round(level * 8)]
        images = hidden[draws == number].clone()
        images[:, gone] = 0
        expected = twin[3:].train()(images)
        torch.testing.assert_close(model.given[draws == number], expected.detach())
        if number == 0:
            read = functional.linear(images, twin[3].weight, twin[3].bias)
            torch.testing.assert_close(
                net[4].running_mean, 2 * 0.1 * read.mean(0) - 0.01 * read.mean(0)
            )
    assert not any(m._forward_pre_hooks or m._forward_hooks for m in net.modules())


def test_one_image_alone_is_normalized_as_one_of_the_batch():
    norm, x = nn.BatchNorm1d(3).double(), torch.randn(5, 3, dtype=torch.float64)
    handles = normalize_apart(norm, lambda: Order.of(torch.tensor([0, 0, 1, 2, 2])))
    found = norm(x)
    whole = functional.batch_norm(x, None, None, training=True)
    torch.testing.assert_close(found[2], whole[2])
    for rows in (slice(0, 2), slice(3, 5)):
        alone = functional.batch_norm(x[rows], None, None, training=True)
        torch.testing.assert_close(found[rows], alone)
    torch.testing.assert_close(norm.running_mean, 0.1 * x[:2].mean(0))
    norm.eval()
    assert torch.equal(
        norm(x),
        functional.batch_norm(x, norm.running_mean, norm.running_var, norm.weight, norm.bias),
    )
    norm.train()
    for handle in handles:
        handle.remove()
    torch.testing.assert_close(norm(x), whole)
    nobody = normalize_apart(norm, lambda: Order.of(torch.tensor([1, 1, 2, 2, 2])))
    norm(x)  # nobody sees the whole network: the running statistics are those of all
    assert nobody and norm.running_mean.isfinite().all()


@pytest.mark.parametrize("numbers", [[2, 0, 1, 0, 2, 1], [1, 0, 2, 0, 2, 0], [1, 2, 2, 1, 1, 1]])
def test_gradients_of_images_normalized_apart_are_theirs(numbers):
    """Against parts picked by a mask, whose gradient torch knows; one image alone among them."""
    numbers = torch.tensor(numbers)
    norm = nn.BatchNorm2d(2).double()
    x = torch.randn(6, 2, 2, 2, dtype=torch.float64, requires_grad=True)
    normalize_apart(norm, lambda: Order.of(numbers))
    found = norm(x)
    expected = torch.zeros_like(x)
    for number in numbers.unique():
        rows = numbers == number
        part = x if rows.sum() == 1 else x[rows]
        result = functional.batch_norm(part, None, None, norm.weight, norm.bias, training=True)
        expected[rows] = result[rows] if rows.sum() == 1 else result
    torch.testing.assert_close(found, expected)
    wrt = [x, norm.weight, norm.bias]
    for power in (2, 3):
        first, second = [], []
        for y in (found, expected):
            first.append(torch.autograd.grad(y.pow(power).sum(), wrt, create_graph=True))
            again = first[-1][0].pow(3).sum()
            second.append(torch.autograd.grad(again, wrt[:2], retain_graph=True))
        torch.testing.assert_close(*first)
        torch.testing.assert_close(*second)
