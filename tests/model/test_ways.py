"""Each way that a forward pass may take is tried, whatever the example's own way is."""

import pytest
import torch
from torch import nn

from ewnprune import remove_neurons
from ewnprune.model.tracing import call
from ewnprune.model.ways import MOST, ways_of


class Two(nn.Module):
    """Asks two questions, the second on one way only."""

    def __init__(self):
        super().__init__()
        self.first, self.second = nn.Linear(4, 6), nn.Linear(6, 3)

    def forward(self, x):
        h = self.first(x).sigmoid()
        if (x > 0).all():
            return self.second(h)
        if torch.equal(x[0], x[1]):
            return self.second(2 * h)
        return self.second(-h)


def test_each_way_is_taken_once_and_the_own_way_first():
    network, x = Two().double(), torch.randn(2, 4, dtype=torch.float64)
    x[0, 0] = -1
    ways = ways_of(network, call, x)
    h = network.first(x).sigmoid()
    expected = [network.second(-h), network.second(h), network.second(2 * h)]
    assert len(ways) == 3 and ways[0] is call
    for way, outputs in zip(ways, expected, strict=True):
        assert way(network, x).equal(outputs)
    assert network(x).equal(expected[0])  # nothing of it stays


def test_a_network_without_questions_has_its_own_way_alone():
    assert ways_of(nn.Linear(4, 2), call, torch.ones(1, 4)) == [call]


@pytest.mark.parametrize(
    "decide",
    [
        lambda x: x.sum().item() > 0,
        lambda x: x.tolist()[0][0] > 0,
        lambda x: x.detach().numpy().any(),
        lambda x: any(bool(part > 0) for part in x.repeat(1, MOST).flatten()),
        lambda x: [1][int(not (x == x).all())],  # an error on the way not taken
    ],
)  # fmt: skip
def test_ways_that_cannot_be_told_are_none(decide):
    class Decided(nn.Linear):
        def forward(self, x):
            return super().forward(x) if decide(x) else super().forward(-x)

    assert ways_of(Decided(4, 2), call, torch.full((2, 4), -1.0)) == []


def test_what_is_removed_is_right_on_a_batch_that_takes_another_way():
    network, x = Two().double(), torch.randn(2, 4, dtype=torch.float64)
    small = remove_neurons(network, indices={"first": [1, 4]}, example_input=x)
    with torch.no_grad():
        network.second.weight[:, [1, 4]] = 0
    for other in (x.abs(), x[:1].expand(2, -1), -x):
        torch.testing.assert_close(small(other), network(other), rtol=1e-12, atol=1e-12)


def test_neurons_that_are_read_otherwise_on_another_way_are_refused():
    class Elsewhere(Two):
        def forward(self, x):
            h = self.first(x).sigmoid()
            return self.second(h) if (x > 0).all() else h.softmax(-1)[:, :3]

    network, x = Elsewhere(), torch.rand(2, 4)
    with pytest.raises(ValueError, match=r"'first' .*does not give what the masked one gives"):
        remove_neurons(network, 0.5, x, layers="first")
