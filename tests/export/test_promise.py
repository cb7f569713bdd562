"""Export holds what it was asked for, and passes on what the run was pruned with."""

import json
import math

import pytest
import pytorch_lightning as pl
import torch
import yaml
from torch import nn
from torch.utils.data import DataLoader, Dataset

from ewnprune import WeightNormPruning, sparsity_curve
from ewnprune.cli import main
from ewnprune.export import card, command
from ewnprune.export.trained import read_trained
from ewnprune.pruning.score_names import SCORE


class Heads(nn.Module):
    """Four heads of attention, of three dimensions each."""

    def __init__(self):
        super().__init__()
        self.num_heads = 4
        self.query, self.key, self.value = (nn.Linear(6, 12) for _ in range(3))
        self.out = nn.Linear(12, 6)

    def forward(self, x):
        shape = (*x.shape[:-1], self.num_heads, -1)
        q, k, v = (
            layer(x).view(shape).transpose(1, 2) for layer in (self.query, self.key, self.value)
        )
        mixed = nn.functional.scaled_dot_product_attention(q, k, v).transpose(1, 2)
        return self.out(mixed.flatten(2))


class Attentive(pl.LightningModule):
    def __init__(self):
        super().__init__()
        self.attention, self.head = Heads(), nn.Linear(6, 3)

    def forward(self, x):
        return self.head(self.attention(x.view(-1, 2, 3).repeat(1, 1, 2)).mean(1))


class Recurrent(pl.LightningModule):
    """Six numbers as three steps of two."""

    def __init__(self):
        super().__init__()
        self.lstm, self.head = nn.LSTM(2, 8, batch_first=True), nn.Linear(8, 3)

    def forward(self, x):
        return self.head(self.lstm(x.view(-1, 3, 2))[0][:, -1])


class Reader(pl.LightningModule):
    """Called by no one but `read`: its forward takes other arguments than a batch has."""

    def __init__(self, hidden: int = 20):
        super().__init__()
        self.first, self.second = nn.Linear(6, hidden), nn.Linear(hidden, 10)
        self.head = nn.Linear(10, 3)

    def forward(self, x, *, twice):
        hidden = torch.relu(self.second(torch.relu(self.first(x * twice))))
        return self.head(hidden)

    def training_step(self, batch, batch_idx):
        return nn.functional.cross_entropy(read(self, batch["x"]), batch["y"])

    def validation_step(self, batch, batch_idx):
        pass

    def configure_optimizers(self):
        return torch.optim.SGD(self.parameters(), 0.3)


def read(model, x):
    return model(x, twice=2)


def unpack(batch):
    return batch["x"], batch["y"]


class Named(Dataset):
    def __len__(self):
        return 90

    def __getitem__(self, index):
        generator = torch.Generator().manual_seed(index)
        x = torch.randn(6, generator=generator)
        return {"x": x, "y": int(x[0] > 0) + int(x[1] > 0)}


class Dicts(pl.LightningDataModule):
    def train_dataloader(self):
        return DataLoader(Named(), 30)

    def val_dataloader(self):
        return DataLoader(Named(), 40)


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    """A run whose callback has a forward, a batch, a scope and layers of its own."""
    folder = tmp_path_factory.mktemp("run")
    pl.seed_everything(0)
    pruning = WeightNormPruning(
        None, (0, 0.3, 0.6), exclude=["second"], scope="global", batch=unpack, forward=read
    )
    model = Reader()
    trainer = pl.Trainer(
        max_epochs=20, accelerator="cpu", logger=False, callbacks=[pruning],
        enable_progress_bar=False, enable_model_summary=False, default_root_dir=folder,
        enable_checkpointing=False, log_every_n_steps=1,
    )  # fmt: skip
    trainer.fit(model, datamodule=Dicts())
    trainer.save_checkpoint(folder / "checkpoints" / "last.ckpt")
    here = __name__
    prune = {
        "sparsities": [0, 0.3, 0.6], "exclude": ["second"], "scope": "global",
        "batch": f"{here}.unpack", "forward": f"{here}.read",
    }  # fmt: skip
    config = {"model": f"{here}.Reader", "data": f"{here}.Dicts", "prune": prune}
    (folder / "config.yaml").write_text(yaml.safe_dump(config))
    return folder


@pytest.fixture(autouse=True)
def _quick(monkeypatch):
    monkeypatch.setattr(card, "_SECONDS", 0.01)


def _told(folder):
    return json.loads((folder / "card.json").read_text())


def test_what_the_run_was_pruned_with_is_passed_on(run, tmp_path, capsys):
    words = ["export", str(run), "--sparsity=0.6", "--output", str(tmp_path / "small")]
    assert main(words) == 0, capsys.readouterr().err
    told = _told(tmp_path / "small")
    assert told["pruning"]["scope"] == "global"
    assert told["pruning"]["groups"] == {"first": {"left": 8, "total": 20}}
    assert {"kind": "left", "text": "second: left: excluded"} in told["pruning"]["notes"]
    assert {note["kind"] for note in told["pruning"]["notes"]} == {"removed", "left"}
    # accuracy of the file's weights, by hand, in float64
    weights = torch.load(tmp_path / "small" / "model.pt", weights_only=True)
    rows = [Named()[index] for index in range(90)]
    x = torch.stack([row["x"] for row in rows]).double() * 2
    y = torch.tensor([row["y"] for row in rows])
    for name in ("first", "second", "head"):
        x = x @ weights[f"{name}.weight"].double().T + weights[f"{name}.bias"].double()
        x = x if name == "head" else x.relu()
    right = int((x.argmax(1) == y).sum())
    assert told["accuracy"]["val"]["after"] == right / 90
    assert told["accuracy"]["val"]["samples"] == 90
    capsys.readouterr()


def test_accuracies_are_those_of_the_runs_curve(run, tmp_path, capsys):
    trained = read_trained(str(run))
    curve = sparsity_curve(
        trained.model, Dicts().val_dataloader(), (0, 0.6), SCORE, exclude=["second"],
        scope="global", batch=unpack, forward=read,
    )  # fmt: skip
    assert main(["export", str(run), "--sparsity=0.6", "--output", str(tmp_path / "s")]) == 0
    measured = _told(tmp_path / "s")["accuracy"]["val"]
    assert [measured["before"], measured["after"]] == [point.accuracy for point in curve]
    capsys.readouterr()


def test_the_number_that_stays_is_rounded_up(run, tmp_path, capsys):
    words = ["export", str(run), "--sparsity=0.6", "--round-to=16"]
    assert main([*words, "--output", str(tmp_path / "small")]) == 0, capsys.readouterr().err
    pruning = _told(tmp_path / "small")["pruning"]
    assert pruning["groups"] == {"first": {"left": 16, "total": 20}}
    assert pruning["round_to"] == 16
    capsys.readouterr()


def test_whole_heads_go_where_that_is_asked_for(tmp_path, capsys):
    torch.manual_seed(0)
    checkpoint = {"state_dict": Attentive().state_dict()}
    torch.save(checkpoint, tmp_path / "a.ckpt")
    config = {"model": f"{__name__}.Attentive", "data": f"{__name__}.Dicts"}
    config["prune"] = {"batch": f"{__name__}.unpack"}
    (tmp_path / "a.yaml").write_text(yaml.safe_dump(config))
    words = ["export", str(tmp_path / "a.ckpt"), "--run-config", str(tmp_path / "a.yaml")]
    words += ["--sparsity=0.5", "--heads=whole", "--output", str(tmp_path / "small")]
    assert main(words) == 0, capsys.readouterr().err
    told = _told(tmp_path / "small")
    assert told["tensors"]["attention.query.weight"] == [6, 6]
    assert told["pruning"]["heads"] == "whole"
    assert any("2 of 4 heads" in note["text"] for note in told["pruning"]["notes"])
    capsys.readouterr()


@pytest.mark.parametrize("form", ["state_dict", "onnx"])
@pytest.mark.filterwarnings("ignore:The tensor attributes .* were assigned during export")
def test_hidden_units_of_recurrent_layers_go(tmp_path, capsys, form):
    torch.manual_seed(0)
    torch.save({"state_dict": Recurrent().state_dict()}, tmp_path / "a.ckpt")
    config = {"model": f"{__name__}.Recurrent", "data": f"{__name__}.Dicts"}
    config["prune"] = {"batch": f"{__name__}.unpack"}
    (tmp_path / "a.yaml").write_text(yaml.safe_dump(config))
    words = ["export", str(tmp_path / "a.ckpt"), "--run-config", str(tmp_path / "a.yaml")]
    words += ["--sparsity=0.5", f"--format={form}", "--output", str(tmp_path / "small")]
    assert main(words) == 0, capsys.readouterr().err
    told = _told(tmp_path / "small")
    assert told["tensors"]["lstm.weight_hh_l0"] == [16, 4]
    assert told["pruning"]["neurons"] == {"lstm": {"before": 8, "after": 4}}
    assert told["macs"]["after"] == 3 * 16 * (2 + 4) + 4 * 3
    capsys.readouterr()


def test_no_more_is_lost_than_was_promised(run, tmp_path, capsys, monkeypatch):
    right = command.remove_with_notes
    words = ["export", str(run), "--max-drop=5", "--output", str(tmp_path / "small")]

    def broken(*args, **options):
        removal = right(*args, **options)
        with torch.no_grad():  # one class, whatever the input
            removal.model.head.weight.zero_()
            removal.model.head.bias.copy_(torch.tensor([1.0, 0.0, 0.0]))
        return removal

    monkeypatch.setattr(command, "remove_with_notes", broken)
    assert main(words) == 1
    out, err = capsys.readouterr()
    assert "the 5 points of --max_drop" in err and err.count("\n") == 1, err
    assert "written" not in out
    assert not list(tmp_path.iterdir())
    monkeypatch.setattr(command, "remove_with_notes", right)
    assert main(words) == 0, capsys.readouterr().err
    measured = _told(tmp_path / "small")["accuracy"]["val"]
    assert measured["before"] - measured["after"] <= 0.05 + 1e-9
    assert math.isfinite(measured["after"])
    capsys.readouterr()


@pytest.mark.parametrize(
    ("option", "said"),
    [
        ("--sparsity=90", "for 90.0 % write 0.9"),
        ("--sparsity=-1", "outside [0, 1)"),
        ("--round_to=0", "round_to=0: expected a whole number"),
        ("--heads=half", "--heads"),
        ("--score=size", "unknown score 'size'"),
        ("--max_drop=-1", "--max_drop -1"),
    ],
)
def test_options_that_do_not_fit_are_told_before_anything_is_read(option, said, capsys):
    level = [] if "sparsity" in option or "drop" in option else ["--sparsity=0.5"]
    assert main(["export", "nowhere", *level, option]) == 2
    err = capsys.readouterr().err
    assert said in err and err.count("\n") == 1, err
