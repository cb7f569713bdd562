"""Who reads a layer's neurons, found by tracing; against flows written down by hand."""

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from ewnprune import EWN, reparametrize
from ewnprune.model.anatomy import dissect
from ewnprune.model.layers import select_layers
from ewnprune.model.readers import Reader
from ewnprune.model.tracing import call
from lightning_modules import CNN, MLP, Classifier


def flows_of(net, x, forward=call, layers=None):
    with torch.no_grad():
        chosen = select_layers(net, layers).chosen
        return dissect(net.eval(), forward, chosen, x).flows


def test_the_flows_of_the_cnn():
    flows = flows_of(Classifier(CNN(channels=(4, 6))), torch.zeros(2, 1, 28, 28))
    first, second = flows["network.conv1"], flows["network.conv2"]
    assert first.consumers == (Reader("network.conv2"),)
    assert first.channelwise == (Reader("network.norm1"),)
    assert first.norm == "network.norm1"
    assert second.consumers == (Reader("network.fc", block=49),)
    assert second.unknown == ""


def test_parametrized_layers_are_followed_like_plain_ones():
    net = MLP(hidden=(8, 6))
    plain = flows_of(net, torch.zeros(2, 784))
    reparametrize(net, EWN())
    assert flows_of(net, torch.zeros(2, 784)) == plain
    assert plain["fc1"].consumers == (Reader("fc2"),)


class Net(nn.Module):
    """Whatever a test wants to happen between its layers."""

    def __init__(self, between, **modules):
        super().__init__()
        self.first, self.last = nn.Conv2d(1, 4, 3, padding=1), nn.Linear(4 * 36, 3)
        self.between = between
        for name, module in modules.items():
            setattr(self, name, module)

    def forward(self, x):
        return self.last(self.between(self, self.first(x)).flatten(1))


PASSES = {
    "sequence of views": lambda net, x: x.view(x.size(0), 4, 36).unflatten(2, (6, 6)).squeeze(0),
    "scalars": lambda net, x: (1 - x * 2) / 3,
    "in place": lambda net, x: F.relu(x, inplace=True).clamp_(max=1),
    "padding and pooling": lambda net, x: F.max_pool2d(net.pad(x), 2),
    "there and back": lambda net, x: torch.movedim(x.permute(0, 2, 3, 1).relu(), -1, 1),
    "by keywords": lambda net, x: torch.permute(
        input=torch.transpose(input=x, dim0=1, dim1=3), dims=(0, 3, 2, 1)
    ),
    "facts only": lambda net, x: x * x.shape[1] + x.dim(),
    "twice the same": lambda net, x: x * x,
    "reshape by numbers": lambda net, x: torch.reshape(x, (x.shape[0], 8, 2, 9)),
}
STOPS = {
    "added": (lambda net, x: x + x.relu(), "add joins them with other values"),
    "concatenated": (lambda net, x: torch.cat([x[:, :2], x[:, 2:]], 1), "getitem reads them"),
    "scaled": (lambda net, x: x * net.scale, "mul joins them with other values"),
    "mixed": (lambda net, x: x.softmax(1), "softmax reads them"),
    "transposed": (lambda net, x: x.transpose(1, 2), "flatten mixes them with other dim"),
    "reshaped apart": (lambda net, x: x.view(-1, 2, 72), "view mixes them with other dimensions"),
    "pooled over": (lambda net, x: F.avg_pool1d(x.flatten(2).transpose(1, 2), 1), "avg_pool1d"),
    "normalised": (lambda net, x: net.norm(x), "GroupNorm 'norm' reads them"),
    "averaged": (lambda net, x: x.mean(1, keepdim=True).expand(-1, 4, 6, 6), "mean mixes them"),
}  # fmt: skip


@pytest.mark.parametrize("name", PASSES)
def test_neurons_are_followed_through(name):
    net = Net(PASSES[name], pad=nn.ZeroPad2d(3))
    flow = flows_of(net, torch.randn(2, 1, 6, 6))["first"]
    assert (flow.consumers, flow.unknown) == ((Reader("last", block=36),), "")


@pytest.mark.parametrize("name", STOPS)
def test_neurons_are_not_followed_through(name):
    between, reason = STOPS[name]
    net = Net(between, scale=nn.Parameter(torch.ones(4, 1, 1)), norm=nn.GroupNorm(2, 4))
    flow = flows_of(net, torch.randn(2, 1, 6, 6))["first"]
    assert flow.consumers == ()
    assert reason in flow.unknown


def test_a_linear_layer_over_the_wrong_dimension_is_no_reader():
    net = nn.Sequential(nn.Conv1d(3, 5, 1), nn.ReLU(), nn.Linear(7, 2))
    assert (
        "Linear '2' does not have them as its inputs"
        in flows_of(net, torch.randn(2, 3, 7))["0"].unknown
    )


class Siamese(nn.Module):
    """Both inputs go through the same layers."""

    def __init__(self):
        super().__init__()
        self.fc1, self.fc2, self.fc3 = nn.Linear(4, 6), nn.Linear(6, 6), nn.Linear(6, 2)

    def forward(self, x):
        one, two = (self.fc2(self.fc1(part).relu()) for part in (x[0], x[1]))
        return self.fc3(one - two)


class Recurrent(nn.Module):
    """The layer reads the input first, and its own outputs afterwards."""

    def __init__(self):
        super().__init__()
        self.fc1, self.fc2, self.fc3 = nn.Linear(6, 6), nn.Linear(6, 6), nn.Linear(6, 2)

    def forward(self, x):
        return self.fc3(self.fc2(self.fc2(self.fc1(x)).relu()))


def test_a_layer_that_is_called_twice():
    siamese = flows_of(Siamese(), torch.randn(2, 3, 4))
    assert siamese["fc1"].consumers == (Reader("fc2"),)
    assert "sub joins them" in siamese["fc2"].unknown
    recurrent = flows_of(Recurrent(), torch.randn(3, 6))
    assert "'fc2' is called more than once" in recurrent["fc1"].unknown
    assert "'fc2' is called more than once" in recurrent["fc2"].unknown


class Branching(nn.Module):
    def __init__(self):
        super().__init__()
        self.fc1, self.fc2 = nn.Linear(6, 6), nn.Linear(6, 6)

    def forward(self, x):
        return self.fc2(self.fc1(x)) if x.sum() > 0 else self.fc2(-self.fc1(x))


def test_a_part_that_cannot_be_traced_stays_whole():
    net = nn.Sequential(nn.Linear(4, 6), nn.ReLU(), nn.Linear(6, 6), Branching(), nn.Linear(6, 5),
                        nn.ReLU(), nn.Linear(5, 3))  # fmt: skip
    flows = flows_of(net, torch.randn(3, 4))
    assert flows["0"].consumers == (Reader("2"),)
    assert flows["2"].unknown == "Branching '3' reads them"
    assert flows["3.fc1"].unknown == "it lies inside Branching '3'"
    assert flows["4"].consumers == (Reader("6"),)
    whole = flows_of(Branching(), torch.randn(3, 6))
    assert whole["fc1"].unknown.startswith("the model cannot be traced (TraceError: ")


def test_a_module_made_on_the_way_cannot_be_traced():
    net = Net(lambda net, x: nn.ReLU()(x))
    flow = flows_of(net, torch.randn(2, 1, 6, 6))["first"]
    assert "NameError: module is not installed as a submodule" in flow.unknown


def test_a_reader_that_is_also_inside_such_a_part_is_not_relied_on():
    inner = Branching()
    net = nn.Sequential(nn.Linear(4, 6), inner.fc1, inner, nn.Linear(6, 3))
    flows = flows_of(net, torch.randn(3, 4), layers=["0", "3"])
    assert "'1' is called more than once" in flows["0"].unknown


def test_a_layer_with_a_forward_of_its_own_is_not_relied_on():
    class Doubled(nn.Linear):
        def forward(self, x):
            return super().forward(x) * 2 + x.sum()

    net = nn.Sequential(nn.Linear(4, 6), Doubled(6, 6), nn.Linear(6, 3))
    flows = flows_of(net, torch.randn(3, 4))
    assert flows["0"].unknown == "Doubled '1' reads them by a forward of its own"
    assert flows["1"].unknown == "Doubled has a forward of its own"


def test_a_model_that_is_one_layer():
    flow = flows_of(nn.Linear(4, 3), torch.randn(2, 4), layers=nn.Linear)
    assert flow[""].unknown == "they are outputs of the model"


def test_the_forward_pass_asked_for_is_the_one_that_is_followed():
    net = nn.ModuleDict({"a": nn.Linear(4, 5), "b": nn.Linear(5, 3), "c": nn.Linear(5, 3)})
    flows = flows_of(net, {"x": torch.randn(2, 4)}, lambda m, x: m["b"](m["a"](x["x"])), "a")
    assert flows["a"].consumers == (Reader("b"),)
