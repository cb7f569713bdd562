"""Which features of the inputs go first: by NumPy, by a curve, in files, in two processes."""

import json

import numpy as np
import pytest
import torch
from torch import nn
from toys.networks import Skip, in_float64
from toys.processes import run_together

from ewnprune import (
    read_curve,
    remove_neurons,
    remove_with_notes,
    sparsity_curve,
    write_curve,
)


def _skip():
    return Skip(), 3 + torch.randn(20, 10)


def test_scores_are_those_of_numpy():
    network, x = in_float64(_skip)
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
    network, x = in_float64(_skip)
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
    network, x = in_float64(_skip)
    loader = [(x, torch.arange(20) % 5)]
    for inputs in (True, False):
        curve = sparsity_curve(network, loader, (0, 0.3), inputs=inputs)
        for name in ("curve.csv", "curve.json"):
            text = write_curve(curve, tmp_path / name).read_text()
            assert ("inputs_left" in text or '"inputs": {' in text) == inputs
            assert ('"inputs":' in text or "inputs_" in text) == inputs
            assert read_curve(tmp_path / name).points == curve.points


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
