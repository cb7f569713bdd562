"""Neurons against single weights, at equal parameters and at equal multiply-accumulates."""

import numpy as np
import pytest
import torch
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

from ewnprune import Count, Curve, CurvePoint, sparsity_curve
from ewnprune.curve.text import format_at_equal


def curve_of(rows, **fields):
    """Points from (level, accuracy, parameters left of 1000, MACs left of 4000)."""
    return Curve(
        tuple(
            CurvePoint(
                sparsity=level,
                accuracy=accuracy,
                parameters=Count(parameters, 1000),
                macs=Count(macs, 4000),
                **fields,
            )
            for level, accuracy, parameters, macs in rows
        )
    )


NEURONS = curve_of([(0, 0.98, 1000, 4000), (0.5, 0.9, 600, 1000), (0.9, 0.5, 100, 40)], score="n")
WEIGHTS = curve_of(
    [(0, 0.98, 1000, 4000), (0.5, 0.96, 500, 2000), (0.9, 0.92, 100, 400)],
    score="w",
    unit="weights",
)


def test_between_levels_it_is_the_straight_line():
    assert NEURONS.at(1) == 0.98
    assert NEURONS.at(0.6) == 0.9  # 600 of 1000: measured
    assert NEURONS.at(0.8) == pytest.approx(0.94)  # halfway from 600 to 1000
    assert NEURONS.at(0.35) == pytest.approx(0.7)  # halfway from 100 to 600
    assert NEURONS.at(0.25, "macs") == 0.9
    assert NEURONS.at(0.625, "macs") == pytest.approx(0.94)
    assert WEIGHTS.at(0.3) == pytest.approx(0.94)


def test_nothing_is_extrapolated():
    assert NEURONS.at(0.05) is None
    assert NEURONS.at(0.005, "macs") is None
    assert WEIGHTS.at(0.1) == 0.92


def test_the_table_puts_equal_sizes_beside_each_other():
    text = format_at_equal(NEURONS + WEIGHTS, "parameters", left=(0.6, 0.1, 0.05))
    rows = [line.split() for line in text.splitlines()]
    assert [row[-2:] for row in rows[1:]] == [["90.00", "96.40"], ["50.00", "92.00"], ["-", "-"]]
    whole = (NEURONS + WEIGHTS).table()
    assert "parameters left" in whole
    assert "MACs left, on paper for weights" in whole
    assert "on paper" not in (NEURONS + NEURONS.tagged(seed=1)).table()


def test_bad_questions_are_refused():
    with pytest.raises(ValueError, match="size='flops': expected one of neurons, weights"):
        NEURONS.at(0.5, "flops")
    with pytest.raises(ValueError, match="2 series"):
        (NEURONS + WEIGHTS).at(0.5)
    with pytest.raises(ValueError, match="neurons left were not counted"):
        NEURONS.at(0.5, "neurons")
    with pytest.raises(ValueError, match="'loss' was not measured"):
        NEURONS.at(0.5, measure="loss")


@pytest.mark.parametrize("size", ["parameters", "macs"])
def test_as_networks_built_and_counted_by_hand(size):
    """Every network is made anew with zeros, run, and counted by a loop over its weights."""
    torch.manual_seed(0)
    net = nn.Sequential(nn.Linear(12, 40, bias=False), nn.ReLU(), nn.Linear(40, 3, bias=False))
    x = torch.randn(200, 12)
    y = x[:, :3].argmax(1)
    levels = (0, 0.25, 0.5, 0.75)
    curve = sparsity_curve(
        net, DataLoader(TensorDataset(x, y), 50), levels, ("norm", "magnitude"), layers="0"
    )
    first, second = (net[i].weight.detach().double().numpy() for i in (0, 2))
    total = first.size + second.size  # without biases a product is a parameter
    for score in ("norm", "magnitude"):
        left, accuracy = [], []
        for level in levels:
            a, b = first.copy(), second.copy()
            if score == "norm":
                gone = np.argsort(np.linalg.norm(first, axis=1))[: round(level * 40)]
                a[gone], b[:, gone] = 0, 0
            else:
                gone = np.argsort(np.abs(first).ravel())[: round(level * first.size)]
                a.ravel()[gone] = 0
            outputs = np.maximum(x.numpy() @ a.T, 0) @ b.T
            accuracy.append((outputs.argmax(1) == y.numpy()).mean())
            left.append((np.count_nonzero(a) + np.count_nonzero(b)) / total)
        for fraction in (0.95, 0.7, 0.5, left[1], left[3]):
            if fraction < left[-1]:
                continue
            expected = np.interp(fraction, left[::-1], accuracy[::-1])
            found = curve.where(score=score).at(fraction, size)
            assert found == pytest.approx(expected, abs=1e-9), (score, fraction)
