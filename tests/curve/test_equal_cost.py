"""Levels that are fractions of the parameters or MACs: each network is the largest at that cost."""

import math

import pytest
import torch
from torch import nn
from toys.fits import Net, fit
from toys.sweeps import trained

from ewnprune import (
    Finetune,
    WeightNormPruning,
    plot_curve,
    read_curve,
    remove_neurons,
    sparsity_curve,
    write_curve,
)
from lightning_modules import CNN, MLP

LEVELS = (0, 0.3, 0.5, 0.8)
NETS = {"mlp": lambda: MLP(hidden=(12, 8)), "cnn": lambda: CNN(channels=(6, 8))}


def sizes(network, x):
    """Parameters and multiply-accumulates, by hand."""
    macs = []
    layers = [m for m in network.modules() if isinstance(m, nn.Linear | nn.Conv2d)]
    handles = [
        layer.register_forward_hook(
            lambda layer, _, output: macs.append(output[0].numel() * layer.weight[0].numel())
        )
        for layer in layers
    ]
    with torch.no_grad():
        network(x[:1])
    for handle in handles:
        handle.remove()
    return {"parameters": sum(p.numel() for p in network.parameters()), "macs": sum(macs)}


@pytest.mark.parametrize("scope", ["layer", "global"])
@pytest.mark.parametrize("name", NETS)
def test_each_point_is_of_the_largest_network_at_that_cost(name, scope, batches):
    net, x = trained(NETS[name](), batches), batches[0][0]
    options = {"score": "norm_product", "scope": scope}
    widths = [m.weight.shape[0] for m in net.modules() if isinstance(m, nn.Linear | nn.Conv2d)][:-1]
    edges = {(j - 0.5) / n for n in (*widths, sum(widths)) for j in range(1, n + 1)}
    levels = {0.0, *edges, *(math.nextafter(edge, to) for edge in edges for to in (0.0, 1.0))}
    every = {}  # all networks there are, from the whole one down
    for level in sorted(level for level in levels if level < 1):
        small = remove_neurons(net, level, x, **options)
        every.setdefault(str(small), (sizes(small, x), small))
    assert len(every) > 10
    for cost in ("parameters", "macs"):
        dense = sizes(net, x)[cost]
        curve = sparsity_curve(
            net, batches, LEVELS, ("norm", "norm_product"), scope=scope, level_of=cost
        )
        for point in curve.where(score="norm_product"):
            allowed = (1 - point.sparsity) * dense * (1 + 1e-12)
            counts, small = next(one for one in every.values() if one[0][cost] <= allowed)
            assert point.macs.left == counts["macs"]
            assert point.parameters.left == counts["parameters"]
            with torch.no_grad():
                right = sum(int((small(x).argmax(1) == y).sum()) for x, y in batches)
            assert point.correct == right
            assert point.level_of == cost
        assert len({point.macs.left for point in curve}) >= len(LEVELS)


def test_single_weights_go_by_their_count(batches):
    net = MLP(hidden=(12, 8))
    curve = sparsity_curve(net, batches[:1], LEVELS, "magnitude", level_of="parameters")
    total = sum(p.numel() for p in net.parameters())
    for point in curve:
        # the whole of what can go is layers, so one more weight of one of them would be too many
        assert point.parameters.left <= (1 - point.sparsity) * total
        assert point.parameters.left >= (1 - point.sparsity) * total - 2


def test_biases_that_a_repair_brings_count(batches):
    net = nn.Sequential(
        nn.Flatten(), nn.Linear(784, 12, bias=False), nn.ReLU(), nn.Linear(12, 10, bias=False)
    ).eval()
    options = {"realize": "repair", "level_of": "parameters", "latency_seconds": 0.01}
    (point,) = sparsity_curve(net, batches[:1], (0.5,), **options)
    assert point.parameters.left == 794 * 5 + 10  # and not 794 * 6, with ten biases on top


def test_what_no_network_has_is_one_line(batches):
    with pytest.raises(ValueError, match="level_of='flops': expected 'units', 'parameters' or"):
        sparsity_curve(MLP(), batches, level_of="flops")
    net = MLP(hidden=(12, 8))
    with pytest.raises(ValueError, match=r"level 0\.9 of the MACs cannot be met: the smallest"):
        sparsity_curve(net, batches, (0.01, 0.9), level_of="macs", exclude="fc1")


def test_the_curve_says_what_its_levels_are_of(batches, tmp_path):
    net = MLP(hidden=(12, 8))
    curve = sparsity_curve(net, batches[:1], LEVELS, level_of="macs")
    assert "MACs removed" in " ".join(curve.table().split())
    figure = plot_curve(curve, tmp_path / "curve.png")
    assert figure.axes[0].get_xlabel() == "MACs removed (%)"
    for kind in ("csv", "json"):
        path = write_curve(curve, tmp_path / f"curve.{kind}")
        assert {point.level_of for point in read_curve(path)} == {"macs"}
    older = (tmp_path / "curve.csv").read_text().replace("level_of,", "").replace("macs,", "")
    (tmp_path / "older.csv").write_text(older)
    assert {point.level_of for point in read_curve(tmp_path / "older.csv")} == {"units"}
    both = curve + sparsity_curve(net, batches[:1], LEVELS)
    assert len(both.series()) == 2, "not to be taken for one curve"
    assert {"macs", "units"} <= set(both.table().split())


def test_the_callback_takes_levels_of_macs(tmp_path):
    pruning = WeightNormPruning(None, (0, 0.5, 0.8), level_of="macs")
    fit(tmp_path, Net(), pruning, max_epochs=1)
    assert {point.level_of for point in pruning.curve} == {"macs"}
    dense = 6 * 10 + 10 * 2
    lefts = {point.sparsity: point.macs.left for point in pruning.curve}
    assert lefts == {0: dense, 0.5: 8 * 5, 0.8: 8 * 2}
    with pytest.raises(ValueError, match="level_of='all'"):
        WeightNormPruning(None, level_of="all")
    with pytest.raises(ValueError, match="expected level_of='units', not 'macs'"):
        WeightNormPruning(None, level_of="macs", finetune=Finetune(1))
