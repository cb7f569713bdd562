"""A run whose inputs are pruned: its curve, and the network that picks what it reads."""

import json
import re
import subprocess
import sys

import numpy as np
import pytest
import torch
from matplotlib.image import imread
from toys.data import points

from ewnprune import read_curve, remove_neurons, sparsity_curve
from ewnprune.cli import main
from ewnprune.export.features import draw_features
from ewnprune.export.trained import read_trained
from ewnprune.pruning.inputs import Features

CLASSES = """
from torch import nn
from torch.utils.data import DataLoader, TensorDataset
from toys import data, fits

class Small(fits.Net):
    def __init__(self):
        layers = nn.Flatten(), nn.Linear(6, 10), nn.ReLU(), nn.Linear(10, 2)
        super().__init__(nn.Sequential(*layers))

class Images(data.Points):
    feature_names = [f"pixel_{i}" for i in range(6)]

    def train_dataloader(self):
        x, y = data.points(256).tensors
        return DataLoader(TensorDataset(x.view(-1, 1, 2, 3), y), 8, shuffle=True)

    def val_dataloader(self):
        x, y = data.points(40, 1).tensors
        return DataLoader(TensorDataset(x.view(-1, 1, 2, 3), y), 8)

    test_dataloader = val_dataloader

class TooFew(Images):
    feature_names = ["one"]
"""
FIT = [
    "fit",
    "--model=input_classes.Small",
    "--data=input_classes.Images",
    "--prune.inputs=true",
    "--prune.scores=[norm]",
    "--prune.sparsities=[0, 0.5, 0.7]",
    "--trainer.accelerator=cpu",
    "--trainer.max_epochs=4",
    "--trainer.enable_progress_bar=false",
    "--trainer.enable_model_summary=false",
]
BLOCKED = """
import sys
class Blocked:
    def find_spec(self, name, path=None, target=None):
        if name.split(".")[0] in {"ewnprune", "lightning_modules", "pytorch_lightning"}:
            raise ImportError("blocked: " + name)
sys.meta_path.insert(0, Blocked())
import torch
from torch import nn
inputs = torch.load("x.pt", weights_only=True)
"""
BUILD = """
network = nn.Sequential(nn.Flatten(), SelectLinear(3, 10), nn.ReLU(), nn.Linear(10, 2))
"""
FILES = {"state_dict": "model.pt", "safetensors": "model.safetensors"}
FILES |= {"torch_export": "model.pt2", "onnx": "model.onnx"}


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    folder = tmp_path_factory.mktemp("inputs")
    (folder / "input_classes.py").write_text(CLASSES)
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        patch.syspath_prepend(folder)
        assert main(FIT) == 0
        yield folder / "runs" / "version_0"
        sys.modules.pop("input_classes", None)


def _export(run, output, *words):
    return main(["export", str(run), f"--output={output}", "--inputs=true", *words])


def _kept(run, count):
    """The pixels of the highest scores, by NumPy, over the training batches of the run."""
    trained = read_trained(str(run))
    weight = trained.model.net[1].weight.detach().double().numpy()
    data = np.concatenate([x.double().numpy() for x, _ in trained.training_batches(always=True)])
    score = np.linalg.norm(weight, axis=0) * data.reshape(len(data), 6).std(0)
    return sorted(int(i) for i in np.argsort(score)[-count:])


def test_the_curve_of_a_fit_and_of_a_sweep_is_of_inputs(run, capsys):
    curve = read_curve(run / "sparsity_curve.csv")
    assert [(p.unit, p.inputs.left) for p in curve] == [("inputs", 6), ("inputs", 3), ("inputs", 2)]
    assert read_curve(run / "sparsity_curve.json").points == curve.points
    (checkpoint,) = run.glob("checkpoints/*.ckpt")
    words = [word for word in FIT[1:] if "max_epochs" not in word]
    assert main(["sweep", *words, f"--ckpt_path={checkpoint}"]) == 0, capsys.readouterr().err
    swept = read_curve(run / "sparsity_curve_1.csv")
    assert [p.correct for p in swept] == [p.correct for p in curve]
    assert "inputs removed" in capsys.readouterr().out


@pytest.mark.parametrize(
    "name",
    ["state_dict", pytest.param("onnx", marks=pytest.mark.slow)],  # which goes by torch.export
)
def test_a_fresh_process_gives_the_file_whole_inputs(run, name, tmp_path, capsys):
    folder = tmp_path / "small"
    assert _export(run, folder, "--sparsity=0.5", f"--format={name}") == 0, capsys.readouterr().err
    written = {FILES[name], "card.json", "README.md", "features.png"}
    assert {path.name for path in folder.iterdir()} == written
    card = json.loads((folder / "card.json").read_text())
    kept = _kept(run, 3)
    assert card["pruning"]["unit"] == "inputs"
    assert card["pruning"]["groups"] == {"inputs": {"left": 3, "total": 6}}
    assert card["features"] == {
        "left": 3,
        "total": 6,
        "shape": [1, 2, 3],
        "indices": kept,
        "layers": {"1": "Linear"},
        "names": [f"pixel_{i}" for i in kept],
    }
    assert card["parameters"] == {"before": 92, "after": 62}
    readme = (folder / "README.md").read_text()
    assert "50 % of its inputs removed" in readme and "features.png" in readme
    assert all(rf"- pixel\_{i}" in readme for i in kept)
    (code,) = re.findall(r"```python\n(.*?)```", readme, re.DOTALL)
    if "network.load_state_dict" in code:  # the class is there, the sizes are the reader's to know
        place = code.index("weights =") if "weights =" in code else code.index("network.load")
        code = code[:place] + BUILD + code[place:]
    if name == "onnx":
        code = code.replace(", inputs)", ", {'inputs': inputs.numpy()})[0]")
        code += "\noutputs = torch.from_numpy(outputs)"
    x = points(30, 7).tensors[0].view(-1, 1, 2, 3)
    gone = [i for i in range(6) if i not in kept]
    x.view(30, 6)[15:, gone] = 1e5  # which nothing reads
    torch.save(x, folder / "x.pt")
    code = BLOCKED + code + '\ntorch.save(outputs, "outputs.pt")'
    subprocess.run([sys.executable, "-c", code], cwd=folder, check=True)
    trained = read_trained(str(run))
    zeroed = x.clone()
    zeroed.view(30, 6)[:, gone] = 0
    with torch.no_grad():
        expected = trained.model(zeroed)
    outputs = torch.load(folder / "outputs.pt", weights_only=True)
    torch.testing.assert_close(outputs, expected, rtol=1e-4, atol=1e-5)


def test_what_is_chosen_on_validation_data_or_by_a_budget(run, tmp_path, capsys):
    assert _export(run, tmp_path / "one", "--max_drop=100") == 0, capsys.readouterr().err
    card = json.loads((tmp_path / "one" / "card.json").read_text())
    assert card["features"]["indices"] == _kept(run, 2)
    assert _export(run, tmp_path / "two", "--parameters=62") == 0, capsys.readouterr().err
    card = json.loads((tmp_path / "two" / "card.json").read_text())
    assert card["features"]["indices"] == _kept(run, 3)
    curve = read_curve(run / "sparsity_curve.csv")
    assert round(card["accuracy"]["val"]["after"] * 40) == curve.points[1].correct


def test_a_fit_that_finetunes_holds_what_reads_them_at_zero(run, capsys):
    words = [*FIT, "--prune.finetune.epochs=1", "--prune.finetune.sparsity=0.5"]
    assert main(words) == 0, capsys.readouterr().err
    tuned = sorted(run.parent.iterdir())[-1]
    weight = read_trained(str(tuned)).model.net[1].weight
    assert int((weight.detach() != 0).any(0).sum()) == 3
    curve = read_curve(tuned / "sparsity_curve.csv").where(method="EWN, finetuned at 0.5")
    assert [point.inputs.left for point in curve] == [3, 3, 2]


def test_bad_input_is_told_in_one_line(run, tmp_path, capsys):
    config = (
        (run / "config.yaml").read_text().replace("input_classes.Images", "input_classes.TooFew")
    )
    (tmp_path / "other.yaml").write_text(config)
    for words, message in (
        (["--score=magnitude", "--sparsity=0.5"], "ranks single weights"),
        (["--heads=dims", "--sparsity=0.5"], "inputs=True with heads='dims'"),
        (
            ["--sparsity=0.5", f"--run_config={tmp_path / 'other.yaml'}"],
            "has 1 names: expected one",
        ),
    ):
        assert _export(run, tmp_path / "small", *words) in (1, 2)
        err = capsys.readouterr().err
        assert message in err and err.count("\n") == 1, err
    assert not (tmp_path / "small").exists()


def test_the_python_of_it_is_the_command(run):
    trained = read_trained(str(run))
    x, _ = next(iter(trained.batches("val")))
    training = list(trained.training_batches(always=True))
    small = remove_neurons(trained.model, 0.5, x, inputs=True, recalibrate=training)
    assert small.net[1].input_index.tolist() == _kept(run, 3)
    curve = sparsity_curve(
        trained.model, trained.batches("val"), (0.5,), inputs=True, recalibrate=training
    )
    assert curve.points[0].correct == read_curve(run / "sparsity_curve.csv").points[1].correct


def test_the_picture_shows_which_pixels(tmp_path):
    kept = [0, 5, 7, 20]
    assert draw_features(Features((1, 4, 6), tuple(kept)), tmp_path / "one.png")
    assert not draw_features(Features((24,), tuple(kept)), tmp_path / "none.png")
    assert not (tmp_path / "none.png").exists()
    image = imread(tmp_path / "one.png")[..., :3]
    blue = (image[..., 2] - image[..., 0]) > 0.3
    rows, columns = np.nonzero(blue)
    # pixel 0 is in the first row and column, pixel 20 in the last row, pixel 5 in the last column
    height, width = (rows.max() + 1 - rows.min()) / 4, (columns.max() + 1 - columns.min()) / 6
    shown = {  # by the middle of each dot
        (int((r + 0.5 - rows.min()) / height), int((c + 0.5 - columns.min()) / width))
        for r, c in zip(rows, columns, strict=True)
    }
    assert shown == {(i // 6, i % 6) for i in kept}
