"""Each layer pruned alone, in one pass: what removing from that layer only gives."""

import json
from pathlib import Path

import pytest
import torch
from torch import nn
from toys.fits import Net, fit
from toys.networks import Residual
from toys.sweeps import trained

from ewnprune import Curve, CurvePoint, plot_heat_map, read_curve, remove_neurons, sparsity_curve
from ewnprune.cli import main
from lightning_modules import CNN, MLP

LEVELS = (0, 0.3, 0.6, 0.9)


class Toy(nn.Module):
    """A residual, whose two layers are a group, between others."""

    def __init__(self):
        super().__init__()
        self.flat, self.residual = nn.Linear(784, 3), Residual()
        self.residual.head, self.head = nn.Linear(4, 12), nn.Linear(12, 10)

    def forward(self, x):
        return self.head(self.residual(self.flat(x.flatten(1)).relu()).relu())


NETS = {
    "mlp": (lambda: MLP(hidden=(14, 9)), {"fc1": ["fc1"], "fc2": ["fc2"]}),
    "cnn": (lambda: CNN(channels=(5, 8)), {"conv1": ["conv1"], "conv2": ["conv2"]}),
    "residual": (
        Toy,
        {
            "flat": ["flat"],
            "residual.first": ["residual.first", "residual.second"],
            "residual.head": ["residual.head"],
        },
    ),
}


@pytest.mark.parametrize("scope", ["layer", "global"])
@pytest.mark.parametrize("name", NETS)
def test_it_is_what_removal_from_that_layer_alone_gives(name, scope, batches):
    build, groups = NETS[name]
    net, passes = trained(build(), batches), []

    class Loader:
        def __iter__(self):
            passes.append(1)
            return iter(batches)

    scores = ("norm", "norm_product")
    curve = sparsity_curve(net, Loader(), LEVELS, scores, scope=scope, per_layer=True)
    assert len(passes) == 1
    assert len(curve) == len(scores) * len(groups) * len(LEVELS)
    assert len(curve.series()) == len(scores) * len(groups)
    for score in scores:
        for layer, members in groups.items():
            for point in curve.where(score=score, layer=layer):
                assert point.scope == "layer"
                small = remove_neurons(
                    net, point.sparsity, batches[0][0], score=score, layers=members
                )
                assert point.parameters.left == sum(p.numel() for p in small.parameters())
                with torch.no_grad():
                    right = sum(int((small(x).argmax(1) == y).sum()) for x, y in batches)
                assert point.correct == right
    assert len({point.correct for point in curve}) > 3


def test_single_weights_of_one_layer(batches):
    net = trained(MLP(hidden=(14, 9)), batches)
    curve = sparsity_curve(net, batches, LEVELS, "magnitude", per_layer=True)
    assert [p.layer for p in curve] == ["fc1"] * 4 + ["fc2"] * 4
    for point in curve:
        layer = net.get_submodule(point.layer)
        assert point.weights.total == layer.weight.numel()
        assert point.neurons.total == layer.out_features
    for point in curve.where(sparsity=0.6):
        state = {key: value.clone() for key, value in net.state_dict().items()}
        weight = state[f"{point.layer}.weight"]
        gone = weight.abs().flatten().argsort()[: round(0.6 * weight.numel())]
        weight.view(-1)[gone] = 0
        other = MLP(hidden=(14, 9)).eval()
        other.load_state_dict(state)
        with torch.no_grad():
            assert point.correct == sum(int((other(x).argmax(1) == y).sum()) for x, y in batches)


def test_levels_of_macs_are_refused_beside(batches):
    with pytest.raises(ValueError, match="per_layer=True prunes layers alone"):
        sparsity_curve(MLP(), batches, per_layer=True, level_of="macs")


def heat(rows, **fields):
    return Curve(
        tuple(
            CurvePoint(layer=layer, sparsity=level, accuracy=accuracy, loss=1 - accuracy, **fields)
            for layer, values in rows.items()
            for level, accuracy in zip((0, 0.5, 0.9), values, strict=True)
        )
    )


ROWS = {"fc1": (0.9, 0.8, 0.1), "a.very.long.name.of.a.layer.somewhere": (0.9, 0.92, 0.9)}


def test_the_heat_map_says_what_is_lost(tmp_path):
    curve = heat(ROWS, score="norm")
    figure = plot_heat_map(curve, tmp_path / "map.png", tmp_path / "map.svg")
    axes, bar = figure.axes
    assert [t.get_text() for t in axes.get_yticklabels()] == [
        "fc1", "....long.name.of.a.layer.somewhere",
    ]  # fmt: skip
    assert [t.get_text() for t in axes.get_xticklabels()] == ["50", "90"]
    assert [text.get_text() for text in axes.texts] == ["10", "80", "-2", "0"]
    assert bar.get_ylabel() == "points of accuracy lost"
    loss = plot_heat_map(curve, measure="loss")
    assert [text.get_text() for text in loss.axes[0].texts] == ["0.1", "0.8", "-0.02", "0"]
    both = plot_heat_map(curve + heat(ROWS, score="random"))
    assert [axes.get_title() for axes in both.axes[:2]] == ["norm", "random"]
    assert (tmp_path / "map.png").stat().st_size > 5000
    first = (tmp_path / "map.svg").read_bytes()
    plot_heat_map(curve, tmp_path / "map.svg")
    assert (tmp_path / "map.svg").read_bytes() == first


def test_curves_that_are_none_per_layer_are_refused():
    with pytest.raises(ValueError, match="not one per layer: take it with sparsity_curve"):
        plot_heat_map(heat({"": (0.9, 0.8, 0.1)}))
    with pytest.raises(ValueError, match="the dense network was not measured"):
        plot_heat_map(Curve(tuple(point for point in heat(ROWS) if point.sparsity)))


def test_several_curves_of_one_layer_are_refused():
    curves = heat(ROWS, split="train") + heat(ROWS, split="val")
    for take in (plot_heat_map, Curve.sensitivity):
        with pytest.raises(ValueError, match=r"2 series \(split in \['train', 'val'\]\): choose"):
            take(curves)


def test_the_command_writes_csv_figure_and_logs(tmp_path, capsys, monkeypatch):
    monkeypatch.chdir(tmp_path)
    trainer = fit(tmp_path, Net(), max_epochs=1)
    trainer.save_checkpoint(tmp_path / "last.ckpt")
    words = [
        *("sweep", "--ckpt_path=last.ckpt", "--per_layer", "--model=toys.fits.Net"),
        *("--data=toys.data.Points", "--prune.sparsities=[0,0.5]", "--prune.layers=['*']"),
        *("--trainer.accelerator=cpu", "--trainer.enable_progress_bar=false"),
    ]
    assert main(words) == 0, capsys.readouterr().err
    names = {path.name for path in tmp_path.iterdir()}
    assert names == {
        "last.ckpt",
        *(f"sensitivity.{kind}" for kind in ("csv", "json", "png", "svg")),
    }
    curve = read_curve("sensitivity.csv")
    assert {(p.layer, p.sparsity) for p in curve} == {("net.0", 0), ("net.0", 0.5)}
    assert json.loads(Path("sensitivity.json").read_text())["points"][0]["layer"] == "net.0"
    assert "sensitivity.{csv,json,png,svg}" in capsys.readouterr().out
    # and to a logger that is asked for
    assert main([*words, "--prune.scores=[norm]", "--trainer.logger=CSVLogger"]) == 0
    (metrics,) = tmp_path.glob("*/*/metrics.csv")
    assert "prune/val_acc/norm/net.0" in metrics.read_text()
