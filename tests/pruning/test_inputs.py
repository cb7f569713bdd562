"""Features of the inputs that go: pixels, columns of a table, channels of a first convolution."""

import json
import warnings
from copy import deepcopy

import numpy as np
import pytest
import torch
from torch import nn
from toys.processes import run_together

from ewnprune import (
    Budget,
    mask_neurons,
    read_curve,
    remove_neurons,
    remove_with_notes,
    sparsity_curve,
    write_curve,
)


def _mlp():
    layers = (nn.Linear(36, 12), nn.ReLU(), nn.Linear(12, 3))
    return nn.Sequential(nn.Flatten(), *layers), torch.randn(32, 1, 6, 6)


def _cnn():
    convs = (nn.Conv2d(4, 6, 3), nn.BatchNorm2d(6), nn.ReLU(), nn.AdaptiveAvgPool2d(1))
    return nn.Sequential(*convs, nn.Flatten(), nn.Linear(6, 3)), torch.randn(16, 4, 7, 7)


class Skip(nn.Module):
    """Two first layers read the same input, normalized by constants of the model's own."""

    def __init__(self):
        super().__init__()
        self.long, self.short = nn.Linear(10, 8), nn.Linear(10, 5)
        self.head = nn.Linear(8, 5)
        self.register_buffer("mean", torch.full((10,), 3.0))
        self.register_buffer("scale", torch.linspace(1, 2, 10))

    def forward(self, x):
        x = (x - self.mean) / self.scale
        return self.short(x) + self.head(self.long(x).relu())


def _skip():
    return Skip(), 3 + torch.randn(20, 10)


class Both(nn.Module):
    """A convolution reads the channels of an image, and a Linear layer all of its numbers."""

    def __init__(self):
        super().__init__()
        self.conv, self.fc = nn.Conv2d(3, 2, 3, padding=1), nn.Linear(48, 4)
        self.head = nn.Linear(2 * 16 + 4, 2)

    def forward(self, x):
        seen = [self.conv(x).relu().flatten(1), self.fc(x.flatten(1)).relu()]
        return self.head(torch.cat(seen, 1))


def _both():
    return Both(), torch.randn(9, 3, 4, 4)


def _words():
    """Features of each word: the last dimension, after a word's place."""
    return nn.Sequential(nn.Linear(6, 5), nn.ReLU(), nn.Linear(5, 2)), torch.randn(8, 4, 6)


def _double(build):
    torch.manual_seed(0)
    network, x = build()
    return network.double().eval(), x.double()


def _weights_that_read(network, masks):
    """The network with zeros where first layers read what went, written by hand."""
    network = deepcopy(network)
    for name, keep in masks.items():
        with torch.no_grad():
            network.get_submodule(name).weight[:, ~keep] = 0
    return network


@pytest.mark.parametrize("build", [_mlp, _cnn, _skip, _both, _words])
def test_the_network_that_picks_gives_what_zeros_give(build):
    network, x = _double(build)
    before = {key: value.clone() for key, value in network.state_dict().items()}
    removal = remove_with_notes(network, 0.5, x, inputs=True)
    features = removal.inputs
    total = int(np.prod(features.shape))
    assert removal.left == {"inputs": (total - round(0.5 * total), total)}
    keep = torch.zeros(features.shape, dtype=torch.bool)
    keep.view(-1)[list(features.kept)] = True
    masks = {
        "_mlp": {"1": keep.flatten()},
        "_cnn": {"0": keep},
        "_skip": {"long": keep, "short": keep},
        "_both": {"conv": keep, "fc": keep.repeat_interleave(16) if keep.ndim == 1 else keep},
        "_words": {"0": keep},
    }[build.__name__]
    expected = _weights_that_read(network, masks)(x)
    torch.testing.assert_close(removal.model(x), expected, rtol=0, atol=1e-13)
    assert not torch.allclose(removal.model(x), network(x), atol=1e-3)
    assert all(torch.equal(value, before[key]) for key, value in network.state_dict().items())
    masked = deepcopy(network)
    assert mask_neurons(masked, 0.5, x, inputs=True)["inputs"].tolist() == keep.flatten().tolist()
    torch.testing.assert_close(masked(x), expected, rtol=0, atol=1e-13)


@pytest.mark.parametrize("build", [_mlp, _cnn, _skip, _both, _words])
def test_what_went_may_be_anything(build):
    network, x = _double(build)
    small = remove_neurons(network, 0.5, x, inputs=True)
    features = remove_with_notes(network, 0.5, x, inputs=True).inputs
    if build is _words:
        gone = [i for i in range(6) if i not in features.kept]
        noisy = x.clone()
        noisy[..., gone] = 1e6
    else:
        noisy = x.clone()
        per_sample = noisy.view(len(x), int(np.prod(features.shape)), -1)
        gone = [i for i in range(per_sample.shape[1]) if i not in features.kept]
        per_sample[:, gone] = 1e6
    assert torch.equal(small(noisy), small(x))


def test_scores_are_those_of_numpy():
    network, x = _double(_skip)
    x = x * torch.linspace(0.1, 5, 10)
    long, short = (getattr(network, name).weight.detach().numpy() for name in ("long", "short"))
    read = (x.numpy() - 3) / np.linspace(1, 2, 10)
    expected = np.sqrt((long**2).sum(0) + (short**2).sum(0)) * read.std(0)
    for gone in range(1, 10):
        features = remove_with_notes(network, gone / 10, x, inputs=True).inputs
        assert features.kept == tuple(sorted(np.argsort(expected)[gone:]))


def test_what_a_batchnorm_gives_is_what_counts():
    torch.manual_seed(0)
    layers = nn.BatchNorm1d(5), nn.Linear(5, 4), nn.ReLU(), nn.Linear(4, 2)
    network = nn.Sequential(*layers).double().eval()
    network[0].running_var.copy_(torch.linspace(0.1, 9, 5))
    network[0].running_mean.fill_(2)
    x = torch.randn(50, 5).double()
    read = (x.numpy() - 2) / np.sqrt(network[0].running_var.numpy() + 1e-5)
    score = np.linalg.norm(network[1].weight.detach().numpy(), axis=0) * read.std(0)
    removal = remove_with_notes(network, 0.4, x, inputs=True)
    assert removal.inputs.kept == tuple(sorted(np.argsort(score)[2:]))
    assert removal.model[0].num_features == 5
    read[:, np.argsort(score)[:2]] = 0  # after it, not before
    expected = network[1:](torch.from_numpy(read))
    torch.testing.assert_close(removal.model(x), expected, rtol=0, atol=1e-12)


def test_deviations_are_of_all_calibration_batches():
    torch.manual_seed(0)
    network = nn.Sequential(nn.Linear(5, 4), nn.ReLU(), nn.Linear(4, 2))
    batches = [(torch.randn(n, 5) * torch.rand(5) * 9 + 50, torch.zeros(n)) for n in (3, 8, 1)]
    data = np.concatenate([x.double().numpy() for x, _ in batches])
    score = np.linalg.norm(network[0].weight.detach().double().numpy(), axis=0) * data.std(0)
    removal = remove_with_notes(network, 0.6, batches[0][0], inputs=True, recalibrate=batches)
    assert removal.inputs.kept == tuple(sorted(np.argsort(score)[3:]))
    assert "12 samples" in "\n".join(map(str, removal.notes))
    data = data[:8] * np.arange(1, 6)  # of the batch that biases are repaired by, where that is all
    repair = torch.from_numpy(data).float()
    score = np.linalg.norm(network[0].weight.detach().double().numpy(), axis=0) * data.std(0)
    removal = remove_with_notes(network, 0.6, batches[0][0], inputs=True, repair=repair)
    assert removal.inputs.kept == tuple(sorted(np.argsort(score)[3:]))


@pytest.mark.parametrize("example", [torch.randn(1, 5), torch.ones(6, 5)])
def test_without_deviations_the_norm_alone_is_the_score(example):
    torch.manual_seed(0)
    network = nn.Sequential(nn.Linear(5, 4), nn.ReLU(), nn.Linear(4, 2))
    order = network[0].weight.norm(dim=0).argsort()
    with pytest.warns(UserWarning, match="weights alone, without standard deviations, since"):
        small = remove_neurons(network, 0.6, example, inputs=True)
    assert small[0].input_index.tolist() == order[3:].sort().values.tolist()


def test_a_repaired_network_has_the_mean_in_the_place_of_what_went():
    network, x = _double(_mlp)
    x = x + 2
    small = remove_neurons(network, 0.5, x, inputs=True, repair=x)
    flat = x.flatten(1).clone()
    gone = [i for i in range(36) if i not in small[1].input_index.tolist()]
    flat[:, gone] = flat[:, gone].mean(0)
    torch.testing.assert_close(small(x), network(flat.view_as(x)), rtol=0, atol=1e-12)


def _table():
    """Three columns of eleven say which class it is; the others are noise, some of it loud."""
    generator = np.random.default_rng(0)
    relevant = [1, 4, 9]
    x = generator.normal(size=(600, 11)) * generator.uniform(0.5, 2, 11)
    y = (x[:, relevant] / x[:, relevant].std(0)) @ [1.0, -1.0, 1.0] > 0
    return torch.from_numpy(x).float(), torch.from_numpy(y).long(), relevant


def test_irrelevant_columns_go_first():
    x, y, relevant = _table()
    torch.manual_seed(0)
    network = nn.Sequential(nn.Linear(11, 16), nn.ReLU(), nn.Linear(16, 2))
    optimizer = torch.optim.AdamW(network.parameters(), 0.02, weight_decay=0.1)
    for _ in range(150):
        optimizer.zero_grad()
        nn.functional.cross_entropy(network(x[:400]), y[:400]).backward()
        optimizer.step()
    removal = remove_with_notes(network, 8 / 11, x[:400], inputs=True)
    assert list(removal.inputs.kept) == relevant
    loader = [(x[400:], y[400:])]
    curve = sparsity_curve(network, loader, (0, 4 / 11, 8 / 11, 9 / 11), inputs=True)
    dense, some, three, two = (point.accuracy for point in curve)
    assert min(some, three) > dense - 0.02 and two < three - 0.05


def test_a_curve_says_that_its_levels_are_of_inputs():
    network, x = _double(_skip)
    loader = [(x, torch.arange(20) % 5)] * 2
    curve = sparsity_curve(network, loader, (0, 0.3, 0.8), ("norm", "random"), inputs=True, seed=1)
    for point in curve:
        count = point.inputs
        assert (point.unit, count.left, count.total) == (
            "inputs",
            10 - round(10 * point.sparsity),
            10,
        )
        assert point.neurons.sparsity == 0
        small = remove_neurons(network, point.sparsity, x, score=point.score, seed=1, inputs=True)
        hits = int((small(x).argmax(1) == loader[0][1]).sum())
        assert (point.correct, point.total) == (2 * hits, 40)
        assert point.parameters.left == sum(p.numel() for p in small.parameters())
    assert curve.where(score="norm").at(0.7, "inputs") == curve.points[1].accuracy
    text = str(curve)
    assert "inputs removed" in text and "7 of 10" in text and "neurons left" not in text


def test_files_of_such_a_curve_count_inputs_and_others_do_not(tmp_path):
    network, x = _double(_skip)
    loader = [(x, torch.arange(20) % 5)]
    for inputs in (True, False):
        curve = sparsity_curve(network, loader, (0, 0.3), inputs=inputs)
        for name in ("curve.csv", "curve.json"):
            text = write_curve(curve, tmp_path / name).read_text()
            assert ("inputs_left" in text or '"inputs": {' in text) == inputs
            assert ('"inputs":' in text or "inputs_" in text) == inputs
            assert read_curve(tmp_path / name).points == curve.points


def test_neurons_may_go_before_or_after():
    network, x = _double(_mlp)
    first = remove_neurons(remove_neurons(network, 0.5, x, inputs=True), 0.5, x)
    assert (first[1].in_features, first[1].out_features, first[3].in_features) == (18, 6, 6)
    second = remove_neurons(remove_neurons(network, 0.5, x), 0.5, x, inputs=True)
    assert (second[1].in_features, second[1].out_features, second[3].in_features) == (18, 6, 6)
    assert first(x).shape == second(x).shape == (32, 3)


def test_features_by_name_multiples_and_budgets():
    network, x = _double(_mlp)
    named = remove_with_notes(network, indices={"inputs": [0, 35]}, example_input=x, inputs=True)
    assert named.inputs == ((1, 6, 6), tuple(range(1, 35)))
    rounded = remove_neurons(network, 0.5, x, inputs=True, round_to=8)
    assert rounded[1].in_features == 24
    met = remove_neurons(network, None, x, inputs=True, budget=Budget(macs=0.5))
    assert met[1].in_features == 16  # (36 * 12 + 36) / 2 = 234 = 16 * 12 + 36 + 6
    single = remove_neurons(nn.Linear(6, 2), 0.5, torch.randn(9, 6), inputs=True)
    assert single(torch.randn(4, 6)).shape == (4, 2)


class Named(nn.Linear):
    """A layer of a user's own that computes what torch's does."""

    def twice(self):
        return 2 * self.out_features


def test_scopes_have_their_meaning_for_features():
    network, x = _double(_mlp)
    some = remove_with_notes(
        network, 0.5, x, inputs=True, scope="normalized", max_per_layer=0.25
    ).inputs
    assert len(some.kept) == 27
    curve = sparsity_curve(
        network, [(x, torch.zeros(32).long())], (0, 0.5), inputs=True, per_layer=True
    )
    assert [(point.layer, point.unit) for point in curve] == [("inputs", "inputs")] * 2
    half = remove_with_notes(
        network, 0.5, x, inputs=True, scope="sensitivity", sensitivity=curve.sensitivity()
    )
    assert half.inputs == remove_with_notes(network, 0.5, x, inputs=True).inputs


def test_a_layer_of_a_users_own_stays_one():
    network = nn.Sequential(Named(6, 4), nn.ReLU(), nn.Linear(4, 2))
    small = remove_neurons(network, 0.5, torch.randn(8, 6), inputs=True)
    assert isinstance(small[0], Named) and small[0].twice() == 8
    assert type(network[0]) is Named


def test_the_smaller_network_trains_copies_and_scripts():
    network, x = _double(_cnn)
    small = remove_neurons(network, 0.5, x, inputs=True)
    expected = small(x)
    assert torch.equal(deepcopy(small)(x), expected)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # that torch.jit is old
        assert torch.equal(torch.jit.script(small)(x), expected)
        assert torch.equal(torch.jit.trace(small, x)(x), expected)
    program = torch.export.export(small, (x,))
    torch.testing.assert_close(program.module()(x), expected)
    small.train()(x).sum().backward()
    assert all(p.grad is not None for p in small.parameters())
    again = deepcopy(small)
    again.load_state_dict(small.state_dict(), strict=True)


class AddsInput(nn.Module):
    def __init__(self):
        super().__init__()
        self.fc, self.out = nn.Linear(6, 6), nn.Linear(6, 2)

    def forward(self, x):
        return self.out(x + self.fc(x).relu())


class Depthwise(nn.Sequential):
    def __init__(self):
        super().__init__(nn.Conv2d(4, 4, 3, groups=4), nn.Flatten(), nn.Linear(4, 2))


class Turned(nn.Module):
    """Reads an image column by column: its inputs are not those of the image in their order."""

    def __init__(self):
        super().__init__()
        self.fc, self.out = nn.Linear(6, 4), nn.Linear(4, 2)

    def forward(self, x):
        return self.out(self.fc(x.transpose(2, 3).flatten(1)).relu())


def _words_of(dtype):
    embedding = nn.Sequential(nn.Embedding(9, 4), nn.Flatten(), nn.Linear(12, 4), nn.Linear(4, 2))
    return embedding, torch.zeros(2, 3, dtype=dtype)


@pytest.mark.parametrize(
    ("network", "x", "reason"),
    [
        (*_words_of(torch.long), "whole numbers .int64., as token ids"),
        (*_words_of(torch.int32), "whole numbers .int32., as token ids"),
        (nn.Sequential(nn.Linear(6, 2)), {"x": torch.randn(4, 6)}, "they are a dict"),
        (nn.Sequential(nn.Linear(6, 2)), torch.randn(6), "shape is .6,.: expected samples first"),
        (AddsInput(), torch.randn(4, 6), "add joins them with other values"),
        (nn.Sequential(nn.Conv2d(1, 2, 3)), torch.randn(4, 1, 3, 3), "there is one alone"),
        (Turned(), torch.randn(4, 1, 2, 3), "there is one alone"),
        (Depthwise(), torch.randn(4, 4, 3, 3), "'0' is a Conv2d with 4 groups"),
        (nn.Sequential(nn.LayerNorm(6), nn.Linear(6, 2)), torch.randn(4, 6), "LayerNorm '0' reads"),
    ],
)
def test_inputs_that_are_no_features_are_refused_in_one_line(network, x, reason):
    with pytest.raises(ValueError, match=f"cannot be pruned, since .*{reason}") as error:
        remove_neurons(network, 0.5, x, inputs=True)
    assert "\n" not in str(error.value)


def test_what_has_no_meaning_is_refused_in_one_line():
    network, x = _double(_mlp)
    for wrong, options in {
        "score 'magnitude' ranks single weights: .* inputs=True": {"score": "magnitude"},
        "score 'taylor' goes by what neurons do: .* inputs=True": {"score": "taylor"},
        "inputs='yes': expected True": {"inputs": "yes"},
        "inputs=True with heads='whole'": {"heads": "whole"},
        "no layer 'fc' has": {"sparsity": None, "indices": {"fc": [0]}},
    }.items():
        with pytest.raises(ValueError, match=wrong) as error:
            remove_neurons(
                network, **{"sparsity": 0.5, "example_input": x, "inputs": True, **options}
            )
        assert "\n" not in str(error.value)
    small = remove_neurons(network, 0.5, x, inputs=True)
    with pytest.raises(ValueError, match="'1' reads some of them alone already"):
        remove_neurons(small, 0.5, x, inputs=True)


ONE_OF_TWO = """
import json, sys
import torch
from torch import nn
from ewnprune import sparsity_curve

rank, folder = int(sys.argv[1]), sys.argv[2]
store = f"file://{folder}/store"
torch.distributed.init_process_group("gloo", store, rank=rank, world_size=2)
torch.manual_seed(0)
net = nn.Sequential(nn.Linear(6, 8), nn.ReLU(), nn.Linear(8, 4))
x, y = torch.randn(40, 6), torch.randint(4, (40,))
loud = torch.tensor([1.0, 9.0, 1.0, 1.0, 9.0, 1.0])
own = torch.randn(20, 6) * (loud if rank else 1 / loud)  # each would choose others
training = [(own, y[:20])]
data = [(x[rank::2], y[rank::2])]
curve = sparsity_curve(net, data, (0, 0.5), inputs=True, recalibrate=training)
with open(f"{folder}/{rank}.json", "w") as file:
    json.dump([[p.correct, p.total, own.tolist()] for p in curve], file)
torch.distributed.barrier()
torch.distributed.destroy_process_group()
"""


@pytest.mark.slow
def test_two_processes_remove_the_same_features(tmp_path):
    run_together(ONE_OF_TWO, tmp_path)
    one, other = (json.loads((tmp_path / f"{rank}.json").read_text()) for rank in (0, 1))
    assert one[1][:2] == other[1][:2] and one[1][1] == 40
    torch.manual_seed(0)
    network = nn.Sequential(nn.Linear(6, 8), nn.ReLU(), nn.Linear(8, 4))
    x, y = torch.randn(40, 6), torch.randint(4, (40,))
    variance = sum(np.array(each[0][2]).var(0) for each in (one, other)) / 2
    score = np.linalg.norm(network[0].weight.detach().numpy(), axis=0) * np.sqrt(variance)
    x[:, np.argsort(score)[:3].copy()] = 0
    assert int((network(x).argmax(1) == y).sum()) == one[1][0]
