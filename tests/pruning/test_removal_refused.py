"""What cannot be removed is refused by name."""

import pytest
import torch
from torch import nn
from torch.nn import functional as F
from torch.nn.utils import parametrizations, prune
from toys.images import settled

from ewnprune import EWN, fold, reparametrize
from ewnprune.pruning.removal import remove_neurons
from ewnprune.pruning.zeroing import mask_neurons
from lightning_modules import MLP


class Residual(nn.Module):
    def __init__(self):
        super().__init__()
        self.fc1, self.norm = nn.Linear(6, 6), nn.BatchNorm1d(6)
        self.fc2, self.fc3 = nn.Linear(6, 6), nn.Linear(6, 3)

    def forward(self, x):
        return self.fc3(x + self.fc2(F.relu(self.norm(self.fc1(x))) + x))


class Branching(nn.Module):
    """What reads the neurons depends on the data."""

    def __init__(self):
        super().__init__()
        self.fc1, self.fc2, self.fc3 = nn.Linear(6, 6), nn.Linear(6, 3), nn.Linear(6, 3)

    def forward(self, x):
        h = self.fc1(x).sigmoid()
        return self.fc2(h) if x.sum() > 0 else self.fc3(h)


class Measuring(nn.Module):
    """What it does depends on a number that it takes out of a tensor."""

    def __init__(self):
        super().__init__()
        self.fc1, self.fc2 = nn.Linear(6, 6), nn.Linear(6, 3)

    def forward(self, x):
        h = self.fc1(x).sigmoid()
        return self.fc2(h) if x.sum().item() > 0 else self.fc2(-h)


class Tied(nn.Module):
    def __init__(self, how):
        super().__init__()
        self.how = how
        self.fc1, self.fc2, self.fc3 = nn.Linear(6, 6), nn.Linear(6, 6), nn.Linear(6, 3)
        if how == "parameter":
            self.fc2.weight = self.fc1.weight

    def forward(self, x):
        x = torch.relu(self.fc1(x))
        x = torch.relu(self.fc2(x))
        if self.how == "outside":
            x = x @ self.fc2.weight
        return self.fc3(x)


def between(module):
    return nn.Sequential(nn.Linear(6, 8), module, nn.Linear(8, 3))


@pytest.mark.parametrize(
    ("make", "layer", "reason"),
    [
        (Residual, "fc1", "without them the network does not run"),
        (Branching, "fc1", "without them the network does not run"),
        (Measuring, "fc1", r"cannot be traced \(TraceError: symbolically traced variables"),
        (lambda: between(nn.ReLU()), "2", "its channels are outputs of the model"),
        (lambda: Tied("parameter"), "fc1", "shares its weight with"),
        (lambda: Tied("outside"), "fc2", "its neurons are those of attention"),
        (lambda: Tied("outside"), "fc1", "without them the network does not run"),
    ],
)  # fmt: skip
def test_what_cannot_be_removed_is_refused_by_name(make, layer, reason):
    with pytest.raises(ValueError, match=reason) as caught:
        remove_neurons(make(), 0.5, torch.randn(4, 6), layers=layer)
    assert f"'{layer}'" in str(caught.value)
    assert f"exclude=['{layer}']" in str(caught.value)
    assert "\n" not in str(caught.value)


def test_reparametrized_layers_are_masked_once_they_are_folded(images):
    net = settled(lambda: MLP(hidden=(20,)), images)
    reparametrize(net, EWN())
    with pytest.raises(ValueError, match=r"'fc1' is parametrized: ewnprune.fold, or"):
        mask_neurons(net, 0.5, images[:2])
    small = remove_neurons(net, 0.5, images[:2])  # which is a copy, and plain
    assert not small.fc1._load_state_dict_pre_hooks  # it can be unpickled where this package is not
    fold(net)
    expected = remove_neurons(net, 0.5, images[:2])
    assert small.fc1.out_features == 10
    torch.testing.assert_close(small.state_dict(), expected.state_dict())


def test_weights_that_are_no_parameters_are_refused(images):
    net = settled(lambda: MLP(hidden=(20,)), images)
    prune.random_unstructured(net.fc1, "weight", 0.1)
    with pytest.raises(ValueError, match="the weight of 'fc1' is no parameter"):
        mask_neurons(net, 0.5, images[:2])
    other = settled(lambda: MLP(hidden=(20,)), images)
    parametrizations.spectral_norm(other.fc2)  # the layer that reads the neurons
    with pytest.raises(ValueError, match=r"'fc2' is parametrized: .*remove_parametrizations"):
        remove_neurons(other, 0.5, images[:2])


def test_a_layer_that_is_never_called_is_refused():
    class Attention(nn.Module):
        def __init__(self):
            super().__init__()
            self.attention = nn.MultiheadAttention(8, 2)
            self.fc = nn.Linear(8, 3)

        def forward(self, x):
            return self.fc(self.attention(x, x, x)[0])

    with pytest.raises(ValueError, match=r"pruned: 'attention.out_proj' \(it is never called"):
        remove_neurons(Attention(), 0.5, torch.randn(5, 2, 8))


def test_a_size_that_is_written_into_the_forward_pass_is_found_out():
    class Written(nn.Module):
        def __init__(self):
            super().__init__()
            self.fc1, self.fc2 = nn.Linear(6, 6), nn.Linear(6, 3)

        def forward(self, x):
            return self.fc2(self.fc1(x) / self.fc1.out_features)

    with pytest.raises(ValueError, match="does not give what the masked one gives"):
        remove_neurons(Written().eval(), 0.5, torch.randn(4, 6))


def test_mask_neurons_zeroes_what_it_can_where_the_readers_are_not_known():
    torch.manual_seed(0)
    net = Residual().eval()
    keep = mask_neurons(net, 0.5, torch.randn(4, 6))
    assert list(keep) == ["fc1", "fc2"]
    gone = ~keep["fc1"]
    assert int(gone.sum()) == 3
    for tensor in (net.fc1.weight, net.fc1.bias, net.norm.weight, net.norm.bias):
        assert not tensor[gone].any()
        assert tensor[~gone].any() or tensor is net.norm.bias
    assert net.fc2.weight[keep["fc2"]].all()
