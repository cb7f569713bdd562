"""The sweep gives what pruning a copy per level gives, and leaves everything as it was."""

import json
import random as python_random
import subprocess
import sys
from copy import deepcopy

import numpy as np
import pytest
import torch
from torch import nn
from torch.nn import functional as F
from torch.utils.data import DataLoader, TensorDataset
from torchmetrics import MeanAbsoluteError, MetricCollection
from torchmetrics.classification import MulticlassAccuracy, MulticlassF1Score

from ewnprune import EWN, fold, reparametrize
from ewnprune.curve import measures
from ewnprune.curve.sweep import sparsity_curve
from ewnprune.model.layers import select_layers
from ewnprune.pruning.removal import remove_neurons
from ewnprune.pruning.zeroing import mask_neurons
from lightning_modules import CNN, MLP, Classifier
from lightning_modules.files import TEST_IMAGES, TEST_LABELS, read

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


@pytest.fixture(scope="module")
def batches(mnist_dir):
    """Real images in batches, the last of them smaller."""
    pixels = torch.tensor(read(mnist_dir / "MNIST" / "raw", "MNIST", TEST_IMAGES)[:150])
    labels = torch.tensor(read(mnist_dir / "MNIST" / "raw", "MNIST", TEST_LABELS)[:150]).long()
    x = pixels.unsqueeze(1).float().div(255).sub(0.1307).div(0.3081)
    return list(zip(x.split(64), labels.split(64), strict=True))


@pytest.fixture(autouse=True)
def seeded():
    with torch.random.fork_rng():
        torch.manual_seed(0)
        yield


def trained(net, batches, steps=15):
    """A network that has learned something, so that accuracies differ."""
    optimizer = torch.optim.Adam(net.parameters(), 1e-2)
    for step in range(steps):
        x, y = batches[step % len(batches)]
        optimizer.zero_grad()
        F.cross_entropy(net(x), y).backward()
        optimizer.step()
    return net.eval()


class Catch:
    """A loss that keeps the outputs it sees."""

    def __init__(self):
        self.outputs = []

    def __call__(self, outputs, targets):
        self.outputs.append(outputs.clone())
        return F.cross_entropy(outputs.float(), targets)


@torch.no_grad()
def logits(net, batches):
    return [net(x) for x, _ in batches]


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


@pytest.mark.parametrize("scope", ["layer", "global"])
@pytest.mark.parametrize("parametrized", [False, True], ids=["plain", "ewn"])
@pytest.mark.parametrize("name", NETS)
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
    assert len({point.correct for point in curve}) > 3


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
        "fc1: neurons masked in its own output, since the model cannot be"
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


def test_networks_that_are_the_same_run_once(batches):
    catch = Catch()
    net = MLP(hidden=(10,))
    curve = sparsity_curve(
        net, batches[:1], (0, 0.01, 0.5, 0.52, 0.9), ("norm", "random"), loss_fn=catch
    )
    assert [point.neurons.left for point in curve] == [10, 10, 5, 5, 1] * 2
    assert len(catch.outputs) == 1 + 2 * 2
    assert curve.points[0].loss == curve.points[1].loss == curve.points[5].loss


# --- everything stays as it was -------------------------------------------------------------


def everything(net):
    state = {key: value.clone() for key, value in net.state_dict().items()}
    flags = [module.training for module in net.modules()]
    attributes = [
        {key: id(value) for key, value in vars(module).items()} for module in net.modules()
    ]
    hooks = [(len(m._forward_hooks), len(m._forward_pre_hooks)) for m in net.modules()]
    return state, flags, attributes, hooks


def generators():
    torch_state, numpy_state = torch.get_rng_state(), np.random.get_state()
    cuda = torch.cuda.get_rng_state_all() if torch.cuda.is_available() else []
    return torch_state, numpy_state[1].copy(), numpy_state[2], python_random.getstate(), cuda


class Restless(nn.Module):
    """Draws numbers, keeps what it saw and moves a buffer, even in eval mode."""

    def __init__(self, traceable):
        super().__init__()
        self.traceable = traceable
        self.register_buffer("seen", torch.zeros(2))
        self.register_buffer("last", torch.zeros(2))
        self.count, self.cache = 0, None

    def forward(self, x):
        python_random.random(), np.random.rand()
        self.seen += 1
        self.last = self.seen + torch.rand(2)
        self.count += 1
        self.cache = x
        self.fresh = x
        return x if self.traceable or x.sum() < 1e9 else -x


class Bomb:
    """A forward hook that raises in the middle of a masked forward pass."""

    def __init__(self, error):
        self.error, self.calls = error, 0

    def __call__(self, *_):
        self.calls += 1
        if self.error is not None and self.calls == 9:
            raise self.error


@pytest.mark.parametrize("mode", [torch.enable_grad, torch.no_grad, torch.inference_mode])
@pytest.mark.parametrize("error", [None, RuntimeError("boom"), KeyboardInterrupt()])
@pytest.mark.parametrize("scores", [("norm", "random"), ("magnitude",)])
@pytest.mark.parametrize("parametrized", [False, True], ids=["plain", "ewn"])
@pytest.mark.parametrize("traceable", [False, True], ids=["eager", "traced"])
def test_the_model_and_the_generators_stay_as_they_were(
    batches, traceable, parametrized, scores, error, mode
):
    net = nn.Sequential(
        nn.Flatten(), nn.Linear(784, 20), nn.BatchNorm1d(20), Restless(traceable),
        nn.Dropout(), nn.Linear(20, 15), nn.ReLU(), nn.Linear(15, 10),
    )  # fmt: skip
    if parametrized:
        reparametrize(net, EWN())
    net[2].eval()  # flags differ between modules
    net[5].register_forward_hook(Bomb(error))
    data = TensorDataset(*(torch.cat(parts) for parts in zip(*batches, strict=True)))
    own = torch.Generator().manual_seed(7)
    loader = DataLoader(data, 50, shuffle=True, generator=own)
    before, states, own_state = everything(net), generators(), own.get_state()
    with mode():
        if error is None:
            sparsity_curve(net, loader, LEVELS, scores, seed=1)
        else:
            with pytest.raises(type(error)):
                sparsity_curve(net, loader, LEVELS, scores, seed=1)
        assert torch.is_grad_enabled() == (mode is torch.enable_grad)
        assert torch.is_inference_mode_enabled() == (mode is torch.inference_mode)
    after, states_after = everything(net), generators()
    assert before[0].keys() == after[0].keys()
    assert all(torch.equal(before[0][key], after[0][key]) for key in before[0])
    assert before[1:] == after[1:]
    for one, other in zip(states, states_after, strict=True):
        if isinstance(one, torch.Tensor | np.ndarray):
            assert (one == other).all()
        else:
            assert one == other
    assert torch.equal(own.get_state(), own_state)
    net.train()(batches[0][0]).sum().backward()  # and it still trains


def test_an_error_of_the_loader_leaves_no_hook(batches):
    net = CNN(channels=(4, 4))

    def loader():
        yield batches[0]
        raise OSError("disk gone")

    before = everything(net)
    with pytest.raises(OSError, match="disk gone"):
        sparsity_curve(net, loader(), LEVELS, ("norm", "magnitude"))
    assert everything(net)[1:] == before[1:]


def test_the_batches_stay_as_they_were():
    class Greedy(nn.Module):
        def __init__(self):
            super().__init__()
            self.fc1, self.fc2 = nn.Linear(4, 6), nn.Linear(6, 3)

        def forward(self, x):
            return self.fc2(self.fc1(x.mul_(2)).relu_())

    x, y = torch.randn(8, 4), torch.randint(3, (8,))
    copy = x.clone()
    net, catch = Greedy(), Catch()
    sparsity_curve(net, [(x, y)], (0, 0.5), loss_fn=catch)
    assert torch.equal(x, copy)
    assert torch.equal(catch.outputs[0], net(x.clone()))


# --- measures --------------------------------------------------------------------------------


def test_accuracy_and_loss_are_those_of_all_samples_at_once(batches):
    net = trained(MLP(hidden=(20,)), batches)
    x, y = (torch.cat(parts) for parts in zip(*batches, strict=True))
    point = sparsity_curve(net, batches, (0,)).points[0]
    with torch.no_grad():
        output = net.double()(x.double())
    assert point.correct == int((output.argmax(1) == y).sum())
    assert point.accuracy == point.correct / 150
    assert point.loss == pytest.approx(F.cross_entropy(output, y).item(), rel=1e-6)
    net.float()
    one_each = sparsity_curve(
        net, batches, (0,), loss_fn=lambda o, t: F.cross_entropy(o, t, reduction="none")
    )
    assert one_each.points[0].loss == pytest.approx(point.loss, rel=1e-6)


def test_nan_outputs_are_wrong_even_where_the_class_would_be_guessed():
    class Broken(nn.Module):
        def __init__(self):
            super().__init__()
            self.fc1, self.fc2 = nn.Linear(2, 2), nn.Linear(2, 2)

        def forward(self, x):
            bad = torch.tensor([[float("nan"), 0.0], [0.0, 1.0], [0.0, float("nan")]])
            return self.fc2(self.fc1(x)) * 0 + bad

    targets = torch.tensor([0, 1, 1])  # torch.argmax takes a NaN for the highest
    point = sparsity_curve(Broken(), [(torch.ones(3, 2), targets)], (0,)).points[0]
    assert (point.correct, point.total) == (1, 3)
    assert np.isnan(point.loss)


def test_a_removed_neuron_that_is_infinite_does_no_harm():
    net = nn.Sequential(nn.Linear(2, 3, bias=False), nn.Identity(), nn.Linear(3, 2))
    with torch.no_grad():
        net[0].weight.copy_(torch.tensor([[1.0, 0.0], [0.0, 1.0], [1e-3, 0.0]]))
    net[1].register_forward_hook(lambda m, a, out: out / torch.tensor([1.0, 1.0, 0.0]))
    x = torch.rand(4, 2) + 0.1
    dense, pruned = sparsity_curve(net, [(x, torch.zeros(4, dtype=torch.long))], (0, 1 / 3))
    assert np.isnan(dense.loss) or np.isinf(dense.loss)
    by_hand = x @ net[2].weight[:, :2].T + net[2].bias
    assert pruned.loss == pytest.approx(F.cross_entropy(by_hand, torch.zeros(4).long()).item())


def test_any_metric_or_collection_is_computed_for_each_network(batches):
    net = trained(MLP(hidden=(20,)), batches)
    metrics = MetricCollection(
        {"macro": MulticlassAccuracy(10), "top 3": MulticlassAccuracy(10, top_k=3, average="micro")}
    )
    metrics["macro"].update(torch.eye(10), torch.arange(10))  # a state of its own, not to be used
    curve = sparsity_curve(net, batches, LEVELS, metric=metrics)
    single = sparsity_curve(net, batches, LEVELS, metric=MulticlassF1Score(10, average="macro"))
    for point, other in zip(curve, single, strict=True):
        brute = deepcopy(net)
        mask_neurons(brute, point.sparsity, batches[0][0])
        output, y = torch.cat(logits(brute, batches)), torch.cat([y for _, y in batches])
        assert point.metrics["macro"] == MulticlassAccuracy(10)(output, y).item()
        in_top = (output.topk(3).indices == y[:, None]).any(1).float().mean().item()
        assert point.metrics["top 3"] == pytest.approx(in_top)
        f1 = MulticlassF1Score(10, average="macro")(output, y).item()
        assert other.metrics == {"MulticlassF1Score": f1}
        assert other.accuracy == point.accuracy
    assert metrics["macro"].compute() == pytest.approx(1)


def test_outputs_that_are_too_many_to_hold_back_are_evaluated_in_parts(batches, monkeypatch):
    net = trained(MLP(hidden=(20,)), batches)
    whole = sparsity_curve(net, batches, LEVELS, ("norm", "random"))
    monkeypatch.setattr(measures, "_AT_ONCE", 1000)  # a batch of one network has 640 scores
    assert sparsity_curve(net, batches, LEVELS, ("norm", "random")) == whole


def test_labels_may_be_small_integers(batches):
    net = MLP(hidden=(20,))
    small = [(x, y.to(torch.uint8)) for x, y in batches]
    assert sparsity_curve(net, small, LEVELS) == sparsity_curve(net, batches, LEVELS)


def test_tasks_other_than_classification():
    net = nn.Sequential(nn.Linear(3, 8), nn.ReLU(), nn.Linear(8, 1))
    x, y = torch.randn(10, 3), torch.randn(10, 1)
    loader = [(x[:6], y[:6]), (x[6:], y[6:])]
    point = sparsity_curve(
        net, loader, (0,), metric=MeanAbsoluteError(), loss_fn=F.mse_loss
    ).points[0]
    error = net(x) - y
    assert point.metrics["MeanAbsoluteError"] == pytest.approx(error.abs().mean().item())
    assert point.loss == pytest.approx(error.square().mean().item())
    assert (point.accuracy, point.correct, point.total) == (None, None, 10)
    with pytest.raises(
        ValueError, match=r"no measure fits outputs of shape \(6, 1\) and targets of sha"
    ):
        sparsity_curve(net, loader, (0,))


def test_pixels_are_classified_too():
    net = nn.Sequential(nn.Conv2d(1, 4, 3, padding=1), nn.ReLU(), nn.Conv2d(4, 3, 1))
    x, y = torch.randn(2, 1, 5, 5), torch.randint(3, (2, 5, 5))
    point = sparsity_curve(net, [(x, y)], (0,)).points[0]
    assert (point.correct, point.total) == (int((net(x).argmax(1) == y).sum()), 50)
    assert point.loss == pytest.approx(F.cross_entropy(net(x), y).item())


@pytest.mark.parametrize(
    ("options", "error", "message"),
    [
        ({"metric": MulticlassAccuracy(3)}, ValueError, "metric MulticlassAccuracy does not fit"),
        ({"metric": MulticlassAccuracy(10, average=None)}, ValueError, "expected one number"),
        ({"metric": "accuracy"}, TypeError, "metric='accuracy': expected a torchmetrics Metric"),
        ({"loss_fn": lambda o, t: o}, ValueError, r"loss_fn gives \(64, 10\): expected the mean"),
        ({"loss_fn": lambda o, t: 1.0}, ValueError, "loss_fn gives float: expected the mean"),
        ({"batch": lambda b: (b[0], b[1][:5])}, ValueError, "no measure fits outputs"),
        ({"sparsities": (0, 1.5)}, ValueError, "sparsity 1.5 is outside"),
        ({"scores": "l2"}, ValueError, "unknown score 'l2'"),
        ({"layers": "nothing"}, ValueError, "layers='nothing' matches no layer"),
        ({"scope": "network"}, ValueError, "scope='network'"),
    ],
)  # fmt: skip
def test_bad_arguments_are_refused_in_one_line(batches, options, error, message):
    with pytest.raises(error, match=message) as caught:
        sparsity_curve(MLP(hidden=(20,)), batches, **{"sparsities": (0, 0.5), **options})
    assert "\n" not in str(caught.value)


def test_bad_loaders_are_refused_in_one_line(batches):
    net = MLP(hidden=(20,))
    with pytest.raises(ValueError, match="the loader gave no batch"):
        sparsity_curve(net, [])
    with pytest.raises(
        ValueError, match=r"a batch of the loader is a Tensor: expected \(inputs, targ"
    ):
        sparsity_curve(net, [batches[0][0]])
    with pytest.raises(ValueError, match="a batch of the loader is a dict of 2: expected"):
        sparsity_curve(net, [{"x": 1, "y": 2}])


def test_lazy_layers_are_refused(batches):
    net = nn.Sequential(nn.Flatten(), nn.Linear(784, 5), nn.LazyLinear(10))
    with pytest.raises(ValueError, match=r"'2\.weight' has no values yet"):
        sparsity_curve(net, batches)


# --- layouts, devices, precision, processes ---------------------------------------------------


def test_other_layouts_and_forward_passes(batches):
    net = MLP(hidden=(20,))
    plain = sparsity_curve(net, batches, LEVELS)
    dicts = [{"image": x, "label": y, "id": "a"} for x, y in batches]
    curve = sparsity_curve(
        net, dicts, LEVELS,
        batch=lambda b: ({"image": b["image"]}, b["label"]),
        forward=lambda model, inputs: model(inputs["image"]),
    )  # fmt: skip
    assert curve == plain

    class Headed(nn.Module):
        def __init__(self):
            super().__init__()
            self.body = net

        def forward(self, x):
            raise AssertionError("not the forward asked for")

    headed = sparsity_curve(Headed(), batches, LEVELS, forward=lambda m, x: m.body(x))
    assert headed.points == plain.points
    assert str(headed.notes[0]).startswith("body.fc1: neurons removed with bias and outgoing")


def test_a_compiled_model_is_swept_as_the_model_it_was_made_of(batches):
    net = MLP(hidden=(20,))
    compiled = torch.compile(net, backend="eager")
    assert sparsity_curve(compiled, batches, LEVELS) == sparsity_curve(net, batches, LEVELS)


def test_under_autocast_it_is_what_a_pruned_copy_gives_under_autocast(batches):
    net, catch = trained(CNN(channels=(4, 8)), batches), Catch()
    with torch.autocast("cpu", torch.bfloat16):
        sparsity_curve(net, batches[:1], (0.5,), ("norm",), loss_fn=catch)
        mask_neurons(net, 0.5, batches[0][0])
        expected = logits(net, batches[:1])
    assert catch.outputs[0].dtype == torch.bfloat16
    assert torch.equal(catch.outputs[0], expected[0])


def test_the_fields_say_where_the_points_come_from(batches):
    net = MLP(hidden=(20,))
    curve = sparsity_curve(net, batches, (0.5, 0), ("random", "magnitude"), method="EWN", seed=4)
    assert [(p.score, p.unit, p.sparsity) for p in curve] == [
        ("random", "neurons", 0.0), ("random", "neurons", 0.5),
        ("magnitude", "weights", 0.0), ("magnitude", "weights", 0.5),
    ]  # fmt: skip
    assert {(p.method, p.seed, p.scope) for p in curve} == {("EWN", 4, "layer")}
    half = curve.points[3]
    assert half.weights.left == half.weights.total // 2 == 784 * 10
    assert half.parameters.left == 784 * 10 + 20 + 200
    assert half.macs.left == 784 * 10 + 200
    assert half.neurons.left == 20


def test_reparametrized_models_count_as_the_plain_ones(batches):
    net = CNN(channels=(4, 8))
    plain = sparsity_curve(net, batches[:1], LEVELS, ("random", "random_weights"))
    reparametrize(net, EWN())
    ewn = sparsity_curve(net, batches[:1], LEVELS, ("random", "random_weights"))
    for one, other in zip(plain, ewn, strict=True):
        assert (one.parameters, one.macs, one.weights) == (
            other.parameters,
            other.macs,
            other.weights,
        )


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
def test_on_a_gpu(batches):
    net = trained(CNN(channels=(8, 12)), batches)
    cpu = sparsity_curve(net, batches, LEVELS, ("norm", "magnitude"))
    net.cuda()
    torch.cuda.manual_seed(0)
    state = torch.cuda.get_rng_state()
    gpu = sparsity_curve(net, batches, LEVELS, ("norm", "magnitude"))
    assert torch.equal(torch.cuda.get_rng_state(), state)
    for one, other in zip(cpu, gpu, strict=True):
        assert abs(one.correct - other.correct) <= 2
        assert one.macs == other.macs


ONE_PROCESS = """
import json, sys
import torch
from torch import nn
from torchmetrics.classification import MulticlassAccuracy
from ewnprune.curve.sweep import sparsity_curve

rank, world, folder = int(sys.argv[1]), int(sys.argv[2]), sys.argv[3]
torch.manual_seed(0)
net = nn.Sequential(nn.Linear(6, 20), nn.ReLU(), nn.Linear(20, 4))
x, y = torch.randn(100, 6), torch.randint(4, (100,))
batches = list(zip(x.split(30), y.split(30)))
if world > 1:
    store = f"file://{folder}/store"
    torch.distributed.init_process_group("gloo", store, rank=rank, world_size=world)
metric = MulticlassAccuracy(4, average="macro")
curve = sparsity_curve(net, batches[rank::world], (0, 0.5, 0.9), metric=metric)
points = [[p.correct, p.total, p.loss, p.metrics["MulticlassAccuracy"]] for p in curve]
with open(f"{folder}/{world}{rank}.json", "w") as file:
    json.dump(points, file)
if world > 1:
    # a gloo thread still running when the interpreter ends would abort the process
    torch.distributed.barrier()
    torch.distributed.destroy_process_group()
"""


@pytest.mark.slow
def test_two_processes_count_together(tmp_path, monkeypatch):
    runs = [
        subprocess.Popen([sys.executable, "-c", ONE_PROCESS, rank, "2", str(tmp_path)])
        for rank in ("0", "1")
    ]
    monkeypatch.setattr(sys, "argv", ["", "0", "1", str(tmp_path)])
    exec(ONE_PROCESS, {})
    assert [run.wait(timeout=300) for run in runs] == [0, 0]
    alone, *both = (json.loads((tmp_path / f"{n}.json").read_text()) for n in ("10", "20", "21"))
    assert alone[0][1] == 100
    for points in both:
        for (correct, total, *others), expected in zip(points, alone, strict=True):
            assert [correct, total] == expected[:2]
            assert others == pytest.approx(expected[2:], rel=1e-6)
