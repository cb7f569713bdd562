import csv
import json
import math
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from jsonargparse import auto_cli
from tqdm import tqdm

from ewnprune.experiments import command, conv_rate, flow, lin_sep_course, simple_traj, verdict, xor
from ewnprune.experiments.reference import read


@pytest.fixture
def bar():
    with tqdm(disable=True) as bar:
        yield bar


def test_simple_traj_ends_where_the_authors_runs_do(tmp_path):
    criteria = simple_traj.run(tmp_path)
    assert [c.id for c in criteria] == ["ST1", "ST1", "ST2", "ST2", "ST2", "ST3"]
    assert all(c.passed for c in criteria)
    with (tmp_path / "trajectories.csv").open() as file:
        rows = [r for r in csv.DictReader(file) if (r["method"], r["w1_init"]) == ("EWN", "5")]
    assert rows[0] == {
        "method": "EWN", "w1_init": "5", "w2_init": "1", "step": "0", "w1": "5", "w2": "1"
    }  # fmt: skip
    assert rows[-1]["step"] == "45"
    assert float(rows[-1]["w1"]) == pytest.approx(25.25367454, abs=1e-6)
    assert {path.name for path in tmp_path.iterdir()} == {
        "trajectories.csv", "figure.png", "figure.svg"
    }  # fmt: skip


@pytest.mark.parametrize(
    ("method", "steps", "tolerance"), [("EWN", 2785, 2e-3), ("none", 1617, 1e-4)]
)
def test_xor_follows_the_authors_run(bar, method, steps, tolerance):
    rule = xor._CONTROLLERS["authors'"][method]
    end, path = xor._descend(method, rule, xor._start([9156]), bar)
    assert end.state.accepted.tolist() == [steps]
    logged = [r for r in read("xor_neurons") if r["method"] == method]
    for name, norms in (("norm_s100", path[100]), ("norm_final", end.previous[0][0].norm(dim=1))):
        wanted = torch.tensor([float(r[name]) for r in logged], dtype=torch.float64)
        torch.testing.assert_close(norms, wanted, rtol=0, atol=tolerance)


def test_xor_start_leaves_the_global_generator_alone():
    torch.manual_seed(1)
    before = torch.random.get_rng_state()
    first = xor._start([9156, 3])
    assert torch.equal(torch.random.get_rng_state(), before)
    assert first[0].norm(dim=1)[0].item() == pytest.approx(0.375782, abs=1e-6)  # the log's


def test_lin_sep_jumps_to_and_fro_are_found():
    product = torch.ones(9, 9)
    # smooth up to 1.3, then up and down, and smooth again
    product[:, 5] = torch.tensor([1, 1.1, 1.2, 1.3, 1.6, 1.2, 1.7, 1.31, 1.32])
    course = lin_sep_course.Course(SimpleNamespace(product=product), None, None)
    assert course.wild("EWN") == slice(4, 8)


def test_lin_sep_goes_on_from_where_its_runs_end():
    """Marks that lie before would all be of the first point."""
    assert len(lin_sep_course.MARKS) == 23 and max(lin_sep_course.MARKS) == 10_000
    assert 300 < min(lin_sep_course.MARKS) < 350


def test_lin_sep_ewn_follows_the_authors_run(bar):
    course, end = lin_sep_course.course_down("EWN", bar)
    assert abs(int(end.state.accepted[0]) - 653) <= 10
    logged = [r for r in read("lin_sep_levels") if r["method"] == "EWN"]
    for row in (logged[0], logged[1], logged[-1]):  # in between steps are too large to compare
        point = int((course.log_loss - float(row["log_loss"])).abs().argmin())
        products = course.found.product[point, [5, 7, 8]]
        wanted = torch.tensor([float(row[f"wg{x}"]) for x in "ABC"], dtype=torch.float64)
        # the log's gradients are scaled by the loss one step back, here by the current one
        ratio = products / wanted
        torch.testing.assert_close(
            ratio / ratio.mean(), torch.ones(3, dtype=torch.float64), rtol=2e-3, atol=0
        )
    # Euler: w.g over a layer is its degree (relu^2: 2 and 1) times one number
    found = course.found
    dots = found.product * found.cosine
    torch.testing.assert_close(dots[:, :8].sum(1), 2 * dots[:, 8], rtol=1e-9, atol=1e-9)


def test_conv_rate_depth_1_follows_all_5000_logged_losses(bar):
    found = conv_rate.losses("EWN", 1, 1, bar)[:, 0]
    logged = torch.tensor([float(r["EWN"]) for r in read("conv_rate_depth1")], dtype=torch.float64)
    assert ((found - logged).abs() / logged).max() < 1e-4


def test_conv_rate_gradients_and_start():
    points, goal = conv_rate._problem()
    weights = conv_rate._start(4, 2, goal)
    product = weights[3] @ weights[2] @ weights[1] @ weights[0]
    torch.testing.assert_close(product, goal.expand(2, 1, 2))
    leaves = [w.clone().requires_grad_() for w in weights]
    margins = (leaves[3] @ leaves[2] @ leaves[1] @ leaves[0] @ points.T)[:, 0]
    loss = torch.nn.functional.softplus(-margins).sum(1)
    got, grads = conv_rate._loss_and_gradients(weights, points)
    torch.testing.assert_close(got, loss.detach())
    for a, b in zip(grads, torch.autograd.grad(loss.sum(), leaves), strict=True):
        torch.testing.assert_close(a, b)


def test_flow_in_weight_space_is_the_limit_of_small_steps():
    generator = torch.Generator().manual_seed(0)
    w, g = (torch.randn(4, 3, generator=generator, dtype=torch.float64) for _ in range(2))
    n = torch.full((4, 1), 1.7, dtype=torch.float64)
    for kind in ("EWN", "SWN"):
        moved, _ = flow.weight_space_step(w, g, n, 1e-7, kind)
        torch.testing.assert_close(
            (moved - w) / 1e-7, flow.weight_flow(kind, w, g, n), rtol=1e-5, atol=1e-6
        )
    unit = torch.ones_like(n)  # the formula as the paper states it
    torch.testing.assert_close(
        flow.weight_flow("EWN", w, g, unit), -w.square().sum(1, keepdim=True) * g
    )


def test_chain_obeys_the_flow_where_that_has_a_closed_form():
    # depth 1, none: dL/dt = -L^2, so 1/L = 1/L_0 + t
    step, u, value = flow.chain("none", 1, eta=1e-3, steps=20_000)[-1]
    assert (step, u) == (20_000, pytest.approx(math.log(math.exp(2) + 20), abs=1e-3))
    assert value == pytest.approx(20 * math.exp(-u))


def test_criteria_are_judged_by_their_bounds():
    assert verdict.below("a", "", 1.0, 2.0).passed and not verdict.below("a", "", 2.0, 2.0).passed
    assert verdict.above("a", "", 3.0, 2.0).passed and not verdict.above("a", "", 2.0, 2.0).passed
    assert verdict.within("a", "", 2.0, 2.0, 3.0).passed
    assert not verdict.within("a", "", 3.1, 2.0, 3.0).passed
    assert verdict.near("a", "", 2.1, 2.0, 0.11).passed
    assert not verdict.near("a", "", 1.8, 2.0, 0.11).passed
    assert not any(
        c.passed
        for c in (
            verdict.below("a", "", math.nan, 2.0),
            verdict.above("a", "", math.nan, 2.0),
            verdict.within("a", "", math.nan, 0, 1),
            verdict.near("a", "", math.nan, 0, 1),
        )
    )


def test_the_same_data_give_the_same_files(tmp_path):
    points = flow.chain("none", 1, steps=1000)
    for name in ("a", "b"):
        (tmp_path / name).mkdir()
        verdict.write_figure(tmp_path / name, flow._figure({("none", 1): points}))
    for kind in ("png", "svg"):
        first, second = ((tmp_path / name / f"figure.{kind}").read_bytes() for name in "ab")
        assert first == second


@pytest.fixture
def room(monkeypatch):
    calls = []

    def fake(out, seeds):
        calls.append(seeds)
        return [
            verdict.below("X1", "error", 0.5, 1.0),
            verdict.near("X2", "steps", math.nan if seeds == 13 else 3.0, 3, 0),
        ]

    monkeypatch.setitem(command._ROOMS, "xor", fake)
    return calls


def test_reproduce_judges_writes_and_does_not_repeat(tmp_path, capsys, room):
    assert command.reproduce("xor", str(tmp_path), seeds=2) == 0
    content = json.loads((tmp_path / "xor" / "verdict.json").read_text())
    assert content["settings"] == {"seeds": 2} and content["passed"] is True
    assert content["criteria"][0] == {
        "id": "X1", "what": "error", "bound": "< 1", "value": 0.5, "passed": True
    }  # fmt: skip
    assert "2 of 2 criteria hold" in capsys.readouterr().out

    assert command.reproduce("xor", str(tmp_path), seeds=2) == 0
    assert room == [2]
    assert "finished before" in capsys.readouterr().out

    assert command.reproduce("xor", str(tmp_path), seeds=13) == 1
    assert room == [2, 13]
    out = capsys.readouterr().out
    assert "FAIL  X2  steps  nan  3 +- 0" in out and "1 of 2 criteria hold" in out
    # a failure is remembered as one
    assert command.reproduce("xor", str(tmp_path), seeds=13) == 1
    assert room == [2, 13]


def test_what_was_not_judged_has_not_passed(tmp_path, capsys, monkeypatch):
    monkeypatch.setitem(command._ROOMS, "xor", lambda out, seeds: [])
    for _ in range(2):  # once more, of the verdict that was left
        assert command.reproduce("xor", str(tmp_path)) == 0
        out = capsys.readouterr().out
        assert "nothing was judged" in out and "hold" not in out
    content = json.loads((tmp_path / "xor" / "verdict.json").read_text())
    assert content["passed"] is None and content["criteria"] == []


def test_an_experiment_that_breaks_off_leaves_no_verdict(tmp_path, monkeypatch, room):
    command.reproduce("xor", str(tmp_path), seeds=2)

    def broken(out, seeds):
        raise RuntimeError("interrupted")

    monkeypatch.setitem(command._ROOMS, "xor", broken)
    with pytest.raises(RuntimeError, match="interrupted"):
        command.reproduce("xor", str(tmp_path), seeds=3)
    assert not (tmp_path / "xor" / "verdict.json").exists()


def test_all_runs_everything_but_full_mnist(tmp_path, monkeypatch):
    ran = []
    for name in command._ROOMS:

        def fake(out, name=name, **options):
            ran.append((name, options))
            return [verdict.below("a", name, 0, 1)]

        monkeypatch.setitem(command._ROOMS, name, fake)
    assert command.reproduce("all", str(tmp_path), data_dir="somewhere") == 0
    assert dict(ran) == {
        "flow": {}, "simple-traj": {}, "xor": {"seeds": 20}, "lin-sep": {},
        "conv-rate": {"seeds": 3},
        "mnist-small": {"seeds": 1, "deep": False, "data_dir": "somewhere"},
    }  # fmt: skip


def test_reproduce_is_a_command(tmp_path, room):
    words = ["xor", f"--out={tmp_path}", "--seeds=4"]
    assert auto_cli(command.reproduce, args=words) == 0
    assert room == [4]


def test_bad_input_is_named(tmp_path, monkeypatch):
    with pytest.raises(ValueError, match=r"seeds=0.*>= 1"):
        command.reproduce("xor", str(tmp_path), seeds=0)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    with pytest.raises(ValueError, match=r"device='cuda'.*no GPU"):
        command.reproduce("mnist", str(tmp_path), device="cuda")


def test_the_shipped_reference_is_complete():
    assert len(read("conv_rate_depth1")) == 5000
    assert len(read("xor_neurons")) == 60 and len(read("simple_traj_endpoints")) == 10
    counts = {}
    for row in read("mnist_prune_mean"):
        key = (row["method"], row["loss_level"], row["criterion"])
        counts[key] = counts.get(key, 0) + 1
    assert set(counts.values()) == {20} and len(counts) == 3 * (3 + 4 + 5)
    assert np.isfinite([float(r["mean"]) for r in read("mnist_prune_mean")]).all()
