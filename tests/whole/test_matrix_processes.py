"""The compatibility matrix: two processes are one process on the same batches."""

import json
import sys
from types import SimpleNamespace

import pytest
import torch
from pytorch_lightning.strategies.launchers import subprocess_script
from torch import nn
from torch.distributed import fsdp
from toys.data import points
from toys.fits import mlp
from toys.processes import run_together

import ewnprune
from ewnprune import EWN, fold_state_dict, sparsity_curve
from ewnprune.callback.command import CommandLine
from ewnprune.cli import main

_SCRIPT = """
import json, sys, warnings
import torch
from pytorch_lightning.strategies import ModelParallelStrategy
from torch.distributed.fsdp import fully_shard
from torch.utils.data import DataLoader, DistributedSampler
from toys import fits
from toys.data import loader, points
from ewnprune import EWN, WeightNormPruning, attached_parametrizations, fold, reparametrize

rank, folder = sys.argv[1:]
warnings.simplefilter("ignore")

class Net(fits.Net):
    def __init__(self):
        torch.manual_seed(0)
        super().__init__()
    def validation_step(self, batch, _):
        self.log("val_loss", self.training_step(batch, _), sync_dist=True)

class Sharded(Net):
    def configure_model(self):
        if not attached_parametrizations(self):
            reparametrize(self, EWN(), exclude="net.2")  # before sharding
            fully_shard(self.net[0], mesh=self.device_mesh["data_parallel"])
            fully_shard(self.net, mesh=self.device_mesh["data_parallel"])

def fsdp2(distributed):
    return ModelParallelStrategy(data_parallel_size=2, tensor_parallel_size=1,
        save_distributed_checkpoint=distributed, process_group_backend="gloo")

def fit(name, model, strategy, epochs, ckpt_path=None):
    callback = WeightNormPruning(EWN(), (0, 0.5, 0.9), ("norm",))
    trainer = fits.make_trainer(f"{folder}/{name}", callback, devices=2, strategy=strategy,
        max_epochs=epochs)
    sampler = DistributedSampler(points(), num_replicas=2, rank=int(rank), shuffle=False)
    trainer.fit(model, DataLoader(points(), batch_size=8, sampler=sampler),
        loader(41, 1, 8), ckpt_path=ckpt_path, weights_only=True)
    state = {k: v.full_tensor() if hasattr(v, "full_tensor") else v
             for k, v in model.state_dict().items()}
    found = [(p.sparsity, p.correct, p.total, p.loss) for p in callback.curve]
    if trainer.is_global_zero:
        torch.save(state, f"{folder}/{name}.pt")
        with open(f"{folder}/{name}.json", "w") as file:
            json.dump(found, file)
    return trainer

fit("ddp", Net(), "ddp", 3)
fit("fsdp2", Sharded(), fsdp2(False), 3)
for name, distributed in (("file", False), ("folder", True)):
    half = fit(f"{name}-half", Sharded(), fsdp2(distributed), 1)
    half.save_checkpoint(f"{folder}/{name}.ckpt")
    model = Sharded()
    fit(name, model, fsdp2(distributed), 3, f"{folder}/{name}.ckpt")
try:
    fold(model)
except ValueError as error:
    assert "'net.0' is sharded (DTensor)" in str(error)
else:
    raise AssertionError("a sharded model was folded")
torch.distributed.barrier()
torch.distributed.destroy_process_group()
"""


@pytest.mark.skipif(not hasattr(fsdp, "fully_shard"), reason="torch < 2.6")
@pytest.mark.slow
def test_ddp_and_fsdp2_are_one_process(tmp_path):
    """DDP; FSDP2 (attached before sharding); and FSDP2 resumed from both kinds of checkpoint.

    41 validation samples over two processes: every one is counted once.
    """
    run_together(_SCRIPT, tmp_path)

    torch.manual_seed(0)
    net = mlp()
    ewnprune.reparametrize(net, EWN())
    optimizer = torch.optim.SGD(net.parameters(), lr=0.1, momentum=0.9)
    x, y = points().tensors
    for _ in range(3):
        for rows in torch.arange(64).split(16):
            optimizer.zero_grad()
            nn.functional.cross_entropy(net(x[rows]), y[rows]).backward()
            optimizer.step()
    ewnprune.fold(net)
    curve = sparsity_curve(net, [points(41, 1).tensors], (0, 0.5, 0.9), "norm")
    expected = [(p.sparsity, p.correct, p.total, p.loss) for p in curve]
    for name in ("ddp", "fsdp2", "file", "folder"):
        state = torch.load(tmp_path / f"{name}.pt", weights_only=True)
        assert ("net.0.weight" in state) == (name == "ddp")  # what is sharded is left attached
        state = fold_state_dict(state)
        for key, value in net.state_dict().items():
            torch.testing.assert_close(state[f"net.{key}"], value)
        found = json.loads((tmp_path / f"{name}.json").read_text())
        before = tmp_path / f"{name}-half.json"  # the curve that a resumed run begins with
        assert found[:-3] == (json.loads(before.read_text()) if before.exists() else [])
        for point, wanted in zip(found[-3:], expected, strict=True):
            assert point == pytest.approx(wanted, rel=1e-5)
    stored = torch.load(tmp_path / "file.ckpt", weights_only=True)
    plain = mlp()
    folded = fold_state_dict(stored["state_dict"])
    plain.load_state_dict({k.removeprefix("net."): v for k, v in folded.items()})


def test_a_command_starts_its_other_processes_as_it_was_started(tmp_path, monkeypatch, capsys):
    """Lightning takes what they do from sys.argv, and runs nothing more than that."""
    for name in ("MASTER_ADDR", "MASTER_PORT", "NODE_RANK", "LOCAL_RANK", "WORLD_SIZE"):
        monkeypatch.setenv(name, "")  # Lightning's, put back when the test is over
        monkeypatch.delenv(name)
    started = []

    def start(command, **_):
        started.append(command)
        raise RuntimeError("enough")

    monkeypatch.setattr(subprocess_script, "subprocess", SimpleNamespace(Popen=start))
    words = ["fit", "--data=toys.data.Points", "--trainer.strategy=ddp", "--trainer.devices=2"]
    words += ["--trainer.accelerator=cpu", "--trainer.logger=false"]
    words.append(f"--trainer.default_root_dir={tmp_path}")
    monkeypatch.setattr(sys, "argv", ["ewnprune", *words])
    assert main() == 1
    assert capsys.readouterr().err.endswith("ewnprune: error: enough\n")
    (command,) = started
    assert command[-len(words) :] == words


@pytest.mark.parametrize("rank", [0, 1])
def test_all_processes_ask_where_a_run_has_gone(rank):
    """Lightning sends it from the first to the others, which must be there."""
    asked = []

    class Asked:
        is_global_zero, fast_dev_run, default_root_dir = rank == 0, True, "."

        @property
        def log_dir(self):
            asked.append(rank)

    CommandLine.after_fit(SimpleNamespace(trainer=Asked()))  # as far as it goes for both
    assert asked == [rank]
