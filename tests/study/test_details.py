import csv

import pytest
import torch
from toys.data import loader
from toys.fits import Net, make_trainer

from ewnprune import WeightNormPruning, mask_neurons
from ewnprune.study.details import AccuracyByClass
from ewnprune.study.run import Recorder


def _rows(path):
    with open(path, newline="") as file:
        return list(csv.DictReader(file))


def test_classes_and_layers_of_a_run(tmp_path):
    """Class by class as by hand on the masked network, and the layers as they are counted there."""
    torch.manual_seed(0)
    net, data = Net(), loader()
    pruning = WeightNormPruning(None, sparsities=(0, 0.3, 0.5, 0.8), scores=("norm", "magnitude"))
    make_trainer(tmp_path, pruning, Recorder(str(tmp_path))).test(net, data, verbose=False)
    rows = _rows(tmp_path / "classes.csv")
    assert {(row["score"], row["sparsity"]) for row in rows} == {
        (score, level) for score in ("norm", "magnitude") for level in ("0.0", "0.5", "0.8")
    }
    x, y = (torch.cat(parts) for parts in zip(*data, strict=True))
    for level in (0.0, 0.5, 0.8):
        masked = Net()
        masked.load_state_dict(net.state_dict())
        mask_neurons(masked, level, x[:1])
        right = masked(x).argmax(1) == y
        of_level = [r for r in rows if r["score"] == "norm" and float(r["sparsity"]) == level]
        assert [int(row["class"]) for row in of_level] == [0, 1]
        for row in of_level:
            expected = right[y == int(row["class"])].float().mean()
            assert float(row["accuracy"]) == pytest.approx(float(expected))
    assert [
        (row["layer"], row["left"], row["total"]) for row in _rows(tmp_path / "layers.csv")
    ] == [("net.0", left, "10") for left in ("10", "5", "2")]


def test_classes_without_a_sample_and_targets_without_a_class():
    measured = AccuracyByClass()
    outputs = torch.tensor([[1.0, 2, 0, 0], [3, 2, 0, 0], [float("nan"), 9, 0, 0], [0, 9, 0, 0]])
    measured.update(outputs, torch.tensor([1, 1, 1, 255]))
    measured.update(outputs[:1], torch.tensor([2]))
    assert {name: float(value) for name, value in measured.compute().items()} == {
        "class 1": pytest.approx(1 / 3),  # of a NaN among the scores nothing is the highest
        "class 2": 0.0,
    }


def test_other_tasks_have_no_classes():
    measured = AccuracyByClass()
    measured.update(torch.zeros(4, 1), torch.zeros(4, 1))
    assert measured.compute() == {}
