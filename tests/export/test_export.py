"""The smaller network of a run as a file, read where nothing of this package is."""

import json
import math
import subprocess
import sys
from hashlib import sha256
from pathlib import Path
from types import SimpleNamespace

import pytest
import pytorch_lightning as pl
import torch
from torch import nn
from toys.commands import fails
from toys.data import Points
from toys.fits import TrainsOnly, make_trainer

from ewnprune import read_curve
from ewnprune.cli import main
from ewnprune.curve.curve import Curve
from ewnprune.curve.points import CurvePoint
from ewnprune.export import choosing, formats
from ewnprune.export.calling import Calling
from ewnprune.export.trained import read_trained
from lightning_modules import CNN, MNISTDataModule

FILES = {
    "state_dict": "model.pt",
    "torch_export": "model.pt2",
    "onnx": "model.onnx",
    "safetensors": "model.safetensors",
}

# what a user writes, in a Python where this package and Lightning cannot be imported
READ = {
    "state_dict": """
from torch import nn
network = nn.Sequential()
network.flatten = nn.Flatten()
network.fc1 = nn.Linear(784, {neurons})
network.relu = nn.ReLU()
network.fc2 = nn.Linear({neurons}, 10, bias=False)
network.load_state_dict(torch.load("model.pt", weights_only=True), strict=True)
outputs = network(x)
""",
    "safetensors": """
from safetensors.torch import load_file
weights = load_file("model.safetensors")
hidden = torch.relu(x.flatten(1) @ weights["fc1.weight"].T + weights["fc1.bias"])
outputs = hidden @ weights["fc2.weight"].T
""",
    "torch_export": """
outputs = torch.export.load("model.pt2").module()(x)
""",
    "onnx": """
from onnxruntime import InferenceSession
session = InferenceSession("model.onnx")
outputs = torch.from_numpy(session.run(["outputs"], {{"inputs": x.numpy()}})[0])
""",
}
BLOCKED = """
import sys
class Blocked:
    def find_spec(self, name, path=None, target=None):
        if name.split(".")[0] in {"ewnprune", "lightning_modules", "pytorch_lightning"}:
            raise ImportError("blocked: " + name)
sys.meta_path.insert(0, Blocked())
import torch
x = torch.load("x.pt", weights_only=True)
"""


def _export(run, output, *words):
    return main(["export", str(run), "--output", str(output), *words])


def test_a_run_of_a_study_is_exported_too(run, tmp_path, capsys):
    """It has the config that was asked for, a whole one of each attempt, and two checkpoints."""
    of_study = tmp_path / "none-seed=0"
    for attempt in ("fit_2", "fit_10"):
        (of_study / attempt).mkdir(parents=True)
    (of_study / "checkpoints").mkdir()
    (of_study / "config.yaml").write_text("seed_everything: 0\n")
    (of_study / "fit_2" / "config.yaml").write_text("seed_everything: 0\n")
    (of_study / "fit_10" / "config.yaml").write_text((run / "config.yaml").read_text())
    (checkpoint,) = (run / "checkpoints").glob("*.ckpt")
    for name in ("last", "final"):
        (of_study / "checkpoints" / f"{name}.ckpt").write_bytes(checkpoint.read_bytes())
    for which, given in (("a", of_study), ("b", of_study / "checkpoints" / "final.ckpt")):
        assert _export(given, tmp_path / which, "--sparsity=0.5") == 0, capsys.readouterr().err
        assert "/final.ckpt" in (tmp_path / which / "card.json").read_text()


@pytest.mark.parametrize(
    "name",
    [
        name if name == "state_dict" else pytest.param(name, marks=pytest.mark.slow)
        for name in FILES
    ],
)
def test_every_format_is_read_without_this_package(run, name, tmp_path, capsys):
    folder = tmp_path / "small"
    assert _export(run, folder, "--sparsity=0.5", "--format", name) == 0, capsys.readouterr().err
    assert {path.name for path in folder.iterdir()} == {FILES[name], "card.json", "README.md"}
    told = json.loads((folder / "card.json").read_text())
    assert told["sha256"] == sha256((folder / FILES[name]).read_bytes()).hexdigest()
    assert told["bytes"]["after"] == (folder / FILES[name]).stat().st_size < told["bytes"]["before"]
    # weights, and little more: 785 * 20 + 200 of four bytes
    assert told["bytes"]["after"] < 4 * 15_900 + 30_000
    # by hand, for 784-40-10 with biases in the hidden layer only
    assert told["parameters"] == {"before": 785 * 40 + 400, "after": 785 * 20 + 200}
    assert told["macs"] == {"before": 794 * 40, "after": 794 * 20}
    assert told["pruning"]["neurons"] == {"fc1": {"before": 40, "after": 20}}
    assert told["pruning"]["groups"] == {"fc1": {"left": 20, "total": 40}}
    # the run itself measured this level with a mask
    curve = read_curve(run / "sparsity_curve.csv")
    (masked,) = curve.where(score=told["pruning"]["score"], sparsity=0.5)
    assert round(told["accuracy"]["val"]["after"] * 5000) == masked.correct
    best = max(point.correct for point in curve.where(sparsity=0.5))
    assert masked.correct == best, "the better of the run's two scores"
    assert told["accuracy"]["test"]["samples"] == 10_000

    data = MNISTDataModule()
    data.setup()
    x = torch.cat([x for x, _ in data.test_dataloader()])
    y = torch.cat([y for _, y in data.test_dataloader()])
    torch.save(x, folder / "x.pt")
    code = BLOCKED + READ[name].format(neurons=20) + 'torch.save(outputs, "outputs.pt")'
    subprocess.run([sys.executable, "-c", code], cwd=folder, check=True)
    outputs = torch.load(folder / "outputs.pt", weights_only=True)
    # batches of another size round differently, which may turn a tie
    right = int((outputs.argmax(1) == y).sum())
    assert abs(right - round(told["accuracy"]["test"]["after"] * 10_000)) <= 1
    capsys.readouterr()


@pytest.mark.slow
def test_max_drop_takes_the_largest_level_that_validation_data_allow(run, tmp_path, capsys):
    curve = read_curve(run / "sparsity_curve.csv")
    for drop in (0, 1.5, 30):
        folder = tmp_path / f"{drop}"
        words = ["--max-drop", str(drop), "--format", "state_dict"]
        assert _export(run, folder, *words) == 0, capsys.readouterr().err
        told = json.loads((folder / "card.json").read_text())
        levels = {}
        for score in ("norm", "norm_product"):
            points = sorted(curve.where(score=score), key=lambda point: point.sparsity)
            allowed = [p.correct >= points[0].correct - drop / 100 * 5000 for p in points]
            first_bad = allowed.index(False) if False in allowed else len(points)
            levels[score] = points[first_bad - 1].sparsity
        assert (
            told["pruning"]["sparsity"] == max(levels.values()) == levels[told["pruning"]["score"]]
        )
        lost = told["accuracy"]["val"]["before"] - told["accuracy"]["val"]["after"]
        assert lost <= drop / 100 + 1e-9
    assert "validation" in told["pruning"]["chosen"]
    out = capsys.readouterr().out
    assert "written:" in out and str(folder / "model.pt") in out


@pytest.mark.parametrize(("accuracy", "taken"), [(0.92, "norm_product"), (0.9, "norm")])
def test_of_scores_that_reach_as_far_the_better_is_taken(monkeypatch, accuracy, taken):
    """And of two that are as good the one named first."""
    points = [
        CurvePoint(score=score, sparsity=level, accuracy=value)
        for score, half in {"norm": 0.9, "norm_product": accuracy}.items()
        for level, value in {0.0: 0.93, 0.5: half, 0.8: 0.5}.items()
    ]
    monkeypatch.setattr(choosing, "_curve", lambda *_: Curve(tuple(points)))
    run = SimpleNamespace(model=None, pruning=SimpleNamespace(sparsities=(0.5, 0.8)))
    found = choosing.choose(run, object(), ["norm", "norm_product"], None, 5.0, {})
    assert found == (taken, 0.5, "score and level, within 5 points, on validation data")


def test_a_score_is_taken_and_the_output_lies_in_the_run(run, capsys):
    words = [str(run), "--sparsity=0.9", "--score=norm"]
    assert main(["export", *words]) == 0, capsys.readouterr().err
    folder = run / "export-state_dict-0.9"
    assert json.loads((folder / "card.json").read_text())["pruning"]["score"] == "norm"
    trained = read_trained(str(run))
    norms = trained.model.network.fc1.weight.detach().norm(dim=1)
    largest = norms.argsort(descending=True)[:4].sort().values
    weights = torch.load(folder / "model.pt", weights_only=True)
    assert weights["fc1.weight"].equal(trained.model.network.fc1.weight[largest])
    assert weights["fc2.weight"].equal(trained.model.network.fc2.weight[:, largest])
    assert "there already" in fails(capsys, "export", *words)
    assert not [path for path in run.iterdir() if path.name.startswith(".")]


@pytest.mark.slow
def test_a_convolutional_network_is_written_with_any_batch_size(tmp_path):
    network, x = CNN(channels=(4, 6)).eval(), torch.randn(1, 1, 28, 28)
    for name, file in FILES.items():
        kind = formats.find_format(name)
        kind.write(Calling(network, x), tmp_path / file)
        loaded = kind.read(tmp_path / file, Calling(network, x))
        for size in (1, 5):
            x = torch.randn(size, 1, 28, 28)
            torch.testing.assert_close(loaded(x), network(x), rtol=1e-4, atol=1e-5)


class TwoParts(TrainsOnly):
    """Its forward pass is more than that of one child."""

    def __init__(self):
        super().__init__(nn.Identity())
        self.encoder = nn.Linear(6, 8)
        self.head = nn.Linear(8, 3)

    def forward(self, x):
        return self.head(torch.relu(self.encoder(x)))


class Doubled(Points):
    val_dataloader = pl.LightningDataModule.val_dataloader  # there is none

    def on_after_batch_transfer(self, batch, dataloader_idx):
        return batch[0] * 2, batch[1]


@pytest.mark.slow
def test_a_model_and_data_of_the_users_own_without_our_callback(tmp_path, capsys, monkeypatch):
    monkeypatch.chdir(tmp_path)
    trainer = make_trainer(None, max_epochs=1)
    model = TwoParts()
    trainer.fit(model, datamodule=Doubled())
    trainer.save_checkpoint("plain.ckpt")
    Path("mine.yaml").write_text(
        f"model: {{class_path: {__name__}.TwoParts}}\ndata: {{class_path: {__name__}.Doubled}}\n"
    )
    monkeypatch.setitem(sys.modules, __name__, sys.modules[TwoParts.__module__])
    words = ["plain.ckpt", "--run-config=mine.yaml", "--sparsity=0.75"]
    for name in ("torch_export", "onnx", "state_dict"):
        assert main(["export", *words, f"--format={name}"]) == 0, capsys.readouterr().err
        told = json.loads(Path(f"export-{name}-0.75/card.json").read_text())
        assert told["parameters"]["after"] == 7 * 2 + 3 * 3
        assert told["source"]["module"] == ""
        assert list(told["accuracy"]) == ["test"]
    x, _ = next(iter(Doubled().train_dataloader()))
    loaded = torch.export.load("export-torch_export-0.75/model.pt2").module()
    assert loaded(x * 2).shape == (4, 3)
    assert math.isfinite(told["accuracy"]["test"]["after"])
    kept = model.encoder.weight.norm(dim=1).argsort(descending=True)[:2].sort().values
    state = torch.load("export-state_dict-0.75/model.pt", weights_only=True)
    assert state["encoder.weight"].equal(model.encoder.weight[kept].detach())
    capsys.readouterr()
