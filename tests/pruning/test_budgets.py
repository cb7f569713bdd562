"""A budget gives the largest network that meets it, of all that there are: by brute force."""

from functools import cache
from io import BytesIO
from itertools import pairwise

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn
from toys.networks import Residual, UNet

from ewnprune import Budget, remove_neurons, remove_with_notes
from ewnprune.model.latency import Latency
from ewnprune.pruning import budget as budgets


def mlp():
    return nn.Sequential(nn.Linear(5, 6), nn.ReLU(), nn.Linear(6, 4), nn.ReLU(), nn.Linear(4, 3))


def cnn():
    return nn.Sequential(
        nn.Conv2d(2, 4, 3), nn.BatchNorm2d(4), nn.ReLU(), nn.Conv2d(4, 6, 3, groups=2),
        nn.ReLU(), nn.Flatten(), nn.Linear(6 * 4, 3),
    )  # fmt: skip


class Toy(Residual):
    """A residual, and a layer behind it."""

    def __init__(self):
        super().__init__()
        self.head = nn.Sequential(nn.Linear(4, 5), nn.ReLU(), nn.Linear(5, 2))


NETWORKS = {"mlp": (mlp, (5,)), "cnn": (cnn, (2, 6, 6)), "residual": (Toy, (3,))}
SCOPES = ("layer", "global")


def made(name):
    build, shape = NETWORKS[name]
    torch.manual_seed(0)
    return build().eval(), torch.randn(2, *shape)


def costs(network, x):
    """Parameters, multiply-accumulates by hand, and the bytes of a file."""
    macs = []

    def count(layer, _, output):
        fan_in = layer.weight[0].numel()
        macs.append(output[0].numel() * fan_in)

    layers = [m for m in network.modules() if isinstance(m, nn.Linear | nn.Conv2d)]
    handles = [layer.register_forward_hook(count) for layer in layers]
    with torch.no_grad():
        network(x)
    for handle in handles:
        handle.remove()
    file = BytesIO()
    torch.save(network.state_dict(), file)
    return {
        "parameters": sum(p.numel() for p in network.parameters()),
        "macs": sum(macs),
        "bytes": len(file.getvalue()),
    }


@cache
def all_networks(name, scope):
    """Every network that a sparsity gives, from the whole one down.

    What goes changes where a fraction of a layer's size, or of all, is rounded: the levels are
    those, and one between each two.
    """
    network, x = made(name)
    sizes = [size for _, size in remove_with_notes(network, 0, x).left.values()]
    edges = sorted({(j - 0.5) / n for n in (*sizes, sum(sizes)) for j in range(1, n + 1)})
    levels = {0.0, *edges, *(sum(pair) / 2 for pair in pairwise([*edges, 1.0]))}
    found = {}
    for level in sorted(levels):
        small = remove_neurons(network, level, x, scope=scope)
        found.setdefault(str(small), (small, costs(small, x)))
    return list(found.values())


@pytest.mark.parametrize("cost", ["parameters", "macs", "bytes"])
@pytest.mark.parametrize("scope", SCOPES)
@pytest.mark.parametrize("name", NETWORKS)
def test_it_is_the_largest_network_of_all_that_meet_it(name, scope, cost):
    network, x = made(name)
    networks = all_networks(name, scope)
    dense = networks[0][1][cost]
    assert len(networks) >= 4
    for value in sorted({part[cost] for _, part in networks}):
        for asked in (value + 0.5, value / dense):
            budget = Budget(**{cost: asked})
            small = remove_neurons(network, budget=budget, example_input=x, scope=scope)
            expected = next(part for part in networks if part[1][cost] <= value)
            assert costs(small, x) == expected[1], asked
            for key, tensor in expected[0].state_dict().items():
                assert small.state_dict()[key].equal(tensor)
        if value > networks[-1][1][cost]:  # one less is the next smaller network
            budget = Budget(**{cost: value - 1})
            small = remove_neurons(network, budget=budget, example_input=x, scope=scope)
            assert costs(small, x)[cost] == max(
                part[cost] for _, part in networks if part[cost] < value
            )


@given(
    st.sampled_from([*NETWORKS]),
    st.sampled_from(SCOPES),
    st.sampled_from(["parameters", "macs", "bytes"]),
    st.floats(0.01, 1),
)
@settings(max_examples=60, deadline=None)
def test_what_is_reached_is_no_more_than_asked(name, scope, cost, fraction):
    network, x = made(name)
    budget = Budget(**{cost: fraction})
    dense = costs(network, x)[cost]
    try:
        removal = remove_with_notes(network, budget=budget, example_input=x, scope=scope)
    except ValueError as error:
        assert all(part[cost] > fraction * dense for _, part in all_networks(name, scope))
        smallest = all_networks(name, scope)[-1][1][cost]
        assert f"smallest network that removal gives has {smallest:,} of {dense:,}" in str(error)
        assert "\n" not in str(error)
        return
    left = costs(removal.model, x)[cost]
    assert left <= fraction * dense * (1 + 1e-12)
    (note,) = [note for note in removal.notes if note.kind == "sizes"]
    assert str(note).startswith(f"budget {cost}={fraction:.12g}: {left:,} of {dense:,} ")


def test_multiples_and_other_scopes_and_scores_meet_it_too():
    torch.manual_seed(0)
    network, x = UNet().eval(), torch.randn(1, 3, 16, 16)
    dense = costs(network, x)["macs"]
    for options in ({"round_to": 4}, {"scope": "global"}, {"score": "norm_product"}):
        budget = Budget(macs=0.6)
        small = remove_neurons(network, budget=budget, example_input=x, exclude="up", **options)
        assert 0.3 * dense < costs(small, x)["macs"] <= 0.6 * dense  # no more than it must


@pytest.mark.parametrize("pace", [1, 3])
def test_a_latency_is_met_by_the_ratio_to_the_dense_network(monkeypatch, pace):
    """Times are the hidden neurons in microseconds; the machine may become slower in between."""
    network, x = made("mlp")
    seen = []

    def measure(timed, inputs, *, seconds):
        assert inputs.shape == (1, 5), "one sample"
        hidden = {name: part.args[0][0].out_features for name, part in timed.items()}
        slower = 1
        if len(hidden) > 1:
            seen.append(hidden["network"])
            slower = pace
        return {name: Latency(n * slower / 1000, 1, "cpu", 1) for name, n in hidden.items()}

    monkeypatch.setattr(budgets, "measure_latency", measure)
    budget = Budget(latency_ms=0.0035)
    small = remove_neurons(network, budget=budget, example_input=x, exclude="2")
    assert small[0].out_features == 3
    assert len(seen) == len(set(seen)), "each network once"
    with pytest.raises(ValueError, match=r"has 0\.001 of 0\.006 ms"):
        remove_neurons(network, budget=Budget(latency_ms=0.0005), example_input=x)


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({}, "expected one of macs, parameters, bytes and latency_ms"),
        ({"macs": 0.5, "bytes": 100}, r"Budget\(macs=0.5, bytes=100\): expected one of"),
        ({"macs": 0}, "budget macs=0: expected a fraction of the dense network"),
        ({"parameters": -0.5}, "expected a fraction"),
        ({"bytes": float("nan")}, "expected a fraction"),
        ({"bytes": float("inf")}, "expected a fraction"),
        ({"macs": True}, "expected a fraction"),
        ({"macs": "0.5"}, "expected a fraction"),
        ({"latency_ms": 0}, "expected milliseconds"),
    ],
)
def test_budgets_that_are_none_are_refused(values, message):
    with pytest.raises(ValueError, match=message) as caught:
        Budget(**values)
    assert "\n" not in str(caught.value)


def test_one_of_sparsity_indices_and_budget():
    network, x = made("mlp")
    with pytest.raises(ValueError, match="sparsity and budget given: expected one of"):
        remove_neurons(network, 0.5, x, budget=Budget(macs=0.5))
    with pytest.raises(ValueError, match="indices and budget given"):
        remove_neurons(network, example_input=x, budget=Budget(macs=0.5), indices={"0": [1]})
    with pytest.raises(TypeError, match=r"budget=0\.5: expected an ewnprune\.Budget"):
        remove_neurons(network, example_input=x, budget=0.5)
    with pytest.raises(ValueError, match="single weights"):
        remove_neurons(network, example_input=x, budget=Budget(macs=0.5), score="magnitude")
