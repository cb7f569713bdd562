import csv
import math

import numpy as np
import pytest
import torch
from torch.nn import functional as F
from tqdm import tqdm

from ewnprune.experiments import mnist, mnist_small, mnist_state
from ewnprune.experiments.mnist_digits import Digits
from ewnprune.experiments.mnist_runs import (
    PRUNED,
    SELECTED_ON_TEST,
    depth_row,
    history,
    prune,
)
from ewnprune.experiments.mnist_state import log_mean_loss, network
from ewnprune.experiments.mnist_together import train_together
from ewnprune.experiments.mnist_train import train
from ewnprune.experiments.verdict import write_csv


def _digits(count, seed):
    """Two hundred pixels carry the class, the others noise."""
    generator = torch.Generator().manual_seed(seed)
    y = torch.arange(count) % 10
    x = torch.randn(count, 784, generator=generator) / 2
    for k in range(10):
        x[y == k, 20 * k : 20 * k + 20] += 1
    return Digits(x, y)


@pytest.fixture
def bar():
    with tqdm(disable=True) as bar:
        yield bar


def test_log_mean_loss_is_that_of_torch():
    data, model = _digits(70, 0), network(12, 0)
    expected = F.cross_entropy(model(data.x), data.y).log().item()
    assert log_mean_loss(model, data) == pytest.approx(expected, rel=1e-5)


@pytest.mark.parametrize("method", ["EWN", "SWN", "none"])
def test_an_interrupted_run_ends_like_one_without_a_break(tmp_path, bar, method):
    data = _digits(300, 1)
    train(method, 3, data, 12, [1, 3], tmp_path / "straight", bar)
    train(method, 3, data, 12, [1], tmp_path / "broken", bar)
    stopped = history(tmp_path / "broken")
    train(method, 3, data, 12, [1, 3], tmp_path / "broken", bar)
    straight, broken = (history(tmp_path / name) for name in ("straight", "broken"))
    assert 0 < len(stopped) < len(straight)
    for a, b in zip(straight, broken, strict=True):
        assert a | {"seconds": 0} == b | {"seconds": 0}
    for depth in (0, 1, 3):
        a, b = (
            torch.load(tmp_path / name / f"depth{depth}.pt", weights_only=True)["weights"]
            for name in ("straight", "broken")
        )
        assert all(torch.equal(a[key], b[key]) for key in a)
    assert straight[-1]["log_loss"] < -3
    assert not torch.equal(a["fc1.weight"], network(12, 4).fc1.weight)


@pytest.mark.parametrize("cut_off_at", ["state.pt", "depth3.pt"])
@pytest.mark.parametrize("together", [False, True])
def test_a_run_cut_off_between_two_files_ends_like_one_that_was_not(
    tmp_path, bar, monkeypatch, together, cut_off_at
):
    def run(folder):
        if together:
            train_together([("EWN", 3, folder)], _digits(300, 1), 12, [1, 3], bar)
        else:
            train("EWN", 3, _digits(300, 1), 12, [1, 3], folder, bar)

    def cut_off(path, content, save=mnist_state.save):
        if path.name == cut_off_at:
            raise OSError("no space left")
        save(path, content)

    run(tmp_path / "straight")
    with monkeypatch.context() as full, pytest.raises(OSError, match="no space left"):
        full.setattr(mnist_state, "save", cut_off)
        run(tmp_path / "broken")
    run(tmp_path / "broken")
    rows = [history(tmp_path / name) for name in ("straight", "broken")]
    assert [row | {"seconds": 0} for row in rows[0]] == [row | {"seconds": 0} for row in rows[1]]
    for depth in (1, 3):
        a, b = (
            torch.load(tmp_path / name / f"depth{depth}.pt", weights_only=True)["weights"]
            for name in ("straight", "broken")
        )
        assert all(torch.equal(a[key], b[key]) for key in a)


def test_epochs_follow_the_rule(tmp_path, bar):
    train("none", 0, _digits(300, 1), 12, [6], tmp_path, bar)
    lr, current = 0.01, math.inf
    for row in history(tmp_path):
        assert row["accepted"] == (row["attempted_log_loss"] <= current)
        current = row["attempted_log_loss"] if row["accepted"] else current
        lr = lr * 1.1 if row["accepted"] else lr / 1.1
        assert row["log_loss"] == current and row["lr"] == pytest.approx(lr)


@pytest.mark.parametrize("method", ["EWN", "SWN", "none"])
def test_each_epoch_and_depth_say_how_large_the_weights_are(tmp_path, bar, method):
    data = _digits(300, 1)
    train(method, 0, data, 12, [3], tmp_path, bar)
    state = torch.load(tmp_path / "state.pt", weights_only=True)
    n = [s["n"] for s in state["optimizer"]["state"].values()] or [torch.ones(12, 1)]
    hidden, out = (state["model"][name].double() for name in ("fc1.weight", "fc2.weight"))
    expected = {
        "largest_norm": np.linalg.norm(hidden.numpy(), axis=1).max(),
        "output_norm": np.linalg.norm(out.numpy()),
        "n_median": np.sort(n[0].flatten().numpy())[5],  # of twelve the lower of two
        "n_max": n[0].max().item(),
    }
    for row in (history(tmp_path)[-1], depth_row(tmp_path, 3, data)):
        assert {name: row[name] for name in expected} == pytest.approx(expected, rel=1e-6)
    assert (expected["n_max"] > 1) == (method != "none")


def test_a_run_on_mnist_may_have_begun_before_a_column_was_new(tmp_path):
    write_csv(tmp_path / "epochs.csv", [{"epoch": 1}, {"epoch": 2, "n_max": 1.5}])
    assert (tmp_path / "epochs.csv").read_text() == "epoch,n_max\n1,\n2,1.5\n"


def test_a_run_that_takes_too_long_says_so(tmp_path, bar, monkeypatch):
    monkeypatch.setattr("ewnprune.experiments.mnist_state._MAX_KEPT", 3)
    with pytest.raises(RuntimeError, match=r"EWN-0 kept 3 epochs .* not yet at -50"):
        train("EWN", 0, _digits(100, 1), 12, [50], tmp_path / "EWN-0", bar)


def test_pruning_is_that_of_a_loop_over_neurons(tmp_path, bar):
    data, test = _digits(300, 1), _digits(200, 2)
    train("EWN", 0, data, 12, [1, 3], tmp_path, bar)
    found = prune(tmp_path, 3, [1, 3], test)
    assert list(found) == ["norm", "diff_from_init", "diff_from_-1", SELECTED_ON_TEST]
    load = {
        d: torch.load(tmp_path / f"depth{d}.pt", weights_only=True)["weights"] for d in (0, 1, 3)
    }
    norms = {d: np.linalg.norm(w["fc1.weight"].double().numpy(), axis=1) for d, w in load.items()}
    scores = {
        "norm": norms[3],
        "diff_from_init": norms[3] - norms[0],
        "diff_from_-1": norms[3] - norms[1],
    }
    for name, score in scores.items():
        for percent, accuracy in zip(PRUNED, found[name], strict=True):
            model = network(12, 0)
            model.load_state_dict(load[3])
            for u in np.argsort(score)[: min(round(percent / 100 * 12), 11)]:
                model.fc1.weight.data[u] = 0
                model.fc1.bias.data[u] = 0
                model.fc2.weight.data[:, u] = 0
            expected = (model(test.x).argmax(1) == test.y).double().mean().item()
            assert accuracy == pytest.approx(expected)
    best = [max(found[name][k] for name in scores) for k in range(20)]
    assert found[SELECTED_ON_TEST] == best

    row = depth_row(tmp_path, 3, test)
    share = norms[3] ** 2 / (norms[3] ** 2).sum()
    assert row["effective_fraction"] == pytest.approx(1 / (share**2).sum() / 12, rel=1e-5)
    assert row["test_acc"] == found["norm"][0] and row["log_loss"] < -3
    assert row["attempted"] >= row["kept"] > 0


def test_full_mnist_writes_its_tables_and_repeats_nothing(tmp_path, monkeypatch):
    monkeypatch.setattr(mnist, "load_digits", lambda *_: (_digits(300, 1), _digits(200, 2)))
    monkeypatch.setattr(mnist, "_HIDDEN", 12)
    criteria = mnist.run(tmp_path, seeds=2, depth=10, methods=["EWN", "none"])
    assert [c.id for c in criteria] == ["N4"]
    with (tmp_path / "difference.csv").open() as file:
        rows = list(csv.DictReader(file))
    with (tmp_path / "prune.csv").open() as file:
        curves = list(csv.DictReader(file))
    key = {"method": "none", "depth": "10", "criterion": SELECTED_ON_TEST, "pruned": "90"}
    (row,) = [r for r in rows if key.items() <= r.items()]
    ours = [float(r["test_acc"]) for r in curves if key.items() <= r.items()]
    assert len(ours) == 2 and float(row["mean"]) == pytest.approx(sum(ours) / 2)
    assert float(row["authors"]) == pytest.approx(0.825, abs=1e-3)
    assert float(row["difference"]) == pytest.approx(sum(ours) / 2 - float(row["authors"]))
    assert (tmp_path / "figure.svg").exists()

    monkeypatch.setattr("ewnprune.experiments.mnist_train.epoch", None)  # no further training
    assert mnist.run(tmp_path, seeds=2, depth=10, methods=["EWN", "none"]) == criteria


def test_full_mnist_criteria_by_hand():
    def level(method, depth, fraction):
        return {"method": method, "depth": depth, "effective_fraction": fraction}

    def mean(method, depth, accuracy):
        return {
            "method": method,
            "depth": depth,
            "criterion": "norm",
            "pruned": 90,
            "mean": accuracy,
        }

    levels = [level("EWN", 100, 0.2), level("EWN", 100, 0.25), level("SWN", 100, 0.9)]
    levels += [level("none", 100, 0.8), level("EWN", 300, 0.05)]
    means = [mean("EWN", 10, 0.7), mean("none", 10, 0.8), mean("EWN", 300, 0.93)]
    means += [mean("none", 300, 0.79)]
    judged = [(c.id, round(c.value, 6), c.passed) for c in mnist._judge(levels, means)]
    assert judged == [
        ("N4", 0.1, True), ("N6", 0.14, True), ("N6", 0.93, True), ("N5", 0.25, True),
        ("N6", 0.05, False), ("N5", 0.8, False),
    ]  # fmt: skip


@pytest.mark.slow
def test_small_mnist_takes_its_images_from_the_test_file(tmp_path, monkeypatch):
    monkeypatch.setattr(mnist_small, "load_digits", lambda *_: (None, _digits(6300, 2)))
    monkeypatch.setattr(mnist_small, "_HIDDEN", 12)
    seen = []

    def spy(method, seed, data, hidden, depths, folder, bar):
        seen.append((method, seed, len(data.y), tuple(depths)))
        train(method, seed, Digits(data.x[:200], data.y[:200]), hidden, depths, folder, bar)

    monkeypatch.setattr(mnist_small, "train", spy)
    criteria = mnist_small.run(tmp_path)
    assert seen == [(method, 0, 2000, (10, 100)) for method in ("EWN", "SWN", "none")]
    assert [c.id for c in criteria] == ["N1"] * 3 + ["N3"] * 3
    assert (tmp_path / "epochs.csv").exists() and (tmp_path / "figure.png").exists()
