"""A run of a model of transformers: trained under EWN, swept, and exported by the command."""

import json
import subprocess
import sys

import pytest
import pytorch_lightning as pl
import torch
import yaml
from torch.nn import functional as F
from torch.utils.data import DataLoader
from toys.transformer_models import KINDS, batch_of, spread, transformers

from ewnprune import EWN, WeightNormPruning
from ewnprune.cli import main
from ewnprune.export import card

READ = """
import sys, torch
from pathlib import Path
folder = Path(sys.argv[1])
network = torch.export.load(folder / "small" / "model.pt2").module()
batch = torch.load(folder / "batch.pt", weights_only=True)
torch.save(network(**batch), folder / "outputs.pt")
"""


class Finetuned(pl.LightningModule):
    """The model as it is; its own call is the module's."""

    def __init__(self):
        super().__init__()
        self.bert = KINDS["BERT"].build()

    def forward(self, **batch):
        return self.bert(**batch)

    def training_step(self, batch, _):
        return self(**batch).loss

    def validation_step(self, batch, _):
        pass

    def configure_optimizers(self):
        return torch.optim.SGD(self.parameters(), 0.1)


class Sentences(pl.LightningDataModule):
    def train_dataloader(self):
        torch.manual_seed(0)
        made = batch_of(KINDS["BERT"].build(), 40)
        rows = [{name: value[i] for name, value in made.items()} for i in range(40)]
        for row in rows:
            row["labels"] = row["input_ids"][0] % 3
        return DataLoader(rows, 8, collate_fn=_collate)

    val_dataloader = train_dataloader


def _collate(rows):
    return transformers.BatchEncoding({k: torch.stack([row[k] for row in rows]) for k in rows[0]})


def unpack(batch):
    inputs = {name: batch[name] for name in ("input_ids", "attention_mask")}
    return transformers.BatchEncoding(inputs), batch["labels"]


def _fit(folder, **options):
    pruning = WeightNormPruning(EWN(), (0, 0.5), batch=unpack, forward=spread, **options)
    trainer = pl.Trainer(
        max_epochs=1, accelerator="cpu", logger=False, callbacks=[pruning],
        enable_progress_bar=False, enable_model_summary=False, default_root_dir=folder,
        enable_checkpointing=False, log_every_n_steps=1,
    )  # fmt: skip
    model = Finetuned()
    trainer.fit(model, datamodule=Sentences())
    return trainer, model, pruning.curve


def test_a_fit_attaches_trains_and_sweeps(tmp_path):
    _, model, curve = _fit(tmp_path)
    dense, half = curve
    assert half.parameters.left < 0.5 * half.parameters.total and dense.total == 40
    assert {note.kind for note in curve.notes} == {"removed", "stays", "left"}
    model.eval()
    batches = [unpack(batch) for batch in Sentences().val_dataloader()]
    with torch.no_grad():
        losses = [F.cross_entropy(model(**inputs).logits, labels) for inputs, labels in batches]
    assert dense.loss == pytest.approx(float(torch.stack(losses).mean()), rel=1e-5)


@pytest.mark.slow
def test_the_smaller_network_of_a_run_is_read_elsewhere(tmp_path, capsys, monkeypatch):
    monkeypatch.setattr(card, "_SECONDS", 0.01)
    trainer, _, _ = _fit(tmp_path)
    trainer.save_checkpoint(tmp_path / "checkpoints" / "last.ckpt")
    here = __name__
    prune = {"batch": f"{here}.unpack", "forward": f"{here}.spread"}
    config = {"model": f"{here}.Finetuned", "data": f"{here}.Sentences", "prune": prune}
    (tmp_path / "config.yaml").write_text(yaml.safe_dump(config))
    words = ["export", str(tmp_path), "--sparsity=0.5", "--format=torch_export", "--heads=whole"]
    assert main([*words, "--output", str(tmp_path / "small")]) == 0, capsys.readouterr().err
    told = json.loads((tmp_path / "small" / "card.json").read_text())
    assert told["call"] == "network(**inputs)" and list(told["outputs"]) == ["logits"]
    assert list(told["inputs"]) == ["input_ids", "attention_mask"]
    inputs, labels = zip(*map(unpack, Sentences().val_dataloader()), strict=True)
    whole = {k: torch.cat([batch[k] for batch in inputs]) for k in inputs[0]}
    torch.save(whole, tmp_path / "batch.pt")
    words = [sys.executable, "-I", "-W", "ignore", "-c", READ, str(tmp_path)]
    done = subprocess.run(words, capture_output=True, text=True, cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    logits = torch.load(tmp_path / "outputs.pt", weights_only=True)["logits"]
    right = int((logits.argmax(1) == torch.cat(labels)).sum())
    assert told["accuracy"]["val"]["after"] == right / 40
    capsys.readouterr()
