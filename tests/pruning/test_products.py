"""Products of two matrices that a network computes, which are no attention: PointNet's."""

import pytest
import torch
from torch import nn
from toys.networks import PointNet, make

from ewnprune import remove_neurons, remove_with_notes

MATRIX = "its outputs make a matrix that bmm multiplies with another"


def _lowest_gone(layer, count):
    return layer.weight.detach().flatten(1).norm(dim=1).argsort()[count:].sort().values


@pytest.mark.parametrize("heads", ["keep", "whole", "dims"])
@pytest.mark.parametrize("features", [False, True])
def test_learned_transforms_stay_for_what_they_are_and_all_else_goes(features, heads):
    network, _ = make(lambda: PointNet(features))
    x = torch.randn(4, 3, 30, dtype=torch.float64)
    removal = remove_with_notes(network, 0.5, x, heads=heads)
    small = removal.model
    stays = [note.text for note in removal.notes if note.kind == "stays"]
    bend = [f"bend.fc2, conv1: stays: {MATRIX}"] if features else []
    assert stays == [f"turn.fc2: stays: {MATRIX}", *bend]
    assert removal.difference < 1e-12
    tnets = [("turn", 3), ("bend", 10)] if features else [("turn", 3)]
    for name, width in tnets:
        before, after = network.get_submodule(name), small.get_submodule(name)
        first, second = _lowest_gone(before.conv1, 4), _lowest_gone(before.conv2, 8)
        hidden = _lowest_gone(before.fc1, 6)
        assert after.conv2.weight.equal(before.conv2.weight[second][:, first])
        assert after.fc1.weight.equal(before.fc1.weight[hidden][:, second])
        assert after.fc2.weight.equal(before.fc2.weight[:, hidden])
        assert len(after.fc2.weight) == width**2
    assert small.conv1.out_channels == (10 if features else 5)
    assert [small.conv2.out_channels, small.conv3.out_channels] == [7, 10]
    with pytest.raises(ValueError, match=f"neurons of 'turn.fc2' cannot be removed: {MATRIX}"):
        remove_neurons(network, indices={"turn.fc2": [4]}, example_input=x)


class Turned(nn.Module):
    """Points one by one, ``(B, N, 3)``, through Linear layers; and a product with ``@``."""

    def __init__(self):
        super().__init__()
        self.look, self.turn = nn.Linear(3, 8), nn.Linear(8, 9)
        self.fc1, self.fc2, self.head = nn.Linear(3, 12), nn.Linear(12, 15), nn.Linear(15, 2)

    def forward(self, points):
        matrix = self.turn(self.look(points).relu().amax(1)).unflatten(1, (3, 3))
        x = points @ matrix
        return self.head(self.fc2(self.fc1(x).relu()).amax(1))


@pytest.mark.parametrize("heads", ["keep", "whole", "dims"])
def test_points_through_linear_layers(heads):
    torch.manual_seed(0)
    network, x = Turned().double().eval(), torch.randn(4, 20, 3, dtype=torch.float64)
    removal = remove_with_notes(network, 0.5, x, heads=heads)
    (stays,) = [str(note) for note in removal.notes if note.kind == "stays"]
    assert stays == f"turn: stays: {MATRIX.replace('bmm', 'matmul')}"
    shapes = [tuple(layer.weight.shape) for layer in removal.model.children()]
    assert shapes == [(4, 3), (9, 4), (6, 3), (7, 6), (2, 7)]
