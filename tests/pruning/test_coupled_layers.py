"""Layers that channels pass or lie in: embeddings, positions, all kinds of convolutions, norms."""

from copy import deepcopy

import numpy as np
import pytest
import torch
from torch import nn
from toys.images import outputs
from toys.networks import Residual

from ewnprune.curve.sweep import sparsity_curve
from ewnprune.pruning.removal import remove_neurons, remove_with_notes
from ewnprune.pruning.zeroing import mask_neurons


class Words(nn.Module):
    """Embeddings of words and of places, and learned numbers, are added to what layers give."""

    def __init__(self, norm=False):
        super().__init__()
        self.words, self.places = nn.Embedding(20, 8, padding_idx=0), nn.Embedding(6, 8)
        self.start = nn.Parameter(torch.randn(1, 1, 8))
        self.norm = nn.LayerNorm(8) if norm else nn.Identity()
        self.hidden, self.back, self.head = nn.Linear(8, 12), nn.Linear(12, 8), nn.Linear(8, 3)

    def forward(self, x):
        x = self.words(x) + self.places(torch.arange(x.shape[1])) + self.start
        return self.head((x + self.back(self.hidden(self.norm(x)).relu())).mean(1))


class Upwards(nn.Module):
    """Transposed convolutions: one channel each, plain, and with a residual connection."""

    def __init__(self):
        super().__init__()
        self.first, self.norm = nn.Conv2d(3, 8, 3), nn.InstanceNorm2d(8, affine=True)
        self.deep = nn.ConvTranspose2d(8, 8, 2, stride=2, groups=8)
        self.prelu, self.batch = nn.PReLU(8), nn.BatchNorm2d(8)
        self.up = nn.ConvTranspose2d(8, 8, 3, padding=1)
        self.point, self.out = nn.Conv2d(8, 6, 1), nn.Conv2d(6, 2, 1)

    def forward(self, x):
        x = self.prelu(self.deep(self.norm(self.first(x))))
        return self.out(self.point(self.batch(x + self.up(x))).relu())


def _random(network):
    torch.manual_seed(0)
    network = network.double().eval()
    for name, tensor in [*network.named_parameters(), *network.named_buffers()]:
        if tensor.is_floating_point():
            nn.init.uniform_(tensor, 0.5, 2) if name.endswith("var") else nn.init.normal_(tensor)
    return network


def test_embeddings_go_with_what_they_are_added_to():
    network, x = _random(Words()), torch.randint(0, 20, (3, 6))
    removal = remove_with_notes(network, indices={"back": [1, 6]}, example_input=x)
    small, kept = removal.model, [0, 2, 3, 4, 5, 7]
    masked = deepcopy(network)
    with torch.no_grad():
        masked.hidden.weight[:, [1, 6]], masked.head.weight[:, [1, 6]] = 0, 0
    torch.testing.assert_close(small(x), masked(x), rtol=1e-12, atol=1e-12)
    assert float((small(x) - network(x)).detach().abs().max()) > 0.1
    assert small.words.weight.equal(network.words.weight[:, kept])
    assert (small.words.embedding_dim, small.words.padding_idx) == (6, 0)
    assert small.places.weight.equal(network.places.weight[:, kept])
    assert small.start.equal(network.start[..., kept])
    assert any(
        str(note).startswith("back, words, places: 6 of 8 neurons left") for note in removal.notes
    )
    small.train()(x).square().sum().backward()
    assert all(parameter.grad.isfinite().all() for parameter in small.parameters())


def test_embeddings_go_where_a_norm_reads_across_them():
    network, x = _random(Words(norm=True)), torch.randint(0, 20, (3, 6))
    removal = remove_with_notes(network, indices={"back": [1, 6]}, example_input=x)
    kept, norm = [0, 2, 3, 4, 5, 7], network.norm
    with torch.no_grad():  # by hand, channel by channel
        words = (network.words(x) + network.places.weight + network.start)[..., kept]
        centred = words - words.mean(-1, keepdim=True)
        scaled = centred / (centred.square().mean(-1, keepdim=True) + norm.eps).sqrt()
        scaled = scaled * norm.weight[kept] + norm.bias[kept]
        hidden = scaled @ network.hidden.weight[:, kept].T + network.hidden.bias
        back = hidden.relu() @ network.back.weight[kept].T + network.back.bias[kept]
        mean = (words + back).mean(1)
        expected = mean @ network.head.weight[:, kept].T + network.head.bias
    torch.testing.assert_close(removal.model(x), expected, rtol=1e-12, atol=1e-12)
    assert any(
        "not as zeros would, since a norm reads across" in str(note) for note in removal.notes
    )


def test_norms_that_are_called_by_keyword():
    class Keyword(nn.Module):
        def __init__(self):
            super().__init__()
            self.first, self.norm, self.head = nn.Linear(4, 8), nn.LayerNorm(8), nn.Linear(8, 3)

        def forward(self, x):
            return self.head(self.norm(input=self.first(x)).relu())

    network, x = _random(Keyword()), torch.randn(3, 4, dtype=torch.float64)
    small = remove_neurons(network, indices={"first": [1, 6]}, example_input=x)
    by_place = nn.Sequential(network.first, network.norm, nn.ReLU(), network.head)
    expected = remove_neurons(by_place, indices={"0": [1, 6]}, example_input=x)
    torch.testing.assert_close(small(x), expected(x), rtol=0, atol=0)


def test_coupled_layers_of_which_one_has_diverged_are_refused():
    network = Residual()
    with torch.no_grad():
        network.second.weight[2] = torch.nan
    with pytest.raises(ValueError, match=r"'second' has a NaN score \(the first at index 2\)"):
        remove_neurons(network, 0.5, torch.randn(2, 3), score="norm")


class Beyond(nn.Module):
    """Leaves torch on the way, where no graph of gradients leads, and has a layer for nothing."""

    def __init__(self):
        super().__init__()
        self.first, self.unused, self.head = nn.Linear(4, 8), nn.Linear(4, 4), nn.Linear(8, 3)

    def forward(self, x):
        return self.head(torch.from_numpy(np.tanh(self.first(x).numpy())).relu())


def test_where_the_graph_cannot_be_had_each_layer_is_taken_by_itself():
    network, x = Beyond(), torch.randn(6, 4)
    notes = sparsity_curve(network, [(x, torch.arange(6) % 3)], (0, 0.5)).notes
    told = {str(note).partition(":")[0]: str(note) for note in notes}
    assert "torch-pruning cannot follow Beyond (RuntimeError: Can't call numpy()" in told["first"]
    assert told["unused"].startswith("unused: stays: ")
    with pytest.raises(ValueError, match="'first'"):
        remove_neurons(network, 0.5, x)


@pytest.mark.filterwarnings("ignore:Initializing zero-element tensors")
def test_a_layer_without_neurons_stays():
    class Empty(nn.Module):
        def __init__(self):
            super().__init__()
            self.first, self.none, self.head = nn.Linear(4, 8), nn.Linear(4, 0), nn.Linear(8, 3)

        def forward(self, x):
            return self.head(torch.cat([self.first(x), self.none(x)], 1).relu())

    for network in (Empty(), nn.Sequential(nn.Linear(4, 0), nn.Linear(0, 8), nn.Linear(8, 3))):
        removal = remove_with_notes(network, 0.5, torch.randn(3, 4))
        assert [*removal.left.values()] == [(4, 8)]
        assert any(str(note).endswith(": stays: it has no neurons") for note in removal.notes)


def test_an_embedding_that_no_layer_is_coupled_with_stays_and_is_named():
    network = nn.Sequential(nn.Embedding(20, 8), nn.Linear(8, 12), nn.ReLU(), nn.Linear(12, 3))
    removal = remove_with_notes(network, 0.5, torch.randint(0, 20, (3, 6)))
    assert removal.left == {"1": (6, 12)} and removal.model[0].embedding_dim == 8
    assert "0: left: neurons of Embedding are not chosen" in map(str, removal.notes)
    assert {note.kind for note in removal.notes} == {"removed", "left"}


@pytest.mark.parametrize("sparsity", [0.25, 0.6])
def test_transposed_and_depthwise_convolutions_agree_with_a_mask_by_hand(sparsity):
    network, x = _random(Upwards()), torch.randn(2, 3, 6, 6, dtype=torch.float64)
    removal = remove_with_notes(network, sparsity, x, exclude="point")
    small = removal.model
    kept = [network.first.bias.tolist().index(value) for value in small.first.bias.tolist()]
    gone = sorted(set(range(8)) - set(kept))
    assert len(gone) == round(8 * sparsity)
    masked = deepcopy(network)
    with torch.no_grad():
        masked.up.weight[gone], masked.point.weight[:, gone] = 0, 0
    torch.testing.assert_close(small(x), masked(x), rtol=1e-12, atol=1e-12)
    assert float((small(x) - network(x)).detach().abs().max()) > 1e-2
    assert (small.deep.groups, small.deep.in_channels, small.deep.out_channels) == (len(kept),) * 3
    assert small.deep.weight.equal(network.deep.weight[kept])
    assert small.up.weight.equal(network.up.weight[kept][:, kept])
    assert small.prelu.weight.equal(network.prelu.weight[kept])
    assert small.batch.running_var.equal(network.batch.running_var[kept])


def test_grouped_transposed_convolutions_lose_the_same_number_in_each_group():
    layers = [nn.Conv2d(3, 8, 3), nn.ReLU(), nn.ConvTranspose2d(8, 6, 2, groups=2), nn.ReLU()]
    network = nn.Sequential(*layers, nn.Conv2d(6, 4, 1), nn.ReLU(), nn.Conv2d(4, 2, 1))
    removal = remove_with_notes(network, 1 / 3, torch.randn(1, 3, 6, 6))
    assert removal.left == {"0": (6, 8), "2": (4, 6), "4": (3, 4)}
    up = removal.model[2]
    assert (up.in_channels, up.out_channels, up.groups) == (6, 4, 2)


@pytest.mark.parametrize("kind", [nn.Conv1d, nn.ConvTranspose1d])
def test_grouped_layers_are_cut_where_their_groups_stay_equal(kind):
    torch.manual_seed(0)
    net = nn.Sequential(
        nn.Conv1d(3, 8, 3), nn.Sigmoid(), kind(8, 12, 3, groups=4), nn.Tanh(), nn.Conv1d(12, 5, 1)
    ).eval()  # fmt: skip
    x = torch.randn(4, 3, 9)
    with torch.no_grad():  # the first channel of each group is the least
        net[0].weight[::2] *= 0.01
        weight = net[2].weight
        grouped = weight.view(4, 3, -1) if kind is nn.Conv1d else weight.view(4, 2, 3, 3)
        (grouped[:, 0] if kind is nn.Conv1d else grouped[:, :, 0]).mul_(0.01)
    masked = deepcopy(net)
    mask_neurons(masked, 1 / 3, x, layers="2")
    mask_neurons(masked, 1 / 2, x, layers="0")
    small = remove_neurons(remove_neurons(net, 1 / 3, x, layers="2"), 1 / 2, x, layers="0")
    assert (small[2].in_channels, small[2].out_channels, small[2].groups) == (4, 8, 4)
    torch.testing.assert_close(outputs(small, x), outputs(masked, x))


def test_groups_of_convolutions_lose_the_same_number_each():
    torch.manual_seed(0)
    net = nn.Sequential(
        nn.Conv1d(3, 8, 3), nn.ReLU(), nn.Conv1d(8, 12, 3, groups=4), nn.ReLU(), nn.Conv1d(12, 5, 1)
    )
    x = torch.randn(4, 3, 9)
    with torch.no_grad():
        net[0].weight[0] *= 0
        net[0].weight[4] *= 0  # the lowest two lie in two of the four blocks of two
    small = remove_neurons(net, 1 / 2, x, layers="0")
    assert small[2].in_channels == 4 and small[2].groups == 4
    kept = [net[0].bias.tolist().index(value) for value in small[0].bias.tolist()]
    assert kept == [1, 3, 5, 7]
    assert remove_neurons(net, 1 / 8, x, layers="0")[0].out_channels == 8  # rounds to none of two
    named = remove_neurons(net, indices={"0": [0, 3, 4, 7]}, example_input=x)
    assert named[0].bias.equal(net[0].bias[[1, 2, 5, 6]])
    depthwise = nn.Sequential(nn.Conv1d(3, 8, 3), nn.Conv1d(8, 8, 3, groups=8), nn.Conv1d(8, 5, 1))
    small = remove_neurons(depthwise, 0.5, x)
    assert [layer.out_channels for layer in small] == [4, 4, 5] and small[1].groups == 4
