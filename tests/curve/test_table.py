"""The table of a curve, as a terminal shows it."""

from dataclasses import replace

import pytest
from toys.curves import series

from ewnprune.curve.curve import Curve
from ewnprune.curve.points import CurvePoint
from ewnprune.model.size import Count


def full(method="", score="norm", levels=(0, 0.5, 0.98), total=10000):
    return Curve(
        tuple(
            CurvePoint(
                sparsity=s, accuracy=(0.98 - s / 10), correct=int(9800 - 1000 * s), total=total,
                loss=0.1 + s, method=method, score=score, split="test",
                neurons=Count(round(1024 * (1 - s)), 1024),
                parameters=Count(round(10**5 * (1 - s)), 10**5), macs=Count(1, 1),
            )
            for s in levels
        ),
        (f"fc1: neurons removed with bias, {'a long story, ' * 12}the end", "fc2: left: last"),
    )  # fmt: skip


def test_the_table_of_one_series():
    lines = full("EWN").table().splitlines()
    assert lines[0] == "EWN, ranked by norm, test data"
    assert lines[3].split() == [
        "0", "%", "1024", "of", "1024", "100.0", "%", "100.0", "%", "98.00", "97.71", "-", "98.26",
    ]  # fmt: skip
    assert lines[5].split()[:2] == ["98", "%"]
    assert [line.split() for line in lines[7:9]] == [["removed", "loss"], ["0", "%", "0.1"]]
    assert lines[12] == "dense   mean  within 0.5 pt  within 1 pt  within 2 pt"
    assert lines[13] == "98.00  93.10            0 %          0 %          0 %"


@pytest.mark.parametrize("names", [[""], ["plain", "EWN"], [f"method {i}" * 3 for i in range(9)]])
def test_no_line_of_the_text_is_longer_than_a_terminal(names):
    curve = Curve()
    for name in names:
        curve += full(name) + full(name, "norm_product")
    lines = str(curve).splitlines()
    assert max(map(len, lines)) < 80
    assert lines == [line.rstrip() for line in lines]
    assert lines[-1] == "fc2: left: last"
    assert "the end" in str(curve)
    for level in ("0 %", "50 %", "98 %"):
        assert any(line.strip().startswith(level) for line in lines)
    for name in names:
        assert name in str(curve)


def test_points_that_nothing_tells_apart_are_refused():
    one, other = full(), Curve((replace(full().points[1], accuracy=0.5),))
    with pytest.raises(ValueError, match=r"4 points of one series are at 3 levels: tell curves"):
        str(one + other)
    assert "50.00" in str(one.tagged(seed=0) + other.tagged(seed=1))


def test_tables_of_parts_of_a_curve():
    assert str(Curve()) == "(no points)"
    assert "95 % interval" not in series([0.9, 0.8]).table()
    loss_only = Curve((CurvePoint(sparsity=0, loss=0.5), CurvePoint(sparsity=0.5, loss=0.75)))
    assert loss_only.table().splitlines()[0].split() == ["removed", "loss"]
    assert full().table("loss").splitlines()[2].split()[-3:] == ["loss", "accuracy", "(%)"]
    uneven = full("plain") + full("EWN", levels=(0, 0.9))
    rows = {line.strip()[:4].strip(): line for line in uneven.table().splitlines()[3:7]}
    assert rows["90 %"].split()[-1] == "89.00"
    assert rows["50 %"].split()[-1] != "89.00"
    other_sizes = full("plain") + Curve(
        tuple(replace(p, method="EWN", macs=Count(2, 3)) for p in full())
    )
    assert "MACs" not in other_sizes.table()
    assert "neurons left" in other_sizes.table()
