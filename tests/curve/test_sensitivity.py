"""Ratios by measured curves: the predicted gain of the loss is as equal as whole units allow."""

from functools import partial
from itertools import product

import numpy as np
import pytest
import pytorch_lightning as pl
import torch
from hypothesis import example, given, settings
from hypothesis import strategies as st
from torch import nn
from toys.fits import Net, fit, make_trainer
from toys.sweeps import trained

from ewnprune import WeightNormPruning, remove_neurons, remove_with_notes, sparsity_curve
from ewnprune.pruning.ranking import rank
from ewnprune.pruning.sensitivity import predicted
from lightning_modules import MLP

LEVELS = (0, 0.25, 0.5, 0.75, 0.95)
gains = st.lists(st.floats(-1, 10), min_size=4, max_size=4).map(
    lambda values: dict(zip((0.0, 0.3, 0.6, 0.9), [0.0, *values[1:]], strict=True))
)


@given(gains, st.integers(1, 30))
@settings(deadline=None)
def test_the_prediction_is_numpys_on_straight_lines(by_level, units):
    found = predicted(by_level, units).numpy()
    x = np.array(sorted(by_level))
    y = np.maximum.accumulate(np.maximum([by_level[level] for level in x], 0))
    at = np.arange(1, units + 1) / units
    inside = at <= x[-1]
    np.testing.assert_allclose(found[inside], np.interp(at, x, y)[inside], rtol=1e-9, atol=1e-12)
    assert (np.diff(found) >= 0).all()
    beyond = y[-1] + (y[-1] - y[-2]) / (x[-1] - x[-2]) * (at - x[-1])
    np.testing.assert_allclose(found[~inside], beyond[~inside], rtol=1e-9, atol=1e-12)


def test_a_loss_that_is_no_number_is_the_worst():
    assert predicted({0.0: 0.0, 0.5: float("nan")}, 2)[0] == 1e30
    assert predicted({0.0: 0.0}, 3).tolist() == [0, 0, 0]


@given(st.lists(st.tuples(st.integers(2, 5), gains), min_size=2, max_size=3), st.floats(0, 0.99))
@example([(2, dict.fromkeys((0.0, 0.3, 0.6, 0.9), 0.0)), (5, {0.3: 0.0, 0.6: 3.5, 0.9: 0.0})], 0.5)
@settings(max_examples=80, deadline=None)
def test_no_other_counts_have_a_smaller_largest_gain(layers, level):
    torch.manual_seed(0)
    scores = {f"{i}": torch.rand(units, dtype=torch.float64) for i, (units, _) in enumerate(layers)}
    curves = {f"{i}": by_level for i, (_, by_level) in enumerate(layers)}
    keep = rank(scores, "sensitivity", gains=curves).keep(level)
    gone = {name: int((~kept).sum()) for name, kept in keep.items()}
    total = sum(map(len, scores.values()))
    assert sum(gone.values()) == min(round(level * total), total - len(scores))
    for name, kept in keep.items():  # within a layer the lowest scores go
        assert set((~kept).nonzero().flatten().tolist()) == set(
            scores[name].argsort()[: gone[name]].tolist()
        )
    steps = [[0.0, *predicted(curves[name], len(scores[name])).tolist()] for name in scores]

    def largest(counts):
        return max(row[count] for row, count in zip(steps, counts, strict=True))

    others = product(*(range(len(values)) for values in scores.values()))
    best = min(largest(counts) for counts in others if sum(counts) == sum(gone.values()))
    assert largest(gone.values()) == pytest.approx(best, abs=1e-12)


def test_from_curves_to_removal(batches):
    net = trained(MLP(hidden=(20, 12)), batches, steps=40)
    x = batches[0][0]
    scores = ("norm", "norm_product")
    alone = sparsity_curve(net, batches, LEVELS, scores, per_layer=True)
    sensitivity = alone.sensitivity()
    assert [(score, *layers) for score, layers in sensitivity.items()] == [
        (score, "fc1", "fc2") for score in scores
    ]
    (dense,) = alone.where(score="norm", layer="fc2", sparsity=0)
    (half,) = alone.where(score="norm", layer="fc2", sparsity=0.5)
    assert sensitivity["norm"]["fc2"][0.5] == half.loss - dense.loss
    options = {"scope": "sensitivity", "sensitivity": sensitivity}
    for score in scores:
        removal = remove_with_notes(net, 0.5, x, score=score, **options)
        (one, _), (two, _) = removal.left["fc1"], removal.left["fc2"]
        assert one + two == 16
        rows = [predicted(sensitivity[score][n], k) for n, k in (("fc1", 20), ("fc2", 12))]
        reached = max(rows[0][20 - one - 1] if one < 20 else 0, rows[1][12 - two - 1])
        for row, left, size in ((rows[0], one, 20), (rows[1], two, 12)):
            if left > 1:  # one more of any layer would cost as much or more
                assert row[size - left] >= reached - 1e-12
    (point,) = sparsity_curve(net, batches, (0.5,), "norm", **options).points
    small = remove_neurons(net, 0.5, x, **options)
    assert point.parameters.left == sum(p.numel() for p in small.parameters())
    assert point.scope == "sensitivity"


def test_what_is_missing_is_told(batches):
    net, x = MLP(hidden=(6, 4)), batches[0][0]
    with pytest.raises(ValueError, match="scope='sensitivity' goes by a curve of each layer"):
        remove_neurons(net, 0.5, x, scope="sensitivity")
    with pytest.raises(ValueError, match="sensitivity is for scope='sensitivity' alone"):
        remove_neurons(net, 0.5, x, sensitivity={})
    options = {"layers": "fc1", "per_layer": True}
    curves = sparsity_curve(net, batches, (0, 0.5), "norm", **options).sensitivity()
    with pytest.raises(ValueError, match="no curve of layer 'fc2' by score 'norm'"):
        remove_neurons(net, 0.5, x, scope="sensitivity", sensitivity=curves)
    with pytest.raises(ValueError, match="expected curves of each layer alone"):
        sparsity_curve(net, batches, (0, 0.5)).sensitivity()
    with pytest.raises(ValueError, match="expected curves of each layer alone"):
        sparsity_curve(net, batches, (0.5,), per_layer=True).sensitivity()


def test_the_callback_measures_on_validation_data(tmp_path):
    pl.seed_everything(3)
    scores = ("norm", "random")
    pruning = WeightNormPruning(None, LEVELS, scores, scope="sensitivity")
    model = Net(
        nn.Sequential(nn.Linear(6, 10), nn.ReLU(), nn.Linear(10, 8), nn.ReLU(), nn.Linear(8, 2))
    )
    trainer = fit(tmp_path, model, pruning, max_epochs=2)
    batches = list(trainer.val_dataloaders)
    take = partial(sparsity_curve, model, batches, LEVELS, scores, seed=3)
    curves = take(per_layer=True).sensitivity()
    expected = take(scope="sensitivity", sensitivity=curves)
    assert [p.parameters for p in pruning.curve] == [p.parameters for p in expected]
    with pytest.raises(ValueError, match="scope='sensitivity' goes by data, which test data must"):
        make_trainer(tmp_path, pruning).test(model, trainer.val_dataloaders, verbose=False)
