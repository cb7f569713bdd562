"""The sweep gives what pruning a copy per level gives, and leaves everything as it was."""

from copy import deepcopy

import pytest
import torch
from torch import nn
from torch.nn import functional as F
from toys.sweeps import Catch, logits, trained

from ewnprune import EWN, fold, reparametrize
from ewnprune.curve.sweep import sparsity_curve
from ewnprune.model.layers import select_layers
from ewnprune.pruning.removal import remove_neurons
from ewnprune.pruning.zeroing import mask_neurons
from lightning_modules import CNN, MLP, Classifier

LEVELS = (0, 0.3, 0.5, 0.8, 0.95)


class Residual(nn.Module):
    """Its first block adds in place to a value that the second network of a sweep needs."""

    def __init__(self, inplace=False):
        super().__init__()
        self.inplace = inplace
        self.conv0 = nn.Conv2d(1, 6, 3, stride=2)
        self.conv1, self.norm1 = nn.Conv2d(6, 6, 3, padding=1), nn.BatchNorm2d(6)
        self.conv2 = nn.Conv2d(6, 6, 3, padding=1)
        self.fc1, self.fc2 = nn.Linear(6, 20), nn.Linear(20, 10)

    def forward(self, x):
        x = torch.sigmoid(self.conv0(x))
        y = self.norm1(self.conv1(x))
        if self.inplace and not self.training:
            x.add_(y)
        else:
            x = x + y
        x = x + self.conv2(x)
        return self.fc2(F.softplus(self.fc1(x.mean((2, 3)))))


class Untraceable(nn.Module):
    def __init__(self):
        super().__init__()
        self.fc1, self.fc2, self.fc3 = nn.Linear(784, 20), nn.Linear(20, 20), nn.Linear(20, 10)

    def forward(self, x):
        x = torch.relu(self.fc1(x.flatten(1)))
        return self.fc3(torch.sigmoid(self.fc2(x))) if x.sum() > 0 else self.fc3(-x)


def mask_weights_by_hand(net, level, scope):
    """Lowest magnitudes to zero, all but the largest of each layer."""
    weights = [layer.weight for layer in select_layers(net).chosen.values()]
    for group in [weights] if scope == "global" else [[weight] for weight in weights]:
        others = [weight.detach().abs().flatten().sort().values[:-1] for weight in group]
        count = min(round(level * sum(len(o) + 1 for o in others)), sum(map(len, others)))
        threshold = torch.cat(others).sort().values[count - 1] if count else -1
        with torch.no_grad():
            for weight in group:
                magnitude = weight.abs()
                weight *= (magnitude > threshold) | (magnitude == magnitude.max())


NETS = {
    "mlp": lambda: MLP(hidden=(64,)),
    "deep mlp": lambda: MLP(hidden=(30, 20), output_bias=True),
    "cnn": lambda: CNN(channels=(8, 12)),
    "sigmoid": lambda: nn.Sequential(
        nn.Flatten(), nn.Linear(784, 30), nn.Sigmoid(), nn.Dropout(), nn.Linear(30, 10)
    ),
    "classifier": lambda: Classifier(CNN(channels=(4, 6))),
    "residual": Residual,
    "residual in place": lambda: Residual(inplace=True),
    "untraceable": Untraceable,
}  # fmt: skip


UNDER_EWN = ("mlp", "cnn", "residual")  # it is folded before networks differ


@pytest.mark.parametrize("scope", ["layer", "global"])
@pytest.mark.parametrize(
    ("name", "parametrized"), [*((n, False) for n in NETS), *((n, True) for n in UNDER_EWN)]
)
def test_every_point_is_of_the_network_that_removal_builds(name, parametrized, scope, batches):
    net = NETS[name]()
    if parametrized:
        reparametrize(net, EWN())
    trained(net, batches)
    catch = Catch()
    options = {"scope": scope, "seed": 3}
    scores = ("norm", "random", "magnitude")
    curve = sparsity_curve(net, batches, LEVELS, scores, loss_fn=catch, **options)
    # levels that remove as many run once, as does the whole network
    keys = [(p.score, p.neurons, p.weights) if p.sparsity else "dense" for p in curve]
    networks = list(dict.fromkeys(keys))
    assert len(catch.outputs) == len(networks) * len(batches)
    plain = deepcopy(net)
    fold(plain)
    for key, point in zip(keys, curve, strict=True):
        brute = deepcopy(plain)
        if point.unit == "weights":
            mask_weights_by_hand(brute, point.sparsity, scope)
        elif name == "untraceable":
            mask_neurons(brute, point.sparsity, batches[0][0], score=point.score, **options)
        else:
            brute = remove_neurons(
                brute, point.sparsity, batches[0][0], score=point.score, **options
            )
            assert point.parameters.left == sum(p.numel() for p in brute.parameters())
        expected = logits(brute, batches)
        seen = catch.outputs[networks.index(key) :: len(networks)]
        correct = sum(
            int((output.argmax(1) == y).sum()) for output, (_, y) in zip(seen, batches, strict=True)
        )
        assert (point.correct, point.total) == (correct, 150)
        for one, other in zip(seen, expected, strict=True):
            if point.unit == "weights" or not point.sparsity:
                assert torch.equal(one, other)
            torch.testing.assert_close(one, other, rtol=1e-4, atol=1e-5)
    assert len({point.correct for point in curve}) > 2


class Functional(nn.Module):
    """Uses the weights of a layer that it does not call."""

    def __init__(self):
        super().__init__()
        self.fc1, self.fc2, self.fc3 = nn.Linear(784, 20), nn.Linear(20, 20), nn.Linear(20, 10)

    def forward(self, x):
        x = F.linear(x.flatten(1), self.fc1.weight, self.fc1.bias).relu()
        return self.fc3(self.fc2(x).relu())


class Tied(nn.Module):
    """Uses the weights of a layer once more, behind it."""

    def __init__(self):
        super().__init__()
        self.encode, self.head = nn.Linear(784, 20), nn.Linear(784, 10)

    def forward(self, x):
        hidden = self.encode(x.flatten(1)).relu()
        return self.head(F.linear(hidden, self.encode.weight.t()).relu())


@pytest.mark.parametrize("build", [Functional, Tied])
def test_single_weights_that_are_used_without_calling_the_layer(build, batches):
    net, catch = trained(build(), batches), Catch()
    curve = sparsity_curve(net, batches[:1], LEVELS, "magnitude", loss_fn=catch)
    assert "run" not in {note.kind for note in curve.notes}  # not the whole network each time
    for output, level in zip(catch.outputs, LEVELS, strict=True):
        brute = deepcopy(net)
        mask_weights_by_hand(brute, level, "layer")
        assert torch.equal(output, *logits(brute, batches[:1]))


def test_notes_say_what_was_done_to_each_group(batches):
    curve = sparsity_curve(Residual(), batches[:1], (0, 0.5))
    assert [*map(str, curve.notes)] == [
        "conv0, conv1, conv2: neurons removed together, with all that belongs to them, read by "
        "conv1, conv2, fc1",
        "fc1: neurons removed with bias and outgoing weights, read by fc2",
        "fc2: left: the last layer: its outputs are the model's",
    ]
    curve = sparsity_curve(Residual(), batches[:1], (0, 0.5), exclude="conv2")
    kinds = {str(note).partition(":")[0]: note.kind for note in curve.notes}
    assert kinds == {
        "conv0, conv1, conv2": "stays", "fc1": "removed", "conv2": "left", "fc2": "left",
    }  # fmt: skip
    masked, *_ = sparsity_curve(Untraceable(), batches[:1], (0, 0.5)).notes
    assert masked.kind == "masked"
    assert str(masked).startswith(
        "fc1: neurons masked in its own output, since its forward pass depends on"
    )
    # what it overwrites in place is copied, so that the networks need not run whole
    notes = sparsity_curve(Residual(True).eval(), batches[:1], (0, 0.5)).notes
    assert {note.kind for note in notes} == {"removed", "left"}


def test_where_readers_are_not_known_outgoing_weights_count_as_one(batches):
    net = trained(Untraceable(), batches)
    curve = sparsity_curve(net, batches[:1], LEVELS, ("norm", "norm_product"))
    one, other = curve.series()
    assert [p.correct for p in one] == [p.correct for p in other]
    (note,) = [note for note in curve.notes if note.kind == "score"]
    assert str(note).startswith("norm_product: outgoing weights count as 1 in all layers, since")
    # nothing became smaller
    assert all(p.parameters.left == p.parameters.total for p in curve)
    assert [p.neurons.left for p in one] == [40, 28, 20, 8, 2]


def test_the_shared_part_runs_once_per_batch_and_the_loader_once(batches):
    net = MLP(hidden=(40,))
    calls, epochs = [], []
    net.fc1.register_forward_hook(lambda _, __, output: calls.append(len(output)))

    class Loader:
        def __iter__(self):
            epochs.append(1)
            return iter(batches)

    sparsity_curve(net, Loader(), LEVELS, ("norm", "norm_product", "random"))
    assert len(epochs) == 1
    # once per batch; once more per shape to check the graph, and to find out shapes
    assert len([size for size in calls if size > 4]) <= len(batches) + 2 + 2


def test_scores_of_weights_that_remove_as_many_are_networks_of_their_own(batches):
    net, names = trained(MLP(hidden=(20,)), batches), ("magnitude", "random_weights")
    both = sparsity_curve(net, batches[:1], (0.8,), names)
    alone = [sparsity_curve(net, batches[:1], (0.8,), name).points[0] for name in names]
    assert both.points == (*alone,)
    assert alone[0].weights == alone[1].weights
    assert alone[0].loss != alone[1].loss


def test_networks_that_are_the_same_run_once(batches):
    catch = Catch()
    net = MLP(hidden=(10,))
    curve = sparsity_curve(
        net, batches[:1], (0, 0.01, 0.5, 0.52, 0.9), ("norm", "random"), loss_fn=catch
    )
    assert [point.neurons.left for point in curve] == [10, 10, 5, 5, 1] * 2
    assert len(catch.outputs) == 1 + 2 * 2
    assert curve.points[0].loss == curve.points[1].loss == curve.points[5].loss
