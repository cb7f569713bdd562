import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import nn

from ewnprune import EWN, reparametrize
from ewnprune.training.norms import effective_number, gini, neuron_norms, norm_statistics

norms = st.lists(st.floats(0, 1e6, width=32), min_size=1, max_size=40)


@given(norms)
def test_gini_is_the_mean_absolute_difference_over_twice_the_mean(values):
    r = np.array(values)
    expected = np.abs(r[:, None] - r).mean() / (2 * r.mean()) if r.any() else 0.0
    assert gini(torch.tensor(values)) == pytest.approx(expected, abs=1e-9)


@given(norms)
def test_effective_number_by_its_definition(values):
    r = np.array(values) / max(1e-30, max(values))
    expected = (r**2).sum() ** 2 / (r**4).sum() if r.any() else 0.0
    got = effective_number(torch.tensor(values))
    assert got == pytest.approx(expected, rel=1e-6)
    assert 0 <= got <= len(values) + 1e-9


def test_quantiles_agree_with_numpy():
    values = torch.randn(101, generator=torch.Generator().manual_seed(0)).abs()
    statistics = norm_statistics(values)
    for q in (5, 25, 50, 75, 95):
        assert statistics[f"q{q:02}"] == pytest.approx(np.quantile(values.double(), q / 100))


def test_norms_are_read_through_the_parametrization():
    model = nn.Sequential(nn.Conv2d(2, 3, 3), nn.Flatten(), nn.Linear(3, 1))
    reparametrize(model, EWN())
    with torch.no_grad():
        model[0].parametrizations.weight.original0.fill_(2.0)
    torch.testing.assert_close(neuron_norms(model[0]), torch.full((3,), 2.0).exp())
