import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from ewnprune.pruning.ranking import SPARSITIES, check_sparsities, rank

numbers = st.floats(-10, 10, width=32) | st.sampled_from([0.0, 1.0, float("inf")])
layer_scores = st.lists(st.lists(numbers, min_size=1, max_size=20), min_size=1, max_size=4)
levels = st.floats(0, 1, exclude_max=True)


def as_scores(lists):
    return {f"layer{i}": torch.tensor(values) for i, values in enumerate(lists)}


def lowest_by_hand(scores, count):
    """Which of a list's units the first ``count`` of a stable sort are, by NumPy."""
    gone = np.zeros(len(scores), dtype=bool)
    gone[np.argsort(np.asarray(scores), kind="stable")[:count]] = True
    return gone


def test_exact_count_of_the_paper_s_layer():
    ranking = rank({"hidden": torch.randn(1024)})
    for level in (0, 0.5, 0.8, 0.95, 0.98):
        assert int((~ranking.keep(level)["hidden"]).sum()) == round(level * 1024)


@given(layer_scores, levels)
def test_layer_scope_drops_the_lowest_of_each_layer(lists, level):
    keep = rank(as_scores(lists), "layer").keep(level)
    for name, values in as_scores(lists).items():
        count = min(round(level * len(values)), len(values) - 1)
        assert (~keep[name]).tolist() == lowest_by_hand(values.tolist(), count).tolist()


@given(layer_scores, levels)
def test_global_scope_keeps_the_best_of_each_layer_and_makes_up_the_count(lists, level):
    keep = rank(as_scores(lists), "global").keep(level)
    total = sum(map(len, lists))
    # by hand: the highest score of each layer (of equals the last) is out of the reckoning
    candidates = []
    for layer, values in enumerate(lists):
        best = max(range(len(values)), key=lambda i, values=values: (values[i], i))
        candidates += [(s, layer, i) for i, s in enumerate(values) if i != best]
    candidates.sort()
    wanted = {(layer, i) for _, layer, i in candidates[: round(level * total)]}
    gone = {
        (layer, i)
        for layer in range(len(lists))
        for i in (~keep[f"layer{layer}"]).nonzero().flatten().tolist()
    }
    assert gone == wanted
    assert len(gone) == min(round(level * total), total - len(lists))
    assert all(mask.any() for mask in keep.values())


@given(layer_scores, levels, st.floats(0.05, 1))
def test_a_cap_holds_for_every_layer_and_the_others_make_up_the_count(lists, level, cap):
    keep = rank(as_scores(lists), "global", max_per_layer=cap).keep(level)
    total = sum(map(len, lists))
    # by hand: of each layer the highest that the cap leaves (of equals the last) never go
    candidates = []
    for layer, values in enumerate(lists):
        order = sorted(range(len(values)), key=lambda i, values=values: (values[i], i))
        most = min(len(values) - 1, int(cap * len(values) + 1e-9))
        candidates += [(values[i], layer, i) for i in order[:most]]
        assert (~keep[f"layer{layer}"]).sum() <= cap * len(values) + 1e-9
    candidates.sort()
    wanted = {(layer, i) for _, layer, i in candidates[: round(level * total)]}
    gone = {
        (layer, i)
        for layer in range(len(lists))
        for i in (~keep[f"layer{layer}"]).nonzero().flatten().tolist()
    }
    assert gone == wanted


@given(
    st.lists(st.lists(st.floats(-10, 10), min_size=1, max_size=9), min_size=1, max_size=4), levels
)
def test_normalized_scores_are_over_the_root_of_the_mean_square(lists, level):
    scores = {name: values.double() for name, values in as_scores(lists).items()}
    divided = {}
    for name, values in scores.items():
        mean_square = sum(float(value) ** 2 for value in values) / len(values)
        divided[name] = values / mean_square**0.5 if mean_square else values
    keep, expected = rank(scores, "normalized").keep(level), rank(divided, "global").keep(level)
    assert all(torch.equal(keep[name], expected[name]) for name in keep)


def test_normalized_scores_do_not_mind_how_large_a_layer_s_weights_are():
    scores = {"small": torch.rand(9) / 1000, "large": torch.rand(9) * 1000}
    keep = rank(scores, "normalized").keep(0.5)
    assert min(int(kept.sum()) for kept in keep.values()) > 1
    assert int(rank(scores, "global").keep(0.5)["small"].sum()) == 1
    # what was pruned before goes first, and is no part of the scale
    scores["small"][:3] = -torch.inf
    assert not rank(scores, "normalized").keep(0.2)["small"][:3].any()


@pytest.mark.parametrize(
    ("scope", "cap", "message"),
    [
        ("layer", 0.9, "max_per_layer=0.9 is for a scope across layers: expected scope='global'"),
        ("global", 0, "max_per_layer=0: expected the fraction of a layer"),
        ("global", 1.5, "expected the fraction of a layer"),
        ("global", "0.5", "expected the fraction of a layer"),
    ],
)
def test_caps_that_do_not_fit_are_refused(scope, cap, message):
    with pytest.raises(ValueError, match=message) as caught:
        rank({"layer": torch.ones(2)}, scope, cap)
    assert "\n" not in str(caught.value)


@given(layer_scores, levels, st.integers(1, 3))
def test_isomorphic_layers_are_ranked_among_themselves(lists, level, kinds):
    scores = as_scores(lists)
    structures = {name: place % kinds for place, name in enumerate(scores)}
    keep = rank(scores, "isomorphic", structures=structures).keep(level)
    for kind in {*structures.values()}:
        alike = {name: values for name, values in scores.items() if structures[name] == kind}
        expected = rank(alike, "global").keep(level)
        assert all(torch.equal(keep[name], expected[name]) for name in alike)


@given(
    layer_scores, levels, levels, st.sampled_from(["layer", "global", "normalized"]),
    st.none() | st.floats(0.05, 1),
)  # fmt: skip
def test_levels_nest(lists, one, other, scope, cap):
    low, high = sorted((one, other))
    ranking = rank(as_scores(lists), scope, None if scope == "layer" else cap)
    dense, pruned = ranking.keep(low), ranking.keep(high)
    for name in dense:
        assert not (pruned[name] & ~dense[name]).any()


@given(st.integers(1, 40), levels)
def test_ties_go_by_index(units, level):
    keep = rank({"layer": torch.zeros(units)}).keep(level)["layer"]
    count = min(round(level * units), units - 1)
    assert keep.tolist() == [False] * count + [True] * (units - count)


@given(st.integers(1, 6), st.integers(1, 6), levels, st.sampled_from(["layer", "global"]))
def test_single_weights_are_ranked_like_neurons(rows, columns, level, scope):
    scores = torch.randn(rows, columns)
    ranking = rank({"layer": scores}, scope)
    assert ranking.unit == "weights"
    flat = rank({"layer": scores.flatten()}, scope).keep(level)["layer"]
    assert torch.equal(ranking.keep(level)["layer"].flatten(), flat)


def test_a_layer_of_one_neuron_stays():
    ranking = rank({"narrow": torch.tensor([-1.0]), "wide": torch.arange(9.0)}, "global")
    assert ranking.keep(0.98)["narrow"].tolist() == [True]
    assert int(ranking.keep(0.98)["wide"].sum()) == 1


@pytest.mark.parametrize("scope", ["layer", "global"])
def test_nan_scores_are_refused_by_name(scope):
    scores = {"good": torch.ones(3), "bad.layer": torch.tensor([1.0, float("nan")])}
    with pytest.raises(ValueError, match=r"'bad\.layer' has a NaN score \(the first at index 1\)"):
        rank(scores, scope)


def test_unknown_scope_is_refused():
    with pytest.raises(ValueError, match="scope='network': expected 'layer', 'global', 'norm"):
        rank({"layer": torch.ones(2)}, "network")


@given(st.lists(levels, min_size=1, max_size=30, unique=True), st.randoms())
@settings(max_examples=50)
def test_sparsities_come_back_sorted(values, random):
    shuffled = random.sample(values, len(values))
    assert check_sparsities(shuffled) == tuple(sorted(values))


@pytest.mark.parametrize(
    ("bad", "error", "message"),
    [
        ([0.5, 1.0], ValueError, r"sparsity 1\.0 is outside \[0, 1\)"),
        ([-0.1], ValueError, r"sparsity -0\.1 is outside"),
        ([80], ValueError, r"sparsity 80 is outside .* for 80 % write 0\.8"),
        ([float("nan")], ValueError, r"sparsity nan is outside"),
        ([0.5, 0.9, 0.5], ValueError, r"sparsity 0\.5 is given twice"),
        ([], ValueError, "sparsities is empty"),
        (["0.5"], TypeError, "sparsity '0.5' is no number"),
        ([True], TypeError, "sparsity True is no number"),
        ([torch.tensor([])], TypeError, r"sparsity tensor\(\[\]\) is no number"),
        ("0.5", TypeError, "expected a sequence of fractions"),
        (0.5, TypeError, "expected a sequence of fractions"),
    ],
)
def test_bad_sparsities_are_refused_in_one_line(bad, error, message):
    with pytest.raises(error, match=message) as caught:
        check_sparsities(bad)
    assert "\n" not in str(caught.value)


def test_default_levels_reach_from_dense_to_98_percent():
    assert check_sparsities(SPARSITIES) == SPARSITIES
    assert len(SPARSITIES) >= 20
    assert SPARSITIES[0] == 0
    assert SPARSITIES[-1] == 0.98
