import pytest
import torch
from torch import nn
from torch.nn.utils import parameters_to_vector, vector_to_parameters
from torch.utils.data import DataLoader, TensorDataset
from torchmetrics.classification import MulticlassF1Score

from ewnprune import Budget, read_curve, sparsity_curve, write_curve
from ewnprune.pruning.removal import remove_neurons


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


@pytest.mark.parametrize("vector", [False, True], ids=["apart", "in one vector"])
def test_removed_networks_are_as_good_as_masked_ones_and_smaller(network, data, vector, tmp_path):
    if vector:
        parameters = parameters_to_vector(network.parameters()).detach().clone()
        vector_to_parameters(parameters, network.parameters())
    before = {key: value.clone() for key, value in network.state_dict().items()}
    levels, scores = (0, 0.5, 0.9), ("norm", "norm_product")
    curve = sparsity_curve(
        network, data, levels, scores, realize="remove", latency_seconds=0.02, method="removed"
    )
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
    x = torch.zeros(1, 20)
    assert remove_neurons(network, budget=Budget(bytes=0.5), example_input=x)[0].out_features > 100
    assert all(value.equal(before[key]) for key, value in network.state_dict().items())
    assert network.training
    assert "batch of 1, on cpu" in next(n.text for n in curve.notes if n.kind == "latency")
    write_curve(curve, tmp_path / "curve.json")
    assert read_curve(tmp_path / "curve.json") == curve


def test_measures_are_those_of_each_network_by_itself(network, data):
    curve = sparsity_curve(
        network,
        data,
        (0, 0.5),
        ("norm", "norm_product"),
        metric=MulticlassF1Score(4),
        loss_fn=lambda outputs, y: nn.functional.cross_entropy(outputs, y, label_smoothing=0.2),
        realize="remove",
        latency_batch_size=7,
        latency_seconds=0.01,
    )
    x, y = data.dataset.tensors
    for point in curve:
        alone = remove_neurons(network, point.sparsity, x[:1], score=point.score).eval()
        with torch.no_grad():
            outputs = alone(x)
        expected = nn.functional.cross_entropy(outputs, y, label_smoothing=0.2).item()
        assert point.loss == pytest.approx(expected, rel=1e-5)
        assert point.metrics["MulticlassF1Score"] == pytest.approx(
            MulticlassF1Score(4)(outputs, y).item()
        )
        assert point.metrics["latency_ms"] > 0
        assert point.realize == "remove"
    assert "batch of 7" in str(curve)
    assert str(curve).count("latency_ms") == 2  # a column for each score
    assert "norm, bytes" in str(curve)


def test_latency_is_never_claimed_for_masks(network, data):
    curve = sparsity_curve(network, data, (0, 0.5), ("norm", "magnitude"))
    assert all(not point.metrics and point.realize == "mask" for point in curve)
    assert "latency" not in str(curve)
    assert "MACs left, on paper" in str(curve.where(score="magnitude"))
    assert "on paper" not in curve.where(score="norm").table()


def test_a_repair_learns_from_the_example_given(network, data):
    example = torch.randn(30, 20)
    options = {"scores": "norm", "realize": "repair", "latency_seconds": 0.01}
    curve = sparsity_curve(network, data, (0, 0.5), example_input=example, **options)
    other = sparsity_curve(network, data, (0, 0.5), **options)
    x, y = data.dataset.tensors
    small = remove_neurons(network, 0.5, x[:1], repair=example).eval()
    with torch.no_grad():
        expected = nn.functional.cross_entropy(small(x), y).item()
    assert curve.points[1].loss == pytest.approx(expected, rel=1e-5)
    assert other.points[1].loss != curve.points[1].loss
    assert {point.realize for point in curve} == {"repair"}


def test_what_cannot_be_removed_is_told(network, data):
    with pytest.raises(ValueError, match="realize='drop': expected 'mask', 'remove'"):
        sparsity_curve(network, data, (0, 0.5), realize="drop")
    with pytest.raises(ValueError, match="score 'magnitude' ranks single weights"):
        sparsity_curve(network, data, (0, 0.5), "magnitude", realize="remove")


def test_a_loader_without_batches(network):
    with pytest.raises(ValueError, match="no batch"):
        sparsity_curve(network, [], (0,), realize="remove")
