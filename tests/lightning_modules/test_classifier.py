"""The Classifier: schedules, losses, predictions, checkpoints and the command line."""

from __future__ import annotations

import sys
from functools import partial

import pytest
import torch
from pytorch_lightning.cli import LightningCLI, ReduceLROnPlateau
from torch import nn
from torch.optim.lr_scheduler import LinearLR, OneCycleLR
from toys.fits import make_trainer

from lightning_modules import CNN, MLP, Classifier, ImageLoader, MNISTDataModule, OneCycle


class Stream(torch.utils.data.IterableDataset):
    def __iter__(self):
        return iter(toy())


def trainer(folder, **options):
    return make_trainer(folder, **{"max_epochs": 1, **options})


def toy(n: int = 64, batch_size: int = 16) -> ImageLoader:
    """Images that are all black or all white, and say so."""
    labels = torch.arange(n) % 2
    pixels = (labels * 255).to(torch.uint8).reshape(n, 1, 1).expand(n, 28, 28)
    return ImageLoader(pixels, labels, batch_size, mean=0.5, std=0.5)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"network": MLP}, "network must be a torch.nn.Module such as MLP"),
        ({"optimizer": torch.optim.SGD([torch.zeros(1)])}, "optimizer must be a function of the"),
        ({"optimizer": None}, "optimizer must be a function of the parameters, got None"),
        ({"scheduler": 0.1}, "scheduler must be a function of the optimizer, got 0.1"),
    ],
)
def test_what_is_no_network_or_function_is_named(options, message):
    with pytest.raises(TypeError, match=message):
        Classifier(**options)


@pytest.mark.parametrize("total", [11, 100, 2150])
@pytest.mark.parametrize("pct_start", [0.1, 0.3, 0.5])
def test_one_cycle_has_the_rates_of_torch(total, pct_start):
    rates = []
    for make in (
        lambda optimizer: OneCycle(optimizer, pct_start),
        partial(
            OneCycleLR, max_lr=0.2, total_steps=total, pct_start=pct_start, cycle_momentum=False
        ),
    ):
        optimizer = torch.optim.SGD([nn.Parameter(torch.zeros(1))], lr=0.2)
        schedule = make(optimizer)
        schedule.total_steps = total
        rates.append([])
        for _ in range(total):
            rates[-1].append(optimizer.param_groups[0]["lr"])
            optimizer.step()
            if len(rates[-1]) < total:
                schedule.step()
    assert rates[0] == pytest.approx(rates[1], rel=1e-12)


def test_one_cycle_copes_with_a_training_of_few_steps():
    schedule = OneCycle(torch.optim.SGD([nn.Parameter(torch.zeros(1))], lr=1.0))
    for schedule.total_steps in range(1, 9):
        factors = [schedule.factor(step) for step in range(schedule.total_steps + 2)]
        assert factors[0] == 1 / 25
        assert all(0 < factor <= 1 for factor in factors)


def test_one_cycle_spans_the_training(tmp_path):
    model = Classifier(MLP(hidden=(4,)))
    run = trainer(tmp_path, max_epochs=5, accumulate_grad_batches=2)
    run.fit(model, toy(), toy())
    schedule = model.lr_schedulers()
    assert schedule.total_steps == 10  # 5 epochs of 4 batches, two to a step
    assert schedule.last_epoch == 10
    assert model.optimizers().param_groups[0]["lr"] == pytest.approx(0.1 / 25 / 1e4)


def test_one_cycle_needs_an_end(tmp_path):
    with pytest.raises(ValueError, match="OneCycle needs to know the number of steps"):
        trainer(tmp_path, max_epochs=-1).fit(Classifier(), toy(), toy())


@pytest.mark.parametrize(
    ("scheduler", "factor"),
    [
        (partial(LinearLR, start_factor=1.0, end_factor=0.0, total_iters=4), 0.5),
        (partial(ReduceLROnPlateau, monitor="val/loss", patience=0, threshold=1e9), 0.01),
        (None, 1.0),
    ],
)
def test_other_schedules_go_on_after_each_epoch(tmp_path, scheduler, factor):
    make = partial(torch.optim.SGD, lr=0.01)
    model = Classifier(MLP(hidden=(4,)), optimizer=make, scheduler=scheduler)
    trainer(tmp_path, max_epochs=2).fit(model, toy(), toy())
    assert model.optimizers().param_groups[0]["lr"] == pytest.approx(0.01 * factor)


def test_losses_and_accuracies_are_those_of_a_loop_by_hand(tmp_path):
    torch.manual_seed(0)
    model = Classifier(MLP(hidden=(4,)), optimizer=partial(torch.optim.SGD, lr=0.0), scheduler=None)
    loader = toy(n=50)  # batches of 16, 16, 16 and 2: a mean of means would be wrong
    x, y = (torch.cat(part) for part in zip(*loader, strict=True))
    with torch.no_grad():
        logits = model(x)
        loss = nn.functional.cross_entropy(logits, y).item()
    accuracy = (logits.argmax(1) == y).float().mean().item()
    fit = trainer(tmp_path)
    fit.fit(model, loader, loader)
    got = {**fit.callback_metrics, **fit.test(model, loader, verbose=False)[0]}
    for stage in ("train", "val", "test"):
        assert float(got[f"{stage}/loss"]) == pytest.approx(loss, rel=1e-5)
        assert float(got[f"{stage}/acc"]) == pytest.approx(accuracy)
    assert set(got) == {f"{a}/{b}" for a in ("train", "val", "test") for b in ("loss", "acc")}


def test_training_learns_and_prediction_gives_classes(tmp_path):
    torch.manual_seed(0)
    model = Classifier(MLP(hidden=(8,)), loss=nn.CrossEntropyLoss(label_smoothing=0.1))
    run = trainer(tmp_path, max_epochs=3)
    run.fit(model, toy(), toy())
    assert run.callback_metrics["train/loss"] > 0.3  # the smoothing keeps it up
    loader = toy()
    batches = run.predict(model, loader)
    classes = torch.cat([batch["class"] for batch in batches])
    probabilities = torch.cat([batch["probabilities"] for batch in batches])
    assert torch.equal(classes, loader.labels)
    assert torch.equal(classes, probabilities.argmax(1))
    torch.testing.assert_close(probabilities.sum(1), torch.ones(64))
    loader.labels = None  # images alone
    assert torch.equal(torch.cat([b["class"] for b in run.predict(model, loader)]), classes)


def test_a_checkpoint_made_in_python_is_loaded_with_its_network(tmp_path):
    adam = partial(torch.optim.Adam, lr=1e-3)
    model = Classifier(CNN(channels=(2,)), optimizer=adam, num_classes=10)
    run = trainer(tmp_path)
    run.fit(model, toy(), toy())
    run.save_checkpoint(tmp_path / "model.ckpt")
    stored = torch.load(tmp_path / "model.ckpt", weights_only=True)
    assert stored["hyper_parameters"] == {"num_classes": 10}
    assert set(stored["state_dict"]) == {f"network.{key}" for key in model.network.state_dict()}
    network = CNN(channels=(2,))
    loaded = Classifier.load_from_checkpoint(tmp_path / "model.ckpt", network=network)
    for key, value in model.state_dict().items():
        assert torch.equal(loaded.state_dict()[key], value)


@pytest.mark.parametrize("subclass_mode", [False, True])
def test_the_command_line_makes_and_loads_any_network(
    tmp_path, mnist_dir, subclass_mode, monkeypatch
):
    monkeypatch.setattr(sys, "argv", ["fit"])

    def command(*arguments: str) -> LightningCLI:
        return LightningCLI(
            Classifier,
            MNISTDataModule,
            subclass_mode_model=subclass_mode,
            auto_configure_optimizers=False,
            save_config_callback=None,
            seed_everything_default=0,
            run=False,
            args=[
                *["--model=Classifier"] * subclass_mode,
                *[f"--trainer.{k}={v}" for k, v in options.items()],
                f"--data.data_dir={mnist_dir}",
                "--data.batch_size=5000",
                *arguments,
            ],
        )

    options = {
        "accelerator": "cpu",
        "max_steps": 2,
        "limit_val_batches": 0,
        "logger": "false",
        "enable_progress_bar": "false",
        "enable_checkpointing": "false",
        "default_root_dir": str(tmp_path),
    }
    cli = command(
        "--model.network=MLP",
        "--model.network.hidden=[7]",
        "--model.optimizer=Adam",
        "--model.optimizer.lr=1e-3",
        "--model.scheduler.pct_start=0.2",
    )
    assert isinstance(cli.model.network, MLP)
    cli.trainer.fit(cli.model, cli.datamodule)
    assert isinstance(cli.trainer.optimizers[0], torch.optim.Adam)
    path = tmp_path / "cli.ckpt"
    cli.trainer.save_checkpoint(path)
    torch.load(path, weights_only=True)

    loaded = Classifier.load_from_checkpoint(path)  # needs to be told nothing
    assert torch.equal(loaded.network.fc1.weight, cli.model.network.fc1.weight)
    optimizer = loaded.optimizer(loaded.parameters())
    assert isinstance(optimizer, torch.optim.Adam)
    assert optimizer.defaults["lr"] == 1e-3
    assert loaded.scheduler(optimizer).pct_start == 0.2
    replaced = Classifier.load_from_checkpoint(path, network=MLP(hidden=(7,)))
    assert torch.equal(replaced.network.fc1.weight, cli.model.network.fc1.weight)
    data = MNISTDataModule.load_from_checkpoint(path)
    assert (data.batch_size, data.val_size, data.seed) == (5000, 5000, 0)

    assert isinstance(command("--model.network=CNN").model.network, CNN)
    assert command("--model.network.hidden=[30,20]").model.network.fc2.out_features == 20
    assert command("--model.optimizer.lr=0.05").model.optimizer.keywords["momentum"] == 0.9
    assert command("--model.scheduler=null").model.scheduler is None


def test_one_cycle_asks_how_many_steps_there_are(tmp_path):
    stream = torch.utils.data.DataLoader(Stream(), batch_size=None)
    with pytest.raises(ValueError, match=r"OneCycle needs to know .*limit_train_batches"):
        trainer(tmp_path).fit(Classifier(MLP()), stream, toy())
