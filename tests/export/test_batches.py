"""What an export measures on: the batches of the run, as its Trainer gave them to the model."""

import os
from pathlib import Path

import pytest
import torch
from pytorch_lightning.utilities import CombinedLoader
from torch import nn
from toys.data import Points, loader
from toys.fits import Net, make_trainer

from ewnprune import WeightNormPruning
from ewnprune.export.batches import Batches
from ewnprune.export.calling import Calling
from ewnprune.export.choosing import accuracies
from ewnprune.export.command import _network_of
from ewnprune.export.trained import Trained
from ewnprune.export.writing import new_folder


class Scales(Net):
    """Normalizes on the device, and asks as Lightning's documentation has it."""

    def on_after_batch_transfer(self, batch, dataloader_idx):
        x, y = batch
        assert self.trainer.lightning_module is self
        scale = self.trainer.datamodule.scale
        return (x if self.trainer.training else (x + 3) * scale), y


class Shifts(Points):
    def on_after_batch_transfer(self, batch, dataloader_idx):
        return batch[0] + 1, batch[1]

    def transfer_batch_to_device(self, batch, device, dataloader_idx):
        return 2 * batch[0].to(device), batch[1].to(device)


class Several(Points):
    def __init__(self, loaders):
        super().__init__()
        self.loaders = loaders

    def val_dataloader(self):
        return self.loaders


@pytest.mark.filterwarnings("ignore:You have overridden `on_after_batch_transfer` in `LightningMod")
def test_accuracy_is_that_of_the_run_where_the_model_changes_its_batches(tmp_path):
    model, data, pruning = Scales(), Points(), WeightNormPruning(None, (0, 0.5), ("norm",))
    data.scale = 10
    trainer = make_trainer(tmp_path, pruning)
    trainer.validate(model, datamodule=data, verbose=False)
    trained = Trained(model.eval(), data, pruning, Path("config"), Path("ckpt"), 1, 1, 0, {})
    batches = trained.batches("val")
    found = accuracies(trained, {"before": model}, batches, {"layers": None, "exclude": None})
    assert found["before"] == pruning.curve.points[0].accuracy
    (x, _), *_ = batches
    (plain, _), *_ = data.val_dataloader()
    assert torch.equal(x, (plain + 3) * data.scale)
    (x, _), *_ = Batches.of(data, model, "train")
    assert torch.equal(x, plain)
    with pytest.raises(RuntimeError, match="not attached"):  # once the batches are there
        _ = model.trainer


def test_hooks_of_the_data_come_before_those_of_the_model():
    (plain, _), *_ = Points().val_dataloader()
    (x, _), *_ = Batches.of(Shifts(), Scales(), "val")
    assert torch.equal(x, 2 * plain + 1)


@pytest.mark.parametrize("make", [dict, CombinedLoader, lambda named: list(named.values())])
def test_of_several_loaders_the_first_is_taken_as_in_the_run(make):
    data = Several(make({"clean": loader(40), "noisy": loader(40, 1)}))
    (x, _), *_ = Batches.of(data, Net(), "val")
    assert torch.equal(x, next(iter(loader(40)))[0])
    assert Batches.of(Several(make({})), Net(), "val") is None


class Inner(nn.Module):
    def __init__(self):
        super().__init__()
        self.first = nn.Linear(6, 2)

    def forward(self, x):
        torch._assert(x.shape[1:] == (6,), "expected six numbers a sample")
        return self.first(x)


class Outer(Net):
    def forward(self, x):
        return self.net(x.flatten(1))


def test_a_network_that_asserts_the_shape_of_its_inputs_is_a_part_that_takes_others():
    assert _network_of(Calling(Outer(Inner()).eval(), torch.zeros(4, 2, 3))) == ""
    assert _network_of(Calling(Outer(Inner()).eval(), torch.zeros(4, 6))) == "net"


def test_a_folder_beside_those_of_all_is_like_any_other(tmp_path, monkeypatch):
    # as Windows refuses it: what can only be read
    monkeypatch.setattr(os, "fsync", lambda handle: os.write(handle, b""))
    os.chmod(tmp_path, 0o1777)
    (tmp_path / "plain").mkdir()
    with new_folder(tmp_path / "made") as folder:
        (folder / "file").touch()
    assert (tmp_path / "made").stat().st_mode == (tmp_path / "plain").stat().st_mode
    with pytest.raises(ValueError), new_folder(tmp_path / "not"):
        raise ValueError
    assert {path.name for path in tmp_path.iterdir()} == {"plain", "made"}
