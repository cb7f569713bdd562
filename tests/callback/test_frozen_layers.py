"""A fit with a frozen layer: it stays bit for bit as it is, and can be pruned and finetuned."""

import pytest
import pytorch_lightning as pl
import torch
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

from ewnprune import EWN, Finetune, WeightNormPruning
from ewnprune.callback.attachment import Attachment


class Net(pl.LightningModule):
    def __init__(self):
        super().__init__()
        self.net = nn.Sequential(
            nn.Linear(6, 8), nn.Tanh(), nn.Linear(8, 8), nn.Tanh(), nn.Linear(8, 2)
        )
        self.net[0].requires_grad_(False)

    def forward(self, x):
        return self.net(x)

    def training_step(self, batch, _):
        return nn.functional.cross_entropy(self(batch[0]), batch[1])

    validation_step = training_step

    def configure_optimizers(self):
        return torch.optim.SGD([p for p in self.parameters() if p.requires_grad], 0.1)


@pytest.mark.parametrize("finetune", [None, Finetune(1, 0.5)])
def test_a_frozen_layer_is_told_and_stays(tmp_path, capsys, finetune):
    model = Net()
    before = model.net[0].weight.clone()
    x = torch.randn(32, 6)
    data = DataLoader(TensorDataset(x, (x[:, 0] > 0).long()), 16, num_workers=0)
    pruning = WeightNormPruning(EWN(), (0, 0.5), scores=["norm_change"], finetune=finetune)
    trainer = pl.Trainer(
        accelerator="cpu", max_epochs=1, logger=False, default_root_dir=tmp_path, callbacks=pruning,
        enable_progress_bar=False, enable_model_summary=False, enable_checkpointing=False,
    )  # fmt: skip
    trainer.fit(model, data, data)
    assert "left    net.0: frozen" in capsys.readouterr().out
    after = model.net[0].weight
    assert isinstance(after, nn.Parameter) and not after.requires_grad
    stays = torch.ones_like(before, dtype=torch.bool) if finetune is None else after != 0
    assert stays.sum() == (48 if finetune is None else 24)  # half of the neurons were pruned
    assert torch.equal(after[stays], before[stays])
    assert len(pruning.curve) == (2 if finetune is None else 4)


def test_it_is_told_in_weight_space_too():
    selection = Attachment(EWN(), True, None, None).attach(Net())
    assert [*selection.chosen] == ["net.2"] and selection.left["net.0"] == "frozen"
