"""Statistics of BatchNorms without the neurons that go, against a pass by hand in float64."""

import json
from copy import deepcopy
from itertools import islice

import pytest
import torch
from torch import nn
from torch.utils.data import DataLoader, TensorDataset
from toys.processes import run_together
from toys.sweeps import Catch, logits, trained

from ewnprune import EWN, reparametrize
from ewnprune.curve.sweep import sparsity_curve
from ewnprune.pruning.removal import remove_neurons, remove_with_notes
from ewnprune.pruning.zeroing import mask_neurons
from lightning_modules import CNN

LEVELS = (0, 0.5, 0.8)


class Branching(nn.Module):
    """Cannot be traced: neurons that nobody can follow are masked, at full width."""

    def __init__(self):
        super().__init__()
        self.conv, self.norm, self.drop = nn.Conv2d(1, 6, 3), nn.BatchNorm2d(6), nn.Dropout()
        self.fc1, self.norm1 = nn.Linear(6, 12), nn.BatchNorm1d(12)
        self.fc2 = nn.Linear(12, 10)

    def forward(self, x):
        x = self.norm(self.conv(x)).relu()
        x = x.mean((2, 3)) if x.sum().item() > -1 else -x.mean((2, 3))
        return self.fc2(self.drop(self.norm1(self.fc1(x)).relu()))


@pytest.fixture
def training():
    torch.manual_seed(3)
    return [(torch.randn(n, 1, 28, 28) + 0.5, torch.zeros(n)) for n in (32, 32, 20)]


def statistics_by_hand(net, inputs):
    """Means and variances of what each BatchNorm reads, in float64, on average over batches."""
    net = deepcopy(net).double().eval()
    norms = [
        module for module in net.modules() if isinstance(module, nn.modules.batchnorm._BatchNorm)
    ]
    seen = {norm: ([], []) for norm in norms}

    def normalize(norm, args, _):
        x = args[0].transpose(0, 1).flatten(1)
        seen[norm][0].append(x.mean(1))
        seen[norm][1].append(((x - x.mean(1, keepdim=True)) ** 2).sum(1) / (x.shape[1] - 1))
        shape = (1, -1, *[1] * (args[0].dim() - 2))
        biased = ((x - x.mean(1, keepdim=True)) ** 2).mean(1)
        unit = (args[0] - x.mean(1).view(shape)) / (biased + norm.eps).sqrt().view(shape)
        return unit * norm.weight.view(shape) + norm.bias.view(shape)

    for norm in norms:
        norm.register_forward_hook(normalize)
    with torch.no_grad():
        for x in inputs:
            net(x.double())
    return [tuple(torch.stack(part).mean(0) for part in seen[norm]) for norm in norms]


def statistics_of(net):
    norms = [m for m in net.modules() if isinstance(m, nn.modules.batchnorm._BatchNorm)]
    return [(norm.running_mean, norm.running_var) for norm in norms]


@pytest.mark.parametrize(("level", "tracks"), [(0.5, True), (0.8, True), (0.5, False)])
def test_statistics_are_those_of_a_pass_by_hand(level, tracks, batches, training):
    net = trained(CNN(channels=(8, 12)), batches)
    net.norm2.track_running_stats = tracks  # as BaseFinetuning leaves it where it froze them
    before = deepcopy(net.state_dict())
    removal = remove_with_notes(net, level, batches[0][0], recalibrate=training)
    assert all(torch.equal(value, before[key]) for key, value in net.state_dict().items())
    expected = statistics_by_hand(removal.model, [x for x, _ in training])
    for pair, by_hand in zip(statistics_of(removal.model), expected, strict=True):
        for one, other in zip(pair, by_hand, strict=True):
            torch.testing.assert_close(one.double(), other, rtol=1e-4, atol=1e-5)
    stale = remove_neurons(net, level, batches[0][0])
    assert not torch.allclose(stale.norm2.running_mean, removal.model.norm2.running_mean, atol=1e-2)
    assert removal.model.norm1.momentum == 0.1 and removal.model.norm1.num_batches_tracked == 3
    assert removal.model.norm2.track_running_stats is tracks
    (note,) = [note.text for note in removal.notes if note.kind == "statistics"]
    assert "2 BatchNorms" in note and "3 training batches (84 samples)" in note


@pytest.mark.parametrize("parametrized", [False, True], ids=["plain", "ewn"])
@pytest.mark.parametrize("scores", [("norm", "random"), ("magnitude",)], ids=["neurons", "weights"])
def test_points_are_of_networks_with_statistics_of_their_own(
    parametrized, scores, batches, training
):
    net = CNN(channels=(8, 12))
    if parametrized:
        reparametrize(net, EWN())
    trained(net, batches)
    before = {key: value.clone() for key, value in net.state_dict().items()}
    flags = [(m.training, getattr(m, "momentum", None)) for m in net.modules()]
    catch = Catch()
    curve = sparsity_curve(
        net, batches, LEVELS, scores, loss_fn=catch, recalibrate=training, seed=3
    )
    assert all(torch.equal(value, before[key]) for key, value in net.state_dict().items())
    assert flags == [(m.training, getattr(m, "momentum", None)) for m in net.modules()]
    plain = CNN(channels=(8, 12)).eval()
    weights = {
        **net.state_dict(),
        "conv1.weight": net.conv1.weight,
        "conv2.weight": net.conv2.weight,
    }
    plain.load_state_dict({key: weights[key].detach() for key in plain.state_dict()})
    per_network = len(catch.outputs) // len(batches)
    for place, point in enumerate(_each_once(curve)):
        if scores == ("magnitude",) and point.sparsity:
            brute = _masked(plain, point.sparsity)
            means = statistics_by_hand(brute, [x for x, _ in training])
            norms = (brute.norm1, brute.norm2)
            for norm, (mean, var) in zip(norms, means, strict=True):
                norm.running_mean, norm.running_var = mean.float(), var.float()
        else:
            brute = (
                remove_neurons(
                    plain,
                    point.sparsity,
                    batches[0][0],
                    score=point.score,
                    seed=3,
                    recalibrate=training,
                )
                if point.sparsity
                else plain
            )
        expected = logits(brute, batches)
        for one, other in zip(catch.outputs[place::per_network], expected, strict=True):
            torch.testing.assert_close(one, other, rtol=1e-4, atol=1e-4)
    assert [note.kind for note in curve.notes].count("statistics") == 1


def _each_once(curve):
    keys = {(p.score if p.sparsity else "", p.sparsity): p for p in reversed(curve.points)}
    return [
        keys[key]
        for key in dict.fromkeys((p.score if p.sparsity else "", p.sparsity) for p in curve)
    ]


def _masked(net, level):
    net = deepcopy(net)
    with torch.no_grad():
        for layer in (net.conv1, net.conv2):
            order = layer.weight.abs().flatten().argsort(stable=True)
            layer.weight.view(-1)[order[: round(level * len(order))]] = 0
    return net


def test_networks_that_are_masked_have_statistics_of_their_own(batches, training):
    net = trained(Branching(), batches)
    before = {key: value.clone() for key, value in net.state_dict().items()}
    catch = Catch()
    curve = sparsity_curve(net, batches, (0.5,), loss_fn=catch, recalibrate=training)
    assert any(note.kind == "masked" for note in curve.notes)
    assert all(torch.equal(value, before[key]) for key, value in net.state_dict().items())
    mask_neurons(net, 0.5, batches[0][0])
    by_hand = statistics_by_hand(net, [x for x, _ in training])
    for norm, (mean, variance) in zip((net.norm, net.norm1), by_hand, strict=True):
        norm.running_mean.copy_(mean)
        norm.running_var.copy_(variance)
    for one, other in zip(catch.outputs, logits(net, batches), strict=True):
        torch.testing.assert_close(one, other, rtol=1e-4, atol=1e-4)


def test_the_whole_network_and_what_needs_nothing_stay_as_they_are(batches, training):
    net = trained(CNN(channels=(8, 12)), batches)
    one = sparsity_curve(net, batches, (0,), recalibrate=training)
    assert one.points == sparsity_curve(net, batches, (0,)).points
    same = remove_with_notes(net, 0, batches[0][0], recalibrate=training)
    assert torch.equal(same.model.norm1.running_mean, net.norm1.running_mean)
    assert not [note for note in same.notes if note.kind == "statistics"]
    mlp = nn.Sequential(nn.Flatten(), nn.Linear(784, 8), nn.ReLU(), nn.Linear(8, 10))
    unread = iter(training)  # without BatchNorm nothing is fetched
    curve = sparsity_curve(mlp, batches, LEVELS, recalibrate=unread)
    assert len(list(unread)) == 3 and "statistics" not in {note.kind for note in curve.notes}


def test_loaders_and_random_numbers_are_as_they_were(batches):
    net = trained(CNN(channels=(4, 6)), batches)
    generator = torch.Generator().manual_seed(5)
    data = TensorDataset(torch.randn(64, 1, 28, 28), torch.zeros(64))
    loader = DataLoader(data, 16, shuffle=True, generator=generator)
    state, own = torch.get_rng_state(), generator.get_state()
    first = sparsity_curve(net, batches, LEVELS, recalibrate=loader)
    assert torch.equal(state, torch.get_rng_state()) and torch.equal(own, generator.get_state())
    assert first.points == sparsity_curve(net, batches, LEVELS, recalibrate=loader).points
    twice = sparsity_curve(net, batches, LEVELS, recalibrate=islice(loader, 2))
    assert "on 2 training batches (32 samples)" in str(twice)


def test_bad_training_data_are_told_of(batches):
    net = trained(CNN(channels=(4, 6)), batches)
    with pytest.raises(ValueError, match="recalibrate gave no batch"):
        sparsity_curve(net, batches, LEVELS, recalibrate=[])
    with pytest.raises(ValueError, match=r"expected \(inputs, targets\)"):
        remove_neurons(net, 0.5, batches[0][0], recalibrate=[x for x, _ in batches])


PROCESS = """
import json, sys, torch
from lightning_modules import CNN
from ewnprune import sparsity_curve

rank = int(sys.argv[1])
torch.distributed.init_process_group("gloo", init_method=f"file://{sys.argv[2]}/store",
    rank=rank, world_size=2)
net = CNN(channels=(8, 12))
net.load_state_dict(torch.load(f"{sys.argv[2]}/net.pt"))
training, batches = torch.load(f"{sys.argv[2]}/data.pt")
curve = sparsity_curve(net, batches[rank::2], (0, 0.5, 0.8), recalibrate=training[rank::2])
with open(f"{sys.argv[2]}/{rank}.json", "w") as file:
    json.dump([(p.correct, p.total, p.loss) for p in curve], file)
torch.distributed.barrier()
torch.distributed.destroy_process_group()
"""


def test_two_processes_have_the_statistics_of_one(tmp_path, batches, training):
    net = trained(CNN(channels=(8, 12)), batches)
    scales = (1.0, 3.0, 0.5, 2.0)  # each process sees two
    training = [(training[0][0] * scale, training[0][1]) for scale in scales]
    batches = [*batches, batches[0]]
    torch.save(net.state_dict(), tmp_path / "net.pt")
    torch.save((training, batches), tmp_path / "data.pt")
    one = sparsity_curve(net, batches, LEVELS, recalibrate=training)
    run_together(PROCESS, tmp_path)
    for rank in range(2):
        found = json.loads((tmp_path / f"{rank}.json").read_text())
        for (correct, total, loss), point in zip(found, one, strict=True):
            assert (correct, total) == (point.correct, point.total)
            assert loss == pytest.approx(point.loss, rel=1e-5)
