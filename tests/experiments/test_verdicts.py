"""The verdicts of `reproduce` on numbers made up by hand: each bound, from both of its sides."""

import math
from types import SimpleNamespace

import pytest
import torch

from ewnprune.experiments import conv_rate, mnist_small, xor
from ewnprune.experiments.descent import METHODS
from ewnprune.experiments.reference import read
from ewnprune.experiments.verdict import table


def _failed(criteria):
    return [(c.id, c.what) for c in criteria if not c.passed]


def _xor():
    """Runs and neurons of three seeds, those of the authors' as they logged them."""
    effective = {"EWN": 4.0, "SWN": 13.0, "none": 15.0}
    runs = [
        {"controller": controller, "method": method, "seed": seed, "log_loss": -51.0,
         "steps": {"EWN": 2785, "SWN": 9, "none": 1617}[method],
         "effective_neurons": effective[method]}
        for controller in ("authors'", "equal")
        for method in METHODS
        for seed in (9156, 0, 1)
    ]  # fmt: skip
    neurons = [
        {"controller": "authors'", "method": row["method"], "seed": 9156,
         "neuron": int(row["neuron"]), "norm": float(row["norm_final"])}
        for row in read("xor_neurons")
    ]  # fmt: skip
    return runs, neurons


def _run_of(runs, controller, method, seed):
    key = {"controller": controller, "method": method, "seed": seed}
    (found,) = [run for run in runs if key.items() <= run.items()]
    return found


def test_xor_as_logged_holds():
    criteria = xor._judge(*_xor())
    assert _failed(criteria) == []
    assert [c.id for c in criteria] == ["X1"] * 4 + ["X2"] * 8 + ["X3"] * 3


@pytest.mark.parametrize(
    ("run", "changes", "failed"),
    [
        (("authors'", "EWN", 9156), {"steps": 2788}, ["X1 EWN: steps, authors' seed"]),
        (("authors'", "none", 9156), {"steps": 1614}, ["X1 none: steps, authors' seed"]),
        (("authors'", "EWN", 0), {"steps": 1}, []),
        (("equal", "EWN", 1), {"effective_neurons": 3.2},
         ["X2 EWN: fewest effective neurons, equal controllers"]),
        (("authors'", "EWN", 1), {"effective_neurons": 5.1},
         ["X2 EWN: most effective neurons, authors' controllers"]),
        # a run that has not reached the depth tells nothing
        (("equal", "EWN", 1), {"effective_neurons": 9.0, "log_loss": -50.0}, []),
        (("authors'", "SWN", 9156), {"effective_neurons": 15.5},
         ["X3 SWN: effective neurons"]),
    ],
)  # fmt: skip
def test_xor_fails_where_a_run_does(run, changes, failed):
    runs, neurons = _xor()
    _run_of(runs, *run).update(changes)
    criteria = xor._judge(runs, neurons)
    assert [" ".join(words) for words in _failed(criteria)] == failed
    counts = [c.what for c in criteria if "median" in c.what and "equal" in c.what]
    of_ewn = 2 if "log_loss" in changes else 3
    assert counts == [
        f"EWN: median over {of_ewn} of 3 runs, equal controllers",
        "none: median over 3 of 3 runs, equal controllers",
    ]


def test_xor_medians():
    runs, neurons = _xor()
    for seed in (0, 1):
        _run_of(runs, "authors'", "EWN", seed)["effective_neurons"] = 4.6
        _run_of(runs, "equal", "none", seed)["effective_neurons"] = 9.5
    assert _failed(xor._judge(runs, neurons)) == [
        ("X2", "EWN: median over 3 of 3 runs, authors' controllers"),
        ("X2", "none: median over 3 of 3 runs, equal controllers"),
    ]


@pytest.mark.parametrize(
    ("method", "neuron", "change", "failed"),
    [
        ("EWN", 17, 0.011, ["EWN: the four largest norms against the log"]),
        ("EWN", 3, 0.011, []),  # the fifth largest
        ("none", 3, -0.0011, ["none: all norms against the log"]),
        ("SWN", 17, 0.2, ["SWN: largest norm"]),
        ("SWN", slice(7, 9), 0.02, ["SWN: neurons with norm below 0.01, authors' seed"]),
    ],
)
def test_xor_fails_where_a_norm_does(method, neuron, change, failed):
    runs, neurons = _xor()
    of_method = [row for row in neurons if row["method"] == method]
    for row in of_method[neuron] if isinstance(neuron, slice) else [of_method[neuron]]:
        row["norm"] += change
    assert [what for _, what in _failed(xor._judge(runs, neurons))] == failed


@pytest.mark.parametrize("method", ["EWN", "none"])
def test_xor_of_which_no_run_goes_deep_enough_has_failed(method):
    runs, neurons = _xor()
    for seed in (9156, 0, 1):
        _run_of(runs, "equal", method, seed)["log_loss"] = -49.0
    criteria = xor._judge(runs, neurons)
    failed = [c for c in criteria if not c.passed]
    assert len(failed) == (3 if method == "EWN" else 1)
    assert all(math.isnan(c.value) and "equal controllers" in c.what for c in failed)
    assert f"{method}: median over 0 of 3 runs, equal controllers" in table(criteria)


def test_xor_summary():
    state = SimpleNamespace(
        accepted=torch.tensor([0, 7]), rejected=torch.tensor([0, 3]), log_loss=torch.tensor([0, -9])
    )
    norms = torch.tensor([3.0, 3.0, 0.3, 0.009], dtype=torch.float64)
    found = xor._summary(SimpleNamespace(state=state), 1, norms)
    effective = (18 + 0.09 + 0.009**2) ** 2 / (162 + 0.0081 + 0.009**4)
    assert found.pop("effective_neurons") == pytest.approx(effective)
    assert found == {
        "steps": 7, "undone": 3, "log_loss": -9, "above_tenth_of_largest": 2, "below_0.01": 1
    }  # fmt: skip


def _conv_rate():
    columns = {m: [float(row[m]) for row in read("conv_rate_depth1")] for m in METHODS}
    found = {(m, 1): torch.tensor(c, dtype=torch.float64)[:, None] for m, c in columns.items()}
    for method in METHODS:
        for depth, bounds in zip((2, 3, 4), conv_rate._SEEN[method], strict=True):
            found[method, depth] = torch.tensor([[9.0] * 2, bounds], dtype=torch.float64)
    return found


@pytest.mark.parametrize(
    ("key", "place", "factor", "failed"),
    [
        (("none", 1), (0, 0), 1, []),
        (("SWN", 1), (2500, 0), 1 + 2e-4, [("C1", "SWN: 5,000 losses at depth 1, largest error")]),
        (("EWN", 2), (-1, 0), 0.8, [("C2", "EWN: lowest last loss of 2 seeds, depth 2")]),
        (("none", 3), (-1, 1), 1.2, [("C2", "none: highest last loss of 2 seeds, depth 3")]),
        (("none", 3), (0, 1), 9, []),  # it is the last step that counts
    ],
)
def test_conv_rate(key, place, factor, failed):
    found = _conv_rate()
    found[key][place] *= factor
    assert _failed(conv_rate._judge(found)) == failed


def test_conv_rate_compares_depths():
    found = _conv_rate()
    ratio = float((found["SWN", 1][-1] / found["SWN", 4][-1]).mean())
    found["SWN", 4][-1] *= ratio / 33
    criterion = conv_rate._judge(found)[-2]
    assert criterion.what == "SWN: last loss at depth 1 over that at depth 4"
    assert (criterion.value, criterion.passed) == (pytest.approx(33), False)
    assert [c.id for c in conv_rate._judge(found)] == ["C1"] * 3 + ["C2"] * 18 + ["C3"] * 3


def _small():
    fractions = {"EWN": (0.99, 0.6, 0.1), "SWN": (0.99, 0.95), "none": (0.99, 0.9, 0.85)}
    levels = [
        {"method": method, "seed": seed, "depth": depth, "effective_fraction": fraction}
        for method, values in fractions.items()
        for depth, fraction in zip((10, 100, 300), values, strict=False)
        for seed in (0, 1)
    ]
    accuracies = {("EWN", 80): 0.9, ("EWN", 90): 0.88, ("none", 80): 0.85, ("none", 90): 0.75}
    curves = [
        {"method": method, "seed": seed, "depth": depth, "criterion": name, "pruned": percent,
         "test_acc": accuracy if (depth, name) == (300, "norm") else 0.0}
        for (method, percent), accuracy in accuracies.items()
        for depth in (100, 300)
        for name in ("norm", "change")
        for seed in (0, 1)
    ]  # fmt: skip
    return levels, curves


def test_small_mnist_that_holds():
    assert _failed(mnist_small._judge(*_small(), deep=True)) == []
    ids = [c.id for c in mnist_small._judge(*_small(), deep=True)]
    assert ids == ["N1"] * 3 + ["N2"] * 3 + ["N3"] * 3
    assert "N2" not in [c.id for c in mnist_small._judge(*_small(), deep=False)]


@pytest.mark.parametrize(
    ("method", "depth", "fraction", "failed"),
    [
        ("EWN", 100, 0.7, "EWN at -100"),
        ("SWN", 100, 0.9, "SWN at -100"),
        ("none", 100, 0.8, "none at -100"),
        ("EWN", 300, 0.13, "EWN at -300"),
        ("SWN", 10, 0.97, "SWN at -10"),
    ],
)
def test_small_mnist_goes_by_its_worst_seed(method, depth, fraction, failed):
    levels, curves = _small()
    key = {"method": method, "depth": depth, "seed": 1}
    for row in levels:
        if key.items() <= row.items():
            row["effective_fraction"] = fraction
    ((_, what),) = _failed(mnist_small._judge(levels, curves, deep=True))
    assert what.startswith(f"{failed}: effective neurons")


@pytest.mark.parametrize(("percent", "bound"), [(80, 0.04), (90, 0.12)])
def test_small_mnist_compares_mean_accuracies(percent, bound):
    levels, curves = _small()
    key = {"method": "none", "depth": 300, "criterion": "norm", "pruned": percent, "seed": 1}
    for row in curves:
        if key.items() <= row.items():
            row["test_acc"] += 0.03
    found = mnist_small._judge(levels, curves, deep=True)
    ((_, what),) = _failed(found)
    assert what == f"EWN minus none at -300: accuracy with {percent} % removed by norm"
    (criterion,) = [c for c in found if not c.passed]
    assert criterion.value == pytest.approx((0.05 if percent == 80 else 0.13) - 0.015)
    assert criterion.bound == f"> {bound:g}"
