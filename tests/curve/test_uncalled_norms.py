"""BatchNorms whose statistics cannot be estimated anew: not called, or of one value."""

import pytest
import torch
from torch import nn

from ewnprune import sparsity_curve
from ewnprune.pruning.removal import remove_neurons, remove_with_notes


class Fixed(nn.BatchNorm1d):
    """Goes by its statistics in train mode too."""

    def forward(self, x):
        return nn.functional.batch_norm(x, self.running_mean, self.running_var)


class TwoHeads(nn.Module):
    """Does not call the BatchNorm of its other head, and uses one by its values."""

    def __init__(self):
        super().__init__()
        self.hidden, self.norm, self.head = nn.Linear(4, 8), nn.BatchNorm1d(8), nn.Linear(8, 3)
        self.used, self.fixed = nn.BatchNorm1d(4), Fixed(8)
        self.before, self.other = nn.BatchNorm1d(4), nn.Linear(4, 2)
        for norm in (self.norm, self.used, self.fixed, self.before):
            nn.init.normal_(norm.running_mean)
            norm.running_var.uniform_(1, 2)

    def forward(self, x, other=False):
        if other:
            return self.other(self.before(x))
        x = nn.functional.batch_norm(x, self.used.running_mean, self.used.running_var)
        return self.head(self.fixed(self.norm(self.hidden(x)).relu()))


def test_batchnorms_that_are_not_called_keep_theirs():
    net, x = TwoHeads().eval(), torch.randn(32, 4)
    training = [(2 * x + 1, torch.zeros(32))]
    removal = remove_with_notes(net, 0.5, x, layers="hidden", recalibrate=training)
    small = removal.model
    assert torch.equal(small(x, other=True), net(x, other=True))
    assert torch.equal(small.used.running_var, net.used.running_var)
    kept = [net.fixed.running_var.tolist().index(one) for one in small.fixed.running_var.tolist()]
    assert torch.equal(small.fixed.running_mean, net.fixed.running_mean[kept])
    unit = (2 * x + 1 - net.used.running_mean) / (net.used.running_var + 1e-5).sqrt()
    expected = small.hidden(unit).mean(0).detach()
    torch.testing.assert_close(small.norm.running_mean, expected, rtol=1e-4, atol=1e-5)
    assert not small.norm._forward_pre_hooks
    curve = sparsity_curve(net, [(x, torch.arange(32) % 3)], (0, 0.5), recalibrate=training)
    for notes in (removal.notes, curve.notes):
        (note,) = [note.text for note in notes if note.kind == "statistics"]
        assert note.startswith("running statistics of 1 BatchNorms")
        assert note.endswith("; the forward pass updates none of 'used', 'fixed', 'before'")


def test_one_value_per_channel_has_no_variance():
    x = torch.randn(9, 4)
    last = [(x[:8], None), (x[8:], None)]
    with pytest.raises(ValueError, match="gives 'norm' one value per channel, which has no var"):
        remove_neurons(TwoHeads(), 0.5, x, layers="hidden", recalibrate=last)
