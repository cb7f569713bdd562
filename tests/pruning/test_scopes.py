"""Scopes and caps reach removal, masks, curves, the callback and the export."""

import json

import pytest
import torch
import yaml
from torch import nn
from toys.fits import Net, fit
from toys.networks import make, resnet18

from ewnprune import (
    WeightNormPruning,
    mask_neurons,
    remove_neurons,
    remove_with_notes,
    sparsity_curve,
)
from ewnprune.cli import main


def net():
    """Its first layer's weights are a thousand times smaller than its second's."""
    torch.manual_seed(0)
    layers = [nn.Linear(6, 20), nn.ReLU(), nn.Linear(20, 10), nn.ReLU(), nn.Linear(10, 2)]
    network = nn.Sequential(*layers).eval()
    with torch.no_grad():
        network[0].weight /= 1000
    return network


class Uneven(Net):
    def __init__(self):
        super().__init__(net().train(), lambda parameters: torch.optim.SGD(parameters, 1e-9))


def widths(network):
    return tuple(m.out_features for m in network.modules() if isinstance(m, nn.Linear))[:2]


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        ({"scope": "global"}, (5, 10)),
        ({"scope": "global", "max_per_layer": 0.5}, (10, 5)),
        ({"scope": "global", "max_per_layer": 0.6}, (8, 7)),
    ],
)
def test_a_cap_is_kept_everywhere(options, expected):
    x, y = torch.randn(8, 6), torch.randint(2, (8,))
    assert widths(remove_neurons(net(), 0.5, x, **options)) == expected
    masks = mask_neurons(net(), 0.5, x, **options)
    assert tuple(int(kept.sum()) for kept in masks.values()) == expected
    (point,) = sparsity_curve(net(), [(x, y)], (0.5,), **options)
    a, b = expected
    assert point.parameters.left == 7 * a + (a + 1) * b + (b + 1) * 2
    assert (point.scope, point.max_per_layer) == ("global", options.get("max_per_layer"))


def test_normalized_scores_spread_over_the_layers():
    x = torch.randn(8, 6)
    few, many = widths(remove_neurons(net(), 0.5, x, scope="normalized"))
    assert few + many == 15 and few > 5
    even = net()
    with torch.no_grad():
        even[0].weight *= 1000
    # a layer's scale says nothing, also beside one that it is not normalized by
    assert widths(remove_neurons(even, 0.5, x, scope="normalized")) == (few, many)


def test_layers_of_equal_structure_are_ranked_together():
    """Of ResNet-18 the inner convolutions of the blocks, by hand."""
    network, x = make(resnet18)
    removal = remove_with_notes(network, 0.4, x, scope="isomorphic", score="raw_norm")
    inner = [f"layer{i}.{j}.conv1" for i in range(1, 5) for j in range(2)]
    norms = {
        name: network.get_submodule(name).weight.detach().flatten(1).norm(dim=1) for name in inner
    }
    count = round(0.4 * sum(map(len, norms.values())))
    threshold = torch.cat([*norms.values()]).sort().values[count]
    left = {name: int((values >= threshold).sum()) for name, values in norms.items()}
    assert {name: removal.left[name][0] for name in inner} == left
    assert len(set(left.values())) > 4
    # the stream of each stage is another structure, with more or fewer layers in it
    others = {name: pair for name, pair in removal.left.items() if name not in inner}
    assert len(others) == 4
    assert all(abs(few - 0.6 * all_) < 0.3 * all_ for few, all_ in others.values())


def test_the_callback_and_the_export_of_its_run(tmp_path, capsys):
    pruning = WeightNormPruning(None, (0, 0.5), scope="global", max_per_layer=0.5)
    trainer = fit(tmp_path, Uneven(), pruning, max_epochs=1)
    assert pruning.curve.points[-1].neurons.left == 15
    assert pruning.curve.points[-1].parameters.left == 7 * 10 + 11 * 5 + 12
    trainer.save_checkpoint(tmp_path / "checkpoints" / "last.ckpt")
    prune = {"parametrization": None, "scope": "global", "max_per_layer": 0.5}
    config = {"model": f"{__name__}.Uneven", "data": "toys.data.Points", "prune": prune}
    (tmp_path / "config.yaml").write_text(yaml.safe_dump(config))
    words = ["export", str(tmp_path), "--sparsity=0.5", "--output", str(tmp_path / "small")]
    assert main(words) == 0, capsys.readouterr().err
    told = json.loads((tmp_path / "small" / "card.json").read_text())["pruning"]
    assert (told["scope"], told["max_per_layer"]) == ("global", 0.5)
    assert told["groups"] == {"0": {"left": 10, "total": 20}, "2": {"left": 5, "total": 10}}
    capsys.readouterr()
    with pytest.raises(ValueError, match="expected scope='global'"):
        WeightNormPruning(None, max_per_layer=0.5)
