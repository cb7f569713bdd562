from __future__ import annotations

import gzip
import json
import sys
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import pytorch_lightning as pl
import torch
from pytorch_lightning.callbacks import ModelCheckpoint
from torchvision import datasets
from torchvision.transforms import v2
from toys.fits import make_trainer
from toys.processes import run_together

from lightning_modules import MLP, Classifier, MNISTDataModule
from lightning_modules.in_memory import Images, InMemoryImages
from lightning_modules.loader import ImageLoader


@pytest.fixture(scope="module")
def data(mnist_dir: Path) -> MNISTDataModule:
    module = MNISTDataModule(mnist_dir)
    module.prepare_data()
    module.setup()
    return module


def trainer(folder: Path, *callbacks: pl.Callback, **options: object) -> pl.Trainer:
    return make_trainer(folder, *callbacks, num_sanity_val_steps=0, **options)


def everything(loader: ImageLoader) -> tuple[torch.Tensor, torch.Tensor]:
    images, labels = zip(*loader, strict=True)
    return torch.cat(images), torch.cat(labels)


def test_the_test_images_are_those_of_torchvision(data, mnist_dir):
    ours, labels = everything(data.test_dataloader())
    theirs = datasets.MNIST(mnist_dir, train=False)
    pixels = theirs.data.unsqueeze(1).float() / 255
    expected = v2.functional.normalize(pixels, [0.1307], [0.3081])
    assert torch.equal(ours, expected)
    assert torch.equal(labels, theirs.targets)
    # as published with the data set
    assert labels.bincount().tolist() == [980, 1135, 1032, 1010, 982, 892, 958, 1028, 974, 1009]


def test_training_and_validation_images_share_out_the_60000(data, mnist_dir):
    train, train_labels = everything(data.train_dataloader())
    val, val_labels = everything(data.val_dataloader())
    assert train.shape == (55_000, 1, 28, 28)
    assert val.shape == (5_000, 1, 28, 28)
    assert train.dtype == torch.float32
    # every image as bytes: the two parts together are torchvision's training set, image for image
    pixels = torch.cat([train, val]).mul(0.3081).add(0.1307).mul(255).round().byte()
    labels = torch.cat([train_labels, val_labels])
    ours = sorted(zip((row.tobytes() for row in pixels.numpy()), labels.tolist(), strict=True))
    theirs = datasets.MNIST(mnist_dir)
    images = (row.tobytes() for row in theirs.data.numpy())
    assert ours == sorted(zip(images, theirs.targets.tolist(), strict=True))
    # the constants of the normalisation
    pixels = theirs.data.double() / 255
    assert round(pixels.mean().item(), 4) == data.train_dataloader().mean
    assert round(pixels.std().item(), 4) == data.train_dataloader().std


def test_the_seed_chooses_the_split(data, mnist_dir):
    def validation(**options):
        module = MNISTDataModule(mnist_dir, **options)
        module.setup()
        return everything(module.val_dataloader())[0]

    reference = everything(data.val_dataloader())[0]
    assert torch.equal(validation(seed=0), reference)
    assert not torch.equal(validation(seed=1), reference)
    assert validation(val_size=1).shape == (1, 1, 28, 28)


def test_without_validation_all_60000_train_and_the_test_images_stay_out_of_fit(
    mnist_dir, tmp_path
):
    module = MNISTDataModule(mnist_dir, val_size=0, batch_size=1000)
    fit = trainer(tmp_path, max_epochs=1, limit_val_batches=0)
    fit.fit(Classifier(MLP(hidden=(4,))), module)
    assert fit.global_step == 60
    assert module.val_dataloader() == []
    assert set(fit.callback_metrics) == {"train/loss", "train/acc"}


def test_predict_gives_images_alone(data):
    batch = next(iter(data.predict_dataloader()))
    assert torch.equal(batch, next(iter(data.test_dataloader()))[0])


def test_the_images_move_to_the_trainers_device(mnist_dir):
    module = MNISTDataModule(mnist_dir)
    # "meta" stands for a GPU
    strategy = SimpleNamespace(root_device=torch.device("meta"))
    module.trainer = SimpleNamespace(
        strategy=strategy, distributed_sampler_kwargs=None, current_epoch=0
    )
    module.setup("fit")
    x, y = next(iter(module.train_dataloader()))
    assert x.device.type == y.device.type == "meta"
    module.trainer.strategy.root_device = torch.device("cpu")


@pytest.mark.parametrize("layout", ["", "MNIST/raw"])
@pytest.mark.parametrize("suffix", ["", ".gz"])
def test_files_are_found_where_they_lie(mnist_dir, tmp_path, layout, suffix, monkeypatch):
    folder = tmp_path / layout
    folder.mkdir(parents=True, exist_ok=True)
    for file in (mnist_dir / "MNIST" / "raw").glob("*ubyte"):
        if suffix:
            (folder / f"{file.name}.gz").write_bytes(gzip.compress(file.read_bytes(), 0))
        else:
            (folder / file.name).symlink_to(file)
    monkeypatch.setenv("EWNPRUNE_DATA_DIR", str(tmp_path))
    before = sorted(tmp_path.rglob("*"))
    module = MNISTDataModule()
    module.prepare_data()
    module.setup()
    assert everything(module.val_dataloader())[1].shape == (5000,)
    assert sorted(tmp_path.rglob("*")) == before


def test_setup_before_prepare_data_says_so(tmp_path):
    with pytest.raises(FileNotFoundError, match=f"no MNIST in {tmp_path}: call prepare_data"):
        MNISTDataModule(str(tmp_path)).setup()
    with pytest.raises(RuntimeError, match=r"call prepare_data\(\) and setup\(\) first"):
        MNISTDataModule(str(tmp_path)).train_dataloader()


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"batch_size": 0}, "batch_size must be at least 1, got 0"),
        ({"val_size": -1}, "val_size must be from 0 to 59999 .*, got -1"),
        ({"val_size": 60_000}, "val_size must be from 0 to 59999 .*, got 60000"),
        ({"seed": -1}, "seed must not be negative, got -1"),
        ({"shift": -1}, "shift must not be negative, got -1"),
    ],
)
def test_wrong_options_are_named(options, message):
    with pytest.raises(ValueError, match=message):
        MNISTDataModule(**options)


class Few(InMemoryImages):
    """55 training images and 10 for validation, moved and mirrored; what MNIST's module is too."""

    mean, std = 0.5, 0.25

    def __init__(self, batch_size=5):
        super().__init__(batch_size, val_size=10, seed=0, shift=1, flip=True)

    def read(self):
        pixels = np.random.default_rng(0).integers(256, size=(65, 28, 28), dtype=np.uint8)
        images = Images(torch.from_numpy(pixels), torch.arange(65) % 10)
        return images, images


class EarlyEstimate(Classifier):
    """Asks for the number of steps where Lightning then forgets the loader's state (#20550)."""

    def configure_optimizers(self):
        assert self.trainer.estimated_stepping_batches in (22, 25)
        return super().configure_optimizers()


EPOCHS, STEPS = {"max_epochs": 2}, {"max_epochs": -1, "max_steps": 25}


@pytest.mark.filterwarnings("ignore:Be aware that when using `ckpt_path`, callbacks")
@pytest.mark.parametrize(("kind", "length"), [(Classifier, STEPS), (EarlyEstimate, EPOCHS)])
@pytest.mark.parametrize(
    "when",
    [
        {"every_n_train_steps": 6},  # in mid-epoch: of 11
        {"every_n_train_steps": 11},  # after the last step of an epoch
        {"every_n_epochs": 1, "save_on_train_epoch_end": False},  # after validation
        {"every_n_epochs": 1, "save_on_train_epoch_end": True},
    ],
)
def test_resuming_is_bit_for_bit_the_uninterrupted_run(tmp_path, kind, length, when):
    def fit(ckpt_path: Path | None, *callbacks: pl.Callback) -> Classifier:
        pl.seed_everything(1, verbose=False)
        model = kind(MLP(hidden=(8,)))
        trainer(tmp_path, *callbacks, **length).fit(model, Few(), ckpt_path=ckpt_path)
        return model

    saver = ModelCheckpoint(tmp_path, filename="{step}", save_top_k=-1, **when)
    whole = fit(None, saver).state_dict()
    checkpoints = sorted(tmp_path.glob("*.ckpt"))
    assert len(checkpoints) >= 2
    for checkpoint in checkpoints:
        resumed = fit(checkpoint).state_dict()
        assert all(torch.equal(whole[key], resumed[key]) for key in whole), checkpoint.name


def test_a_state_is_not_left_for_a_later_fit(tmp_path):
    """Testing a checkpoint of mid-epoch 0 and then training must train on the whole of epoch 0."""
    model, module = Classifier(MLP(hidden=(8,))), Few()
    first = trainer(tmp_path, max_steps=3)
    first.fit(model, module)
    first.save_checkpoint(tmp_path / "mid.ckpt")
    trainer(tmp_path).test(model, module, ckpt_path=tmp_path / "mid.ckpt", verbose=False)
    last = trainer(tmp_path, max_epochs=1)
    last.fit(model, module)
    assert last.global_step == 11


@pytest.mark.filterwarnings("ignore:You requested to overfit but enabled")
@pytest.mark.parametrize("overfit", [True, False])
def test_lightning_gives_each_epoch_its_order_unless_it_overfits(tmp_path, overfit):
    seen = []

    class Recorder(pl.Callback):
        def on_train_batch_start(self, trainer, module, batch, index):
            seen.append(batch[1])

    some = {"overfit_batches": 2} if overfit else {"limit_train_batches": 2}
    short = trainer(tmp_path, Recorder(), limit_val_batches=0, **some)
    short.fit(Classifier(MLP(hidden=(4,))), Few(16))
    assert len(seen) == 4
    assert torch.equal(torch.cat(seen[:2]), torch.cat(seen[2:])) == overfit


TESTED = """
import json, sys, torch, pytorch_lightning as pl
from lightning_modules import MLP, Classifier, MNISTDataModule

rank, devices, mnist, folder = sys.argv[1:]
torch.manual_seed(0)
data = MNISTDataModule(mnist, batch_size=333)
options = dict(accelerator="cpu", logger=False, enable_progress_bar=False, devices=int(devices))
trainer = pl.Trainer(strategy="ddp" if devices == "2" else "auto", **options)
trainer.test(Classifier(MLP(hidden=(16,))), data, verbose=False)
with open(f"{folder}/{devices}{rank}.json", "w") as file:
    json.dump([trainer.callback_metrics[key].item() for key in ("test/acc", "test/loss")], file)
"""


@pytest.mark.slow
def test_two_processes_test_each_image_once(mnist_dir, tmp_path, monkeypatch):
    """Accuracy and loss are those of one process, which an image seen twice would change."""
    run_together(TESTED, 2, mnist_dir, tmp_path)
    monkeypatch.setattr(sys, "argv", ["", "0", "1", str(mnist_dir), str(tmp_path)])
    exec(TESTED, {})
    alone, *both = (json.loads((tmp_path / f"{n}.json").read_text()) for n in ("10", "20", "21"))
    for accuracy, loss in both:
        assert accuracy == pytest.approx(alone[0], abs=1e-7)
        assert loss == pytest.approx(alone[1], rel=1e-5)
