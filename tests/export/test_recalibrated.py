"""The network of a run with BatchNorm is written with statistics of its own."""

import json
import sys

import pytest
import torch
from torch.utils.data import DataLoader
from toys.data import points

from ewnprune import read_curve
from ewnprune.callback.holding import pruning_masks
from ewnprune.cli import main
from ewnprune.export.trained import read_trained
from ewnprune.pruning.choice import Choice

FIT = [
    "fit",
    "--seed_everything=3",
    "--model=normed_classes.Normed",
    "--data=normed_classes.Shuffled",
    "--prune.sparsities=[0, 0.5]",
    "--prune.recalibrate=6",
    "--trainer.accelerator=cpu",
    "--trainer.max_epochs=2",
    "--trainer.enable_progress_bar=false",
    "--trainer.enable_model_summary=false",
]


CLASSES = """
from torch import nn
from torch.utils.data import DataLoader
from toys import data, fits

class Normed(fits.Net):
    def __init__(self):
        layers = nn.Linear(6, 10), nn.BatchNorm1d(10), nn.ReLU(), nn.Linear(10, 2)
        super().__init__(nn.Sequential(*layers))

class Shuffled(data.Points):
    def train_dataloader(self):
        return DataLoader(data.points(), 8, shuffle=True)
"""


@pytest.fixture
def run(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "normed_classes.py").write_text(CLASSES)
    monkeypatch.syspath_prepend(tmp_path)
    assert main(FIT) == 0
    yield tmp_path / "runs" / "version_0"
    sys.modules.pop("normed_classes", None)


def _export(run, output, *words):
    return main(["export", str(run), "--sparsity=0.5", f"--output={output}", *words])


def test_the_file_has_statistics_of_the_smaller_network(run, tmp_path, capsys):
    assert _export(run, tmp_path / "one") == 0, capsys.readouterr().err
    card = json.loads((tmp_path / "one" / "card.json").read_text())
    (note,) = [note["text"] for note in card["pruning"]["notes"] if note["kind"] == "statistics"]
    assert "on 6 training batches (48 samples)" in note
    weights = torch.load(tmp_path / "one" / "model.pt", weights_only=True)
    # by hand: the layer before the BatchNorm reads the data themselves
    torch.manual_seed(3)
    drawn = [x for x, _ in DataLoader(points(), 8, shuffle=True)][:6]
    hidden = [
        (x.double() @ weights["0.weight"].double().T + weights["0.bias"].double()) for x in drawn
    ]
    mean = torch.stack([h.mean(0) for h in hidden]).mean(0)
    variance = torch.stack([h.var(0) for h in hidden]).mean(0)
    torch.testing.assert_close(weights["1.running_mean"].double(), mean, rtol=1e-5, atol=1e-6)
    torch.testing.assert_close(weights["1.running_var"].double(), variance, rtol=1e-5, atol=1e-6)
    # the run's own curve is of networks with these statistics
    curve = read_curve(run / "sparsity_curve.csv")
    point = max(curve.where(sparsity=0.5), key=lambda point: point.correct)
    assert round(card["accuracy"]["val"]["after"] * 40) == point.correct
    assert _export(run, tmp_path / "two") == 0
    again = torch.load(tmp_path / "two" / "model.pt", weights_only=True)
    assert all(torch.equal(value, again[key]) for key, value in weights.items())


def test_neurons_that_go_at_random_go_by_the_seed_of_the_run(run, tmp_path, capsys):
    assert _export(run, tmp_path / "one", "--score=random") == 0, capsys.readouterr().err
    weights = torch.load(tmp_path / "one" / "model.pt", weights_only=True)
    model = read_trained(str(run)).model
    x = points().tensors[0][:4]
    stay = pruning_masks(model, 0.5, x, score="random", choice=Choice(seed=3))["net.0.weight"].any(
        1
    )
    assert torch.equal(weights["0.weight"], model.net[0].weight[stay])


def test_a_sweep_of_the_checkpoint_has_them_too(run, capsys):
    (checkpoint,) = (run / "checkpoints").glob("*.ckpt")
    words = [word for word in FIT[1:] if "max_epochs" not in word]
    assert main(["sweep", *words, f"--ckpt_path={checkpoint}"]) == 0, capsys.readouterr().err
    swept = read_curve(run / "sparsity_curve_1.csv")
    fitted = read_curve(run / "sparsity_curve.csv")
    assert [p.correct for p in swept] == [p.correct for p in fitted]
    assert "estimated anew" in capsys.readouterr().out
