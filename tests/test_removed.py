import pytest
import torch
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

from ewnprune import read_curve, sparsity_curve, write_curve
from ewnprune.removal import remove_neurons
from ewnprune.removed import removal_curve


@pytest.fixture
def network():
    torch.manual_seed(0)
    return nn.Sequential(
        nn.Linear(20, 200), nn.ReLU(), nn.Linear(200, 100), nn.ReLU(), nn.Linear(100, 4)
    )


@pytest.fixture
def data():
    generator = torch.Generator().manual_seed(1)
    x = torch.randn(150, 20, generator=generator)
    return DataLoader(TensorDataset(x, x[:, :4].argmax(1)), 40)


def test_removed_networks_are_as_good_as_masked_ones_and_smaller(network, data, tmp_path):
    before = {key: value.clone() for key, value in network.state_dict().items()}
    levels, scores = (0, 0.5, 0.9), ("norm", "norm_product")
    curve = removal_curve(network, data, levels, scores, latency_seconds=0.02, method="removed")
    masked = sparsity_curve(network, data, levels, scores)
    assert len(curve) == len(masked) == 6
    for point, other in zip(curve, masked, strict=True):
        assert (point.score, point.sparsity) == (other.score, other.sparsity)
        assert (point.correct, point.total) == (other.correct, other.total)
        assert point.loss == pytest.approx(other.loss, rel=1e-5)
        for size in ("neurons", "weights", "parameters", "macs"):
            assert getattr(point, size) == getattr(other, size), size
    for level, point in zip(levels, curve.where(score="norm"), strict=True):
        a, b = 200 - round(level * 200), 100 - round(level * 100)
        assert point.macs.left == 20 * a + a * b + b * 4
        path = tmp_path / "small.pt"
        torch.save(remove_neurons(network, level, torch.zeros(1, 20)).state_dict(), path)
        # the file's name is in the file
        assert abs(point.metrics["bytes"] - path.stat().st_size) < 200
    assert all(value.equal(before[key]) for key, value in network.state_dict().items())
    assert network.training
    assert "batch of 1, on cpu" in curve.notes[1]
    write_curve(curve, tmp_path / "curve.json")
    assert read_curve(tmp_path / "curve.json") == curve


def test_latency_falls_with_the_size(data):
    wide = nn.Sequential(
        nn.Linear(20, 3000), nn.ReLU(), nn.Linear(3000, 2000), nn.ReLU(), nn.Linear(2000, 4)
    )
    dense, small = removal_curve(
        wide, data, (0, 0.9), latency_batch_size=64, latency_seconds=0.2
    ).points
    assert small.metrics["latency_ms"] < 0.5 * dense.metrics["latency_ms"]


def test_a_loader_without_batches(network):
    with pytest.raises(ValueError, match="no batch"):
        removal_curve(network, [], (0,))
