"""The verdicts on lin-sep and on the formulas, on numbers made up by hand."""

from types import SimpleNamespace

import pytest
import torch

from ewnprune.experiments import flow, lin_sep
from ewnprune.experiments.lin_sep_course import GROWING, Course


def _failed(criteria):
    return [(c.id, c.what) for c in criteria if not c.passed]


SPREADS = {  # at -200, -250 and -300
    "EWN": {"product": (1.2, 1.1, 1.05), "quotient": (3.0, 3.0, 3.0)},
    "SWN": {"product": (1.5, 1.5, 1.5), "quotient": (1.2, 1.1, 1.02)},
}
NORMS = {"EWN": (5.212, 5.982, 8.432), "SWN": (5.945, 6.693, 6.442)}


def _course(method, depths, spreads):
    """Of the neurons that grow the last has a product and quotient so many times the others'."""
    shape = len(depths), 9
    found = {name: torch.full(shape, 1.0) for name in ("product", "quotient", "norm")}
    grows = GROWING[method]
    for name, times in spreads.items():
        found[name][:, grows[-1]] = torch.tensor(times)
        found[name][:, 0] = 99.0  # of those that do not grow nobody asks
    found["norm"][-1, grows] = torch.tensor(NORMS[method])
    found["cosine"] = torch.full(shape, -0.5)
    found["cosine"][-1, grows] = -0.99995
    margin = torch.full(shape[:1], 0.2133)
    return Course(SimpleNamespace(**found), -torch.tensor(depths), margin)


def _lin_sep():
    courses = {
        method: _course(method, (100.0, 200.5, 250.5, 300.5), {k: (9.0, *v) for k, v in by.items()})
        for method, by in SPREADS.items()
    }
    courses["EWN"].found.cosine[-1, 8] = -0.97
    far = _course("EWN", (301.0, 1001.0, 10_000.0), {"product": (1.04, 1.03, 1.01)})
    far.found.norm[-1, [5, 7]] = torch.tensor([0.8328, 1.0])
    far.found.cosine[-1, 8] = -0.996
    return courses, {"EWN": 653, "SWN": 12_284}, far, [9.0, 2.0, 2.01]


def _judge(courses, steps, far, rates):
    return [
        *lin_sep._judge_levels(courses, steps),
        *lin_sep._judge_trend(courses, far, rates),
        *lin_sep._judge_angles(courses, far),
    ]


def test_lin_sep_that_holds():
    criteria = _judge(*_lin_sep())
    assert _failed(criteria) == []
    assert [c.id for c in criteria] == ["L1"] * 4 + ["L2"] * 5 + ["L3"] * 7 + ["L4"] * 4


PRODUCT, QUOTIENT = "||w|| ||g||", "||g|| / ||w||"


@pytest.mark.parametrize(
    ("method", "quantity", "place", "value", "failed"),
    [
        ("EWN", "product", (-1, 8), 1.11, ["EWN: {p}, largest over smallest at -300",
                                           "EWN: product spread at -300, and at -250"]),
        ("EWN", "quotient", (-1, 8), 1.9, ["EWN: {q}, largest over smallest at -300"]),
        ("EWN", "norm", (-1, 7), 6.003, ["EWN: norms against the log"]),
        ("SWN", "quotient", (-1, 8), 1.06, ["SWN: {q}, largest over smallest at -300"]),
        ("SWN", "product", (-1, 8), 1.1, ["SWN: {p}, largest over smallest at -300"]),
        ("SWN", "norm", (-1, 5), 5.924, ["SWN: norms against the log"]),
        ("SWN", "quotient", (-2, 8), 1.25, ["SWN: quotient spread at -250, and at -200"]),
        ("EWN", "product", (-2, 8), 1.04, ["EWN: product spread at -300, and at -250"]),
        ("EWN", "cosine", (-1, 7), -0.9998, ["EWN: cosine of w and g, neurons 5 and 7"]),
        ("EWN", "cosine", (-1, 8), -0.99, ["EWN: the same, neuron 8, not converged"]),
        ("SWN", "cosine", (-1, 6), -0.9998, ["SWN: cosine of w and g, all three"]),
        ("SWN", "norm", (-1, 7), 99.0, []),  # which does not grow
    ],
)  # fmt: skip
def test_lin_sep_fails_where_a_neuron_does(method, quantity, place, value, failed):
    courses, *rest = _lin_sep()
    getattr(courses[method].found, quantity)[place] = value
    whats = [what.format(p=PRODUCT, q=QUOTIENT) for what in failed]
    assert [what for _, what in _failed(_judge(courses, *rest))] == whats


def test_lin_sep_fails_far_down_and_where_steps_and_margin_do():
    courses, steps, far, rates = _lin_sep()
    steps |= {"EWN": 664, "SWN": 12_180}
    courses["SWN"].margin[-1] = 0.2145
    far.found.product[-1, 8], far.found.norm[-1, 5] = 1.03, 0.85
    far.found.cosine[-1, 8], rates[-1] = -0.99, 1.97
    assert _failed(_judge(courses, steps, far, rates)) == [
        ("L1", "EWN: steps"),
        ("L2", "SWN: normalized margin"),
        ("L2", "SWN: steps"),
        ("L3", "EWN: product spread at -10,000"),
        ("L3", "EWN: norm of neuron 5 over that of 7 at -10,000"),
        ("L3", "EWN: change of t L u^2 from -1,000 to -10,000"),
        ("L4", "EWN: the same at -10,000"),
    ]


@pytest.mark.parametrize("worse", [None, "step", "flow", "drift", "chain"])
def test_the_formulas_go_by_their_worst_draw(tmp_path, monkeypatch, worse):
    def error(name, kind, seed, bound):
        fails = (name, kind) == (worse, "SWN") and seed == 2
        return bound * (1.1 if fails else 0.9)

    def chain(method, depth):
        fails = worse == "chain" and (method, depth) == ("none", 4)
        return [(1, 2.0, 9.0), (10**6, 9.0, 0.98 if fails else 1.1)]

    monkeypatch.setattr(flow, "step_error", lambda kind, k: error("step", kind, k, 1e-12))
    monkeypatch.setattr(
        flow, "flow_errors", lambda *of: (error("flow", *of, 1e-6), error("drift", *of, 1e-6))
    )
    monkeypatch.setattr(flow, "chain", chain)
    monkeypatch.setattr(flow, "write_figure", lambda *_: None)
    criteria = flow.run(tmp_path)
    assert [c.id for c in criteria] == ["M1"] * 2 + ["M2"] * 4 + ["M3"] * 6
    whats = {
        "step": "SWN: 300 steps in weight space against descent on s and v, 10 draws",
        "flow": "SWN: flow in weight space against that of s, v",
        "drift": "SWN: drift of ||v|| along the flow",
        "chain": "none: D eta t L u^(2 - 2/D) after 1e6 steps, D = 4",
    }
    assert [what for _, what in _failed(criteria)] == ([] if worse is None else [whats[worse]])
    assert (tmp_path / "chain.csv").read_text().splitlines()[-1].startswith("none,4,1000000,9,")


@pytest.mark.parametrize("kind", ["EWN", "SWN"])
def test_the_formulas_are_held_against_descent_and_flow(monkeypatch, kind):
    assert flow.step_error(kind, 0, steps=3) < 1e-13
    error, drift = flow.flow_errors(kind, 0, steps=3)
    assert error < 1e-8 and drift < 1e-8
    step, along = flow.weight_space_step, flow.weight_flow
    monkeypatch.setattr(
        flow, "weight_space_step", lambda w, g, n, eta, kind: step(w, g, n, 1.01 * eta, kind)
    )
    monkeypatch.setattr(flow, "weight_flow", lambda *of: 1.01 * along(*of))
    assert flow.step_error(kind, 0, steps=3) > 1e-7
    assert flow.flow_errors(kind, 0, steps=3)[0] > 1e-7
