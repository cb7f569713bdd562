"""A residual stream that a model gives stays, whatever it passes at the end, with its reason."""

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from ewnprune import remove_neurons, sparsity_curve
from ewnprune.pruning.removal import remove_with_notes

STAYS = "first, back: stays: its channels are outputs of the model"


class Stream(nn.Module):
    def __init__(self, norm, end=lambda x: x):
        super().__init__()
        self.first, self.hidden, self.back = nn.Linear(3, 8), nn.Linear(8, 12), nn.Linear(12, 8)
        self.norm, self.end = norm, end

    def forward(self, x):
        x = self.first(x)
        return self.end(self.norm(x + self.back(self.hidden(x).relu())))


class OwnRMSNorm(nn.Module):
    def __init__(self, size):
        super().__init__()
        self.weight = nn.Parameter(torch.rand(size) + 0.5)

    def forward(self, x):
        return x * (x.square().mean(-1, keepdim=True) + 1e-6).rsqrt() * self.weight


def _group_norm():
    return nn.Sequential(nn.Flatten(0, 1), nn.GroupNorm(2, 8), nn.Unflatten(0, (2, 5)))


ENDS = {
    "layer norm": (lambda: nn.LayerNorm(8), lambda x: x),
    "group norm": (_group_norm, lambda x: x),
    "RMS norm": (lambda: nn.RMSNorm(8), lambda x: x),
    "own RMS norm": (lambda: OwnRMSNorm(8), lambda x: x),
    "no norm": (nn.Identity, lambda x: x),
    "mean": (lambda: nn.LayerNorm(8), lambda x: F.normalize(x.mean(1), dim=-1)),
    "first place, in a dict": (lambda: OwnRMSNorm(8), lambda x: {"a": [x[:, 0].tanh()], "b": 1}),
}


@pytest.mark.parametrize("end", ENDS)
def test_a_stream_that_is_given_stays(end):
    torch.manual_seed(0)
    norm, end = ENDS[end]
    network, x = Stream(norm(), end).double().eval(), torch.randn(2, 5, 3, dtype=torch.float64)
    removal = remove_with_notes(network, 0.5, x, layers=["first", "hidden", "back"])
    assert removal.left == {"hidden": (6, 12)}
    assert [str(note) for note in removal.notes if note.kind == "stays"] == [STAYS]
    with pytest.raises(ValueError, match="'first' cannot be removed: its channels are outputs"):
        remove_neurons(network, indices={"first": [0]}, example_input=x)


def test_a_layer_of_one_neuron_beside_outputs_without_gradients():
    class Detached(nn.Module):
        def __init__(self):
            super().__init__()
            self.first, self.second, self.head = nn.Linear(3, 8), nn.Linear(8, 1), nn.Linear(1, 2)

        def forward(self, x):
            x = self.first(x).relu()
            return self.head(self.second(x).relu()), x.detach()

    removal = remove_with_notes(Detached(), 0.5, torch.randn(2, 3))
    assert removal.left == {"second": (1, 1)}
    assert "first: stays: its channels are outputs of the model" in map(str, removal.notes)


@pytest.mark.parametrize("norm", [nn.RMSNorm, OwnRMSNorm])
def test_a_stream_with_such_norms_goes_where_a_layer_reads_it(norm):
    torch.manual_seed(0)
    network = nn.Sequential(Stream(norm(8)), nn.Linear(8, 2)).double().eval()
    nn.init.uniform_(network[0].norm.weight, 0.5, 2)
    x = torch.randn(2, 5, 3, dtype=torch.float64)
    small = remove_neurons(network, indices={"0.back": [1, 6]}, example_input=x)
    stream, kept = network[0], [0, 2, 3, 4, 5, 7]
    with torch.no_grad():  # by hand
        first = stream.first(x)
        first[..., [1, 6]] = 0
        added = (first + stream.back(stream.hidden(first).relu()))[..., kept]
        scaled = F.rms_norm(
            added, (6,), stream.norm.weight[kept], getattr(stream.norm, "eps", 1e-6)
        )
        expected = scaled @ network[1].weight[:, kept].T + network[1].bias
    torch.testing.assert_close(small(x), expected, rtol=1e-10, atol=1e-10)
    assert small[0].norm.weight.shape == (6,)
    points = sparsity_curve(network, [(x[:, 0], torch.tensor([0, 1]))], (0, 0.5), exclude="1")
    assert points.points[1].parameters.left < points.points[1].parameters.total


def test_channels_that_are_groups_of_a_group_norm_by_themselves_stay():
    """None of them can go while the number of groups is what it is."""
    layers = [nn.Conv2d(3, 8, 3), nn.GroupNorm(8, 8), nn.ReLU(), nn.Conv2d(8, 6, 3), nn.ReLU()]
    network = nn.Sequential(*layers, nn.Flatten(), nn.Linear(24, 3)).eval()
    removal = remove_with_notes(network, 0.5, torch.randn(2, 3, 6, 6))
    assert removal.left == {"3": (3, 6)}
    (told,) = [str(note) for note in removal.notes if note.kind == "stays"]
    assert told == "0: stays: each of its channels is a group of a GroupNorm by itself"
