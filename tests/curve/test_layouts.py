"""Sweeps of other layouts, of compiled models, under autocast, on a GPU and by two processes."""

import copy
import json
import sys

import pytest
import torch
from torch import nn
from toys.processes import run_together
from toys.sweeps import Catch, logits, trained

from ewnprune import EWN, measure_neurons, remove_neurons, reparametrize
from ewnprune.curve.sweep import sparsity_curve
from ewnprune.pruning.zeroing import mask_neurons
from lightning_modules import CNN, MLP

LEVELS = (0, 0.3, 0.5, 0.8, 0.95)


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
    measured = measure_neurons(compiled, batches)
    taylor = sparsity_curve(compiled, batches, LEVELS, "taylor", measured=measured)
    assert taylor == sparsity_curve(net, batches, LEVELS, "taylor", measured=measured)
    by_name = {"example_input": batches[0][0], "score": "random", "seed": 3}  # seeds are of names
    small = remove_neurons(net, 0.5, **by_name)
    torch.testing.assert_close(
        remove_neurons(compiled, 0.5, **by_name).state_dict(), small.state_dict(), rtol=0, atol=0
    )
    masked = mask_neurons(copy.deepcopy(net), 0.5, **by_name)
    assert mask_neurons(compiled, 0.5, **by_name)["fc1"].equal(masked["fc1"])


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
from ewnprune.curve.from_data import measure_neurons
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
measured = measure_neurons(net, batches[rank::world])
points += [[0, 0, *table["0"].tolist()] for table in measured.values()]
with open(f"{folder}/{world}{rank}.json", "w") as file:
    json.dump(points, file)
if world > 1:
    # a gloo thread still running when the interpreter ends would abort the process
    torch.distributed.barrier()
    torch.distributed.destroy_process_group()
"""


@pytest.mark.slow
def test_two_processes_count_together(tmp_path, monkeypatch):
    run_together(ONE_PROCESS, "2", tmp_path)
    monkeypatch.setattr(sys, "argv", ["", "0", "1", str(tmp_path)])
    exec(ONE_PROCESS, {})
    alone, *both = (json.loads((tmp_path / f"{n}.json").read_text()) for n in ("10", "20", "21"))
    assert alone[0][1] == 100
    for points in both:
        for (correct, total, *others), expected in zip(points, alone, strict=True):
            assert [correct, total] == expected[:2]
            assert others == pytest.approx(expected[2:], rel=1e-6)
