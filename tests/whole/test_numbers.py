"""Numbers that a user sees, each computed a second way."""

import math
from collections import OrderedDict
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

from ewnprune import read_curve, sparsity_curve
from ewnprune.cli import main
from lightning_modules import CNN
from lightning_modules.files import TEST_IMAGES, TEST_LABELS, read

FIT = [
    "fit", "--trainer.accelerator=cpu", "--trainer.max_epochs=1",
    "--trainer.limit_train_batches=60",
    "--trainer.enable_progress_bar=false", "--trainer.enable_model_summary=false",
    "--prune.sparsities=[0,0.25,0.5,0.9]", "--model.network.hidden=[64]",
]  # fmt: skip


@pytest.fixture
def fit(tmp_path, monkeypatch, mnist_dir, capsys):
    """Trains in a folder of its own; gives back that of the run and the weights."""
    monkeypatch.setenv("EWNPRUNE_DATA_DIR", str(mnist_dir))

    def run(name, *words):
        (tmp_path / name).mkdir()
        monkeypatch.chdir(tmp_path / name)
        assert main([*FIT, *words]) == 0, capsys.readouterr().err
        (path,) = Path("runs/version_0/checkpoints").glob("*.ckpt")
        return tmp_path / name, torch.load(path, weights_only=True)["state_dict"]

    return run


@pytest.mark.slow
def test_a_fit_is_the_same_bit_for_bit_with_the_same_seed(fit):
    one, weights = fit("one")
    two, again = fit("two")
    _, other = fit("other", "--seed_everything=1")
    assert weights.keys() == again.keys()
    assert all(torch.equal(weights[key], value) for key, value in again.items())
    assert not torch.equal(weights["network.fc1.weight"], other["network.fc1.weight"])
    curves = [(run / "runs/version_0/sparsity_curve.csv").read_bytes() for run in (one, two)]
    assert curves[0] == curves[1]


@pytest.mark.slow
def test_other_numbers_of_threads_agree_to_the_stated_tolerance(fit):
    """docs/compatibility.md: to 1e-3 of each weight matrix after 60 steps."""
    before, found = torch.get_num_threads(), []
    try:
        for threads in (1, 2):
            torch.set_num_threads(threads)
            found.append(fit(f"threads {threads}")[1])
    finally:
        torch.set_num_threads(before)
    for key, value in found[0].items():
        assert (value - found[1][key]).norm() <= 1e-3 * value.norm(), key


@pytest.mark.slow
def test_accuracy_at_each_level_is_that_of_the_exported_network_in_numpy(fit, mnist_dir, capsys):
    """Exported, read by torch alone, and evaluated in float64 by NumPy alone."""
    folder, _ = fit("fit")
    run = folder / "runs/version_0"
    (checkpoint,) = (run / "checkpoints").glob("*.ckpt")
    words = ["sweep", "--config", str(run / "config.yaml"), "--ckpt_path", str(checkpoint)]
    words += ["--prune.scores=[norm_product]"]
    assert main([*words, "--split=test"]) == 0, capsys.readouterr().err
    curve = read_curve(run / "sparsity_curve_test.csv").where(score="norm_product")
    raw = mnist_dir / "MNIST" / "raw"
    pixels, labels = (read(raw, "MNIST", file) for file in (TEST_IMAGES, TEST_LABELS))
    pixels = pixels.reshape(10_000, 784).astype(np.float64)
    x = (pixels / 255 - 0.1307) / 0.3081
    for point in curve:
        words = ["export", str(run), f"--sparsity={point.sparsity}", "--score=norm_product"]
        assert main([*words, f"--output=at {point.sparsity}"]) == 0, capsys.readouterr().err
        state = torch.load(f"at {point.sparsity}/model.pt", weights_only=True)
        weight, bias, out = (
            state[key].double().numpy() for key in ("fc1.weight", "fc1.bias", "fc2.weight")
        )
        scores = np.maximum(x @ weight.T + bias, 0) @ out.T
        ties = np.sort(scores, axis=1)
        # float32 may turn round what float64 tells apart by less than its rounding
        doubtful = (ties[:, -1] - ties[:, -2] < 1e-4).sum()
        assert abs((scores.argmax(1) == labels).sum() - point.correct) <= doubtful
        left = 64 - round(64 * point.sparsity)
        assert weight.shape == (left, 784)
        assert point.macs.left == 784 * left + 10 * left
        assert point.parameters.left == 784 * left + left + 10 * left


def test_macs_of_a_convolutional_network_by_hand():
    network = CNN().eval()
    layers = OrderedDict((k, m) for k, m in network.named_modules() if hasattr(m, "weight"))
    convolutions = [m for m in layers.values() if isinstance(m, nn.Conv2d)]
    (readout,) = (m for m in layers.values() if isinstance(m, nn.Linear))
    sides, hooks = [], []
    for layer in convolutions:
        hooks.append(layer.register_forward_hook(lambda _, __, out: sides.append(out.shape[2:])))
    x = torch.randn(2, 1, 28, 28)
    network(x)
    for hook in hooks:
        hook.remove()
    y = torch.tensor([0, 1])
    for point in sparsity_curve(network, [(x, y)], (0, 0.5, 0.9), "norm"):
        widths = [
            1,
            *(c.out_channels - round(c.out_channels * point.sparsity) for c in convolutions),
        ]
        by_hand = sum(
            math.prod(side) * math.prod(layer.kernel_size) * before * after
            for layer, side, before, after in zip(
                convolutions, sides, widths[:-1], widths[1:], strict=True
            )
        )
        pixels = readout.in_features // convolutions[-1].out_channels
        by_hand += pixels * widths[-1] * readout.out_features
        assert point.macs.left == by_hand
