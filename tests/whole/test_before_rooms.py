"""Files that an older version wrote are read: it kept its classes in other modules."""

from pathlib import Path

import pytorch_lightning as pl
import torch
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

from ewnprune import EWN, WeightNormPruning

OLD = Path(__file__).parents[1] / "data" / "trained_before_rooms.ckpt"


class _Net(pl.LightningModule):
    def __init__(self):
        super().__init__()
        self.net = nn.Sequential(nn.Linear(4, 6), nn.ReLU(), nn.Linear(6, 3))

    def training_step(self, batch, index):
        return nn.functional.cross_entropy(self.net(batch[0]), batch[1])

    def forward(self, x):
        return self.net(x)

    def validation_step(self, batch, index):
        pass

    def configure_optimizers(self):
        return torch.optim.SGD(self.parameters(), lr=0.1, momentum=0.9)


def test_a_checkpoint_from_before_the_modules_moved_is_gone_on_from(tmp_path):
    stored = torch.load(OLD, weights_only=True)
    assert stored["ewnprune"]["layers"] == {"net.0": "ewnprune.parametrizations.EWN"}
    x = torch.randn(32, 4, generator=torch.Generator().manual_seed(1))
    data = DataLoader(TensorDataset(x, x[:, :3].argmax(1)), 8)
    net = _Net()
    trainer = pl.Trainer(
        max_epochs=3,
        callbacks=[WeightNormPruning(EWN(), sparsities=(0, 0.5))],
        logger=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        enable_checkpointing=False,
        default_root_dir=tmp_path,
    )
    trainer.fit(net, data, data, ckpt_path=OLD, weights_only=True)
    # "final" is what the older version came to; other processors may round otherwise
    for key, expected in stored["final"].items():
        torch.testing.assert_close(net.state_dict()[key], expected, rtol=1e-6, atol=1e-7)
