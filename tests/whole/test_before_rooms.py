"""Files that an older version wrote are read: it kept its classes in other modules."""

from pathlib import Path

import torch
from torch import nn
from torch.utils.data import DataLoader, TensorDataset
from toys.fits import Net, make_trainer

from ewnprune import EWN, WeightNormPruning

OLD = Path(__file__).parents[1] / "data" / "trained_before_rooms.ckpt"


def test_a_checkpoint_from_before_the_modules_moved_is_gone_on_from(tmp_path):
    stored = torch.load(OLD, weights_only=True)
    assert stored["ewnprune"]["layers"] == {"net.0": "ewnprune.parametrizations.EWN"}
    x = torch.randn(32, 4, generator=torch.Generator().manual_seed(1))
    data = DataLoader(TensorDataset(x, x[:, :3].argmax(1)), 8)
    net = Net(nn.Sequential(nn.Linear(4, 6), nn.ReLU(), nn.Linear(6, 3)))
    trainer = make_trainer(tmp_path, WeightNormPruning(EWN(), (0, 0.5)), max_epochs=3)
    trainer.fit(net, data, data, ckpt_path=OLD, weights_only=True)
    # "final" is what the older version came to; other processors may round otherwise
    for key, expected in stored["final"].items():
        torch.testing.assert_close(net.state_dict()[key], expected, rtol=1e-6, atol=1e-7)
