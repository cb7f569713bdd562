"""Fits that take a second: a LightningModule to make others of, and a Trainer that says nothing."""

import pytorch_lightning as pl
import torch
from pytorch_lightning.callbacks import ModelCheckpoint
from torch import nn

from toys.data import loader


def mlp():
    return nn.Sequential(nn.Linear(6, 10), nn.ReLU(), nn.Linear(10, 2))


def sgd(parameters):
    return torch.optim.SGD(parameters, lr=0.1, momentum=0.9)


class Steps:
    """All that a LightningModule needs, of either of Lightning's namespaces."""

    def __init__(self, net=None, optimizer=sgd):
        super().__init__()
        self.net, self.optimizer = mlp() if net is None else net, optimizer

    def forward(self, x):
        return self.net(x)

    def training_step(self, batch, _):
        return nn.functional.cross_entropy(self(batch[0]), batch[1])

    def validation_step(self, batch, _, dataloader_idx=0):
        self.log("val_loss", self.training_step(batch, _))

    def test_step(self, batch, _):
        self.log("test_loss", self.training_step(batch, _))

    def configure_optimizers(self):
        return self.optimizer(self.parameters())


class Net(Steps, pl.LightningModule):
    pass


class TrainsOnly(Net):
    """Lightning warns of a validation step where there is nothing to validate on."""

    validation_step = pl.LightningModule.validation_step


class ByItself(Net):
    """Optimizes by itself: so many steps in every so many batches, of one optimizer or two."""

    automatic_optimization = False

    def __init__(self, steps=1, every=1, optimizers=1, optimizer=sgd):
        super().__init__(optimizer=optimizer)
        self.steps, self.every, self.number = steps, every, optimizers

    def training_step(self, batch, batch_idx):
        optimizers = self.optimizers() if self.number > 1 else [self.optimizers()]
        for _ in range(self.steps):
            self.manual_backward(super().training_step(batch, batch_idx))
            for optimizer in optimizers if (batch_idx + 1) % self.every == 0 else []:
                optimizer.step()
                optimizer.zero_grad()

    def validation_step(self, batch, batch_idx):
        self.log("val_loss", super().training_step(batch, batch_idx))

    def configure_optimizers(self):
        if self.number == 1:
            return super().configure_optimizers()
        return [self.optimizer(self.net[i].parameters()) for i in (0, 2)]


class BuildsInSetup(Net):
    def __init__(self):
        super().__init__()
        del self.net

    def setup(self, stage):
        self.net = mlp()


class BuildsInConfigureModel(BuildsInSetup):
    setup = pl.LightningModule.setup

    def configure_model(self):
        if not hasattr(self, "net"):
            self.net = mlp()


class Stop(pl.Callback):
    """Ctrl-C at a batch's end, as the command line handles it."""

    def __init__(self, step, path):
        self.step, self.path = step, path

    def on_train_batch_end(self, trainer, *_):
        if trainer.global_step == self.step:
            trainer.save_checkpoint(self.path)
            raise KeyboardInterrupt


def assert_same_tensors(found, expected, part, *names):
    """Weights, optimizer, and what `part` of the callback keeps under names, of two checkpoints."""
    for tensors in (
        lambda c: c["state_dict"],
        lambda c: c["ewnprune"]["originals"],
        *(lambda c, name=name: c["ewnprune"][part][name] for name in names),
        lambda c: {
            (k, name): v
            for k, state in c["optimizer_states"][0]["state"].items()
            for name, v in state.items()
            if isinstance(v, torch.Tensor)
        },
    ):
        assert tensors(found).keys() == tensors(expected).keys()
        for key, value in tensors(expected).items():
            assert torch.equal(tensors(found)[key], value), key


def make_trainer(folder, *callbacks, kind=pl.Trainer, **options):
    """A Trainer that keeps only what the callbacks write."""
    defaults = {
        "max_epochs": 2,
        "accelerator": "cpu",
        "devices": 1,
        "logger": False,
        "log_every_n_steps": 1,
        "enable_checkpointing": any(isinstance(one, ModelCheckpoint) for one in callbacks),
        "enable_progress_bar": False,
        "enable_model_summary": False,
        "default_root_dir": folder,
    }
    return kind(callbacks=list(callbacks), **{**defaults, **options})


def fit(folder, model, *callbacks, train=None, val=None, ckpt_path=None, **options):
    """Trains on `train`, or else on 64 points, and gives back the Trainer."""
    if ckpt_path is not None:  # Lightning wants the callback that wrote it
        options = {"enable_checkpointing": True, **options}
    trainer = make_trainer(folder, *callbacks, **options)
    train = loader() if train is None else train
    val = loader(40, 1) if val is None else val
    trainer.fit(model, train, val, ckpt_path=ckpt_path)
    return trainer
