"""The user's own choice of neurons, in chains and in coupled groups."""

from copy import deepcopy

import numpy as np
import pytest
import torch
from torch import nn
from toys.networks import Residual

from ewnprune.pruning.removal import remove_neurons, remove_with_notes
from ewnprune.pruning.zeroing import mask_neurons
from lightning_modules import CNN, MLP


def _repaired(model, sparsity=None, example_input=None, **options):
    return remove_neurons(model, sparsity, example_input, repair=example_input, **options)


def _mlp():
    torch.manual_seed(0)
    return MLP(6, (10, 8), 3, output_bias=True), torch.randn(4, 6)


class Joined(nn.Module):
    """Two layers concatenated, and a third added to them."""

    def __init__(self):
        super().__init__()
        self.one, self.two, self.both = nn.Linear(3, 4), nn.Linear(3, 2), nn.Linear(3, 6)
        self.head = nn.Linear(6, 2)

    def forward(self, x):
        return self.head(torch.cat([self.one(x), self.two(x)], 1) + self.both(x))


@pytest.mark.parametrize(
    "give",
    [
        list,
        tuple,
        np.array,
        torch.tensor,
        lambda given: (np.int32(i) for i in given),
        lambda given: [torch.tensor(i) for i in given],
    ],
)
def test_a_chain_loses_the_neurons_named(give):
    net, x = _mlp()
    small = remove_neurons(net, indices={"fc1": give([9, 0, 4]), "fc2": give([1])}, example_input=x)
    one = [1, 2, 3, 5, 6, 7, 8]
    two = [0, 2, 3, 4, 5, 6, 7]
    assert small.fc1.weight.equal(net.fc1.weight[one]) and small.fc1.bias.equal(net.fc1.bias[one])
    assert small.fc2.weight.equal(net.fc2.weight[two][:, one])
    assert small.fc3.weight.equal(net.fc3.weight[:, two])
    assert small.fc3.bias.equal(net.fc3.bias)


def test_names_of_layers_are_no_patterns():
    net = nn.Sequential()
    for name, module in (("fc[0]", nn.Linear(4, 8)), ("act", nn.ReLU()), ("out", nn.Linear(8, 3))):
        net.add_module(name, module)
    small = remove_neurons(net, indices={"fc[0]": [0, 5]}, example_input=torch.randn(2, 4))
    assert small[0].weight.equal(net[0].weight[[1, 2, 3, 4, 6, 7]])


def test_masked_and_removed_agree():
    torch.manual_seed(0)
    net, x = CNN(channels=(6, 4)).eval(), torch.randn(2, 1, 28, 28)
    nn.init.normal_(net.norm1.bias)
    indices = {"conv1": [0, 5], "conv2": torch.tensor([3])}
    masked = deepcopy(net)
    keep = mask_neurons(masked, indices=indices, example_input=x)
    assert keep["conv1"].tolist() == [False, True, True, True, True, False]
    assert keep["conv2"].tolist() == [True, True, True, False]
    small = remove_neurons(net, indices=indices, example_input=x)
    torch.testing.assert_close(small(x), masked(x))
    assert small.norm1.bias.equal(net.norm1.bias[1:5])
    by_sparsity = remove_neurons(net, 0.5, x, layers="conv1").conv1.weight
    lowest = net.conv1.weight.detach().flatten(1).norm(dim=1).argsort()[:3]
    named = remove_neurons(net, indices={"conv1": lowest}, example_input=x).conv1.weight
    assert named.equal(by_sparsity)


@pytest.mark.parametrize(
    "indices", [{"first": [2]}, {"second": [2]}, {"second": [2], "first": [2]}]
)
def test_what_is_coupled_goes_too(indices):
    torch.manual_seed(0)
    net, x = Residual(), torch.randn(2, 3)
    removal = remove_with_notes(net, indices=indices, example_input=x)
    kept = [0, 1, 3]
    assert removal.left == {"first": (3, 4)} or removal.left == {"second": (3, 4)}
    assert removal.model.first.weight.equal(net.first.weight[kept])
    assert removal.model.second.weight.equal(net.second.weight[kept][:, kept])
    assert removal.model.head.weight.equal(net.head.weight[:, kept])
    assert any(str(note).startswith("head: left: ") for note in removal.notes)
    small = remove_neurons(net, indices=indices, example_input=x)
    assert small.second.weight.equal(removal.model.second.weight)


def test_layers_that_hold_a_part_of_a_group():
    torch.manual_seed(0)
    net, x = Joined(), torch.randn(2, 3)
    small = remove_neurons(net, indices={"one": [1], "two": [0]}, example_input=x)
    assert small.both.bias.equal(net.both.bias[[0, 2, 3, 5]])
    for indices in ({"both": [1, 4]}, {"both": [1, 4], "two": [0]}):
        other = remove_neurons(net, indices=indices, example_input=x)
        for key, value in small.state_dict().items():
            assert other.state_dict()[key].equal(value)
    with pytest.raises(ValueError, match=r"indices for 'two' and 'both' do not agree: .* coupled"):
        remove_neurons(net, indices={"two": [1], "both": [4]}, example_input=x)


def test_blocks_lose_the_channel_at_the_same_place_in_each():
    torch.manual_seed(0)
    layers = [nn.Conv2d(3, 8, 3), nn.GroupNorm(2, 8), nn.ReLU(), nn.Conv2d(8, 4, 3)]
    net, x = nn.Sequential(*layers, nn.Flatten(), nn.Linear(64, 5)), torch.randn(1, 3, 8, 8)
    small = remove_with_notes(net, indices={"0": [1]}, example_input=x).model
    assert small[0].bias.equal(net[0].bias[[0, 2, 3, 4, 6, 7]])


@pytest.mark.parametrize(
    ("indices", "message"),
    [
        ({"fc9": [0]}, r"no layer 'fc9' has neurons; those that do: 'fc1', 'fc2', 'fc3'"),
        ({"act": [0]}, "no layer 'act' has neurons"),
        ({"fc1": [10]}, r"\['fc1'\]: there is no neuron 10: expected 0 to 9"),
        ({"fc1": [-1]}, "there is no neuron -1"),
        ({"fc1": [3, 1, 3]}, "neuron 3 is named twice"),
        ({"fc1": range(10)}, "all 10 neurons are named"),
        ({"fc1": [True]}, "expected whole numbers"),
        ({"fc1": torch.ones(10, dtype=torch.bool)}, r"write mask.nonzero\(\).flatten\(\)"),
        ({"fc1": [0.5]}, "expected whole numbers"),
        ({"fc1": "12"}, "expected whole numbers"),
        ({"fc1": 3}, r"\['fc1'\]=3: expected whole numbers"),
        ({"fc1": None}, "expected whole numbers"),
        ({"fc1": []}, "indices name no neuron"),
        ({}, r"indices=\{\}: expected neurons by layer"),
        ([0], r"indices=\[0\]: expected neurons by layer"),
        ({"fc3": [0]}, "'fc3'.*outputs of the model"),
    ],
)
def test_bad_indices_get_one_clear_line(indices, message):
    net, x = _mlp()
    with pytest.raises(ValueError, match=message) as caught:
        remove_neurons(net, None, x, indices=indices)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("remove", [remove_neurons, remove_with_notes, _repaired, mask_neurons])
def test_exactly_one_of_sparsity_and_indices(remove):
    net, x = _mlp()
    with pytest.raises(ValueError, match="sparsity and indices given: expected one of"):
        remove(net, 0.5, x, indices={"fc1": [0]})
    with pytest.raises(ValueError, match="nothing given: expected one of"):
        remove(net, None, x)
    with pytest.raises(ValueError, match="a meaning for a sparsity or a budget only"):
        remove(net, None, x, indices={"fc1": [0]}, exclude="fc2")
    with pytest.raises(ValueError, match="no example_input is given"):
        remove(net, 0.5)


def test_all_of_a_coupled_group_cannot_go():
    net, x = Joined(), torch.randn(2, 3)
    small = remove_neurons(net, indices={"both": [0, 1, 2, 4]}, example_input=x)
    assert (small.one.out_features, small.two.out_features) == (1, 1)
    with pytest.raises(ValueError, match=r"\['both'\]: with .* 'one' would lose all"):
        remove_neurons(net, indices={"both": [0, 1, 2, 3]}, example_input=x)


def test_chains_round_to_a_multiple():
    net, x = _mlp()
    small = remove_neurons(net, 0.7, x, round_to=4)
    assert (small.fc1.out_features, small.fc2.out_features) == (4, 4)
    assert int(mask_neurons(net, 0.7, x, round_to=4)["fc1"].sum()) == 4
    with pytest.raises(ValueError, match="round_to=True"):
        remove_neurons(net, 0.7, x, round_to=True)
