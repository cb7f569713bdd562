import math

import numpy as np
import pytest
import torch
from torch import nn
from torch.nn.utils.parametrizations import weight_norm

from ewnprune import EWN, reparametrize
from ewnprune.model.copying import plain_network
from ewnprune.model.tracing import call
from ewnprune.pruning.choice import Choice
from ewnprune.pruning.score_names import find_scores
from ewnprune.pruning.scores import (
    Neurons,
    magnitude,
    norm,
    norm_change,
    norm_product,
    norm_with_bias,
    norm_with_bias_product,
    random,
    random_weights,
)


def seen(model, inputs, score, **options):
    """What a score is shown of each chosen layer of a model."""
    shown = {}

    def spy(neurons):
        shown[neurons.layer] = neurons
        return score(neurons)

    choice = Choice(**options)
    with torch.no_grad():
        found = choice.find(plain_network(model.eval()), call, inputs)
    ranking, _ = choice.rank(found, "spy", spy)
    return shown, ranking


@pytest.fixture
def neurons():
    return Neurons(
        layer="hidden",
        rows=torch.tensor([[3.0, 4.0], [0.0, 2.0], [-1.0, 0.0]]),
        bias=torch.tensor([12.0, 0.0, -1.0]),
        outgoing=torch.tensor([[0.0, 2.0], [3.0, 4.0], [1.0, 0.0]]),
        initial_norm=torch.tensor([1.0, 2.0, 4.0]),
    )


def test_formulas_by_hand(neurons):
    assert norm(neurons).tolist() == [5, 2, 1]
    assert norm_with_bias(neurons).tolist() == pytest.approx([13, 2, math.sqrt(2)])
    assert norm_product(neurons).tolist() == [10, 10, 1]
    assert norm_with_bias_product(neurons).tolist() == pytest.approx([26, 10, math.sqrt(2)])
    assert norm_change(neurons).tolist() == [4, 0, -3]
    assert magnitude(neurons).tolist() == [[3, 4], [0, 2], [1, 0]]
    assert random(neurons).shape == (3,)
    assert random_weights(neurons).shape == (3, 2)


def test_a_layer_without_bias():
    rows = torch.tensor([[3.0, 4.0]])
    assert norm_with_bias(Neurons("hidden", rows)).tolist() == [5]


@pytest.mark.parametrize("score", [norm_product, norm_with_bias_product])
def test_rescaling_a_relu_neuron_leaves_the_product_unchanged(score):
    net = nn.Sequential(nn.Linear(5, 4), nn.ReLU(), nn.Linear(4, 3)).double()
    x = torch.randn(6, 5, dtype=torch.float64)
    shown, _ = seen(net, x, norm)
    product, plain, output = score(shown["0"]), norm(shown["0"]), net(x)
    with torch.no_grad():
        for neuron, factor in enumerate((10.0, 0.1, 3.0, 1.0)):
            net[0].weight[neuron] *= factor
            net[0].bias[neuron] *= factor
            net[2].weight[:, neuron] /= factor
    after, _ = seen(net, x, norm)
    torch.testing.assert_close(net(x), output)
    torch.testing.assert_close(score(after["0"]), product)
    assert not torch.allclose(norm(after["0"]), plain)


def test_missing_knowledge_is_told_in_one_line():
    bare = Neurons("fc1", torch.ones(2, 2), no_outgoing="add reads them")
    with pytest.raises(
        ValueError, match="'norm_product' needs the outgoing weights of layer 'fc1'"
    ):
        norm_product(bare)
    with pytest.raises(ValueError, match="'norm_change' needs the norms of layer 'fc1' at init"):
        norm_change(bare)


def test_outgoing_weights_of_a_convolution_that_is_flattened():
    net = nn.Sequential(
        nn.Conv2d(2, 3, 3), nn.ReLU(), nn.Conv2d(3, 4, 2), nn.MaxPool2d(2), nn.Flatten(),
        nn.Linear(4 * 4, 5),
    )  # fmt: skip
    shown, _ = seen(net, torch.randn(2, 2, 7, 7), norm)
    conv, read = net[2].weight.detach().numpy(), net[5].weight.detach().numpy()
    for channel in range(3):
        by_hand = np.sort(conv[:, channel].ravel())
        assert np.array_equal(np.sort(shown["0"].outgoing[channel].numpy()), by_hand)
    for channel in range(4):
        by_hand = np.sort(read[:, channel * 4 : channel * 4 + 4].ravel())
        assert np.array_equal(np.sort(shown["2"].outgoing[channel].numpy()), by_hand)


def test_outgoing_weights_of_grouped_and_transposed_convolutions():
    net = nn.Sequential(
        nn.Conv1d(2, 4, 1), nn.ReLU(), nn.Conv1d(4, 6, 3, groups=2), nn.ReLU(),
        nn.ConvTranspose1d(6, 2, 2), nn.ReLU(), nn.Conv1d(2, 1, 1),
    )  # fmt: skip
    shown, _ = seen(net, torch.randn(2, 2, 7), norm)
    grouped, transposed = net[2].weight.detach(), net[4].weight.detach()
    for channel in range(4):  # the first half of the inputs goes to the first half of the outputs
        by_hand = grouped[:3, channel] if channel < 2 else grouped[3:, channel - 2]
        assert torch.equal(shown["0"].outgoing[channel], by_hand.flatten())
    for channel in range(6):
        assert torch.equal(shown["2"].outgoing[channel], transposed[channel].flatten())


@pytest.mark.parametrize(
    "wrap", [lambda net: reparametrize(net, EWN()), lambda net: weight_norm(net[0])]
)
def test_reparametrized_layers_are_scored_by_the_weight_they_have(wrap):
    net = nn.Sequential(nn.Linear(5, 8), nn.ReLU(), nn.Linear(8, 3))
    x = torch.randn(4, 5)
    plain, _ = seen(net, x, norm)
    wrap(net)
    wrapped, _ = seen(net, x, norm)
    assert not isinstance(net[0].weight, nn.Parameter)
    torch.testing.assert_close(wrapped["0"].rows, plain["0"].rows)
    torch.testing.assert_close(norm_product(wrapped["0"]), norm_product(plain["0"]))


def test_half_precision_weights_are_scored_in_float32():
    net = nn.Sequential(nn.Linear(5, 8), nn.ReLU(), nn.Linear(8, 3)).to(torch.bfloat16)
    shown, _ = seen(net, torch.randn(4, 5, dtype=torch.bfloat16), norm)
    assert shown["0"].rows.dtype == shown["0"].outgoing.dtype == torch.float32


def test_random_scores_follow_the_seed_and_the_layer_and_leave_the_global_generator():
    net = nn.Sequential(nn.Linear(5, 8), nn.ReLU(), nn.Linear(8, 8), nn.ReLU(), nn.Linear(8, 3))
    x = torch.randn(4, 5)
    state = torch.get_rng_state()
    draws = [seen(net, x, random, seed=seed)[1].ranks for seed in (None, 0, 1)]
    assert torch.equal(torch.get_rng_state(), state)
    assert all(torch.equal(draws[0][name], draws[1][name]) for name in draws[0])
    assert not torch.equal(draws[1]["0"], draws[2]["0"])
    assert not torch.equal(draws[1]["0"], draws[1]["2"])


def test_norms_at_initialisation_reach_the_score_by_layer_name():
    net = nn.Sequential(nn.Linear(2, 3), nn.ReLU(), nn.Linear(3, 1))
    x = torch.randn(4, 2)
    initial = net[0].weight.detach().norm(dim=1)
    with torch.no_grad():
        net[0].weight[1] *= 5
    _, ranking = seen(net, x, norm_change, initial_norms={"0": initial})
    assert ranking.ranks["0"].argmax() == 1
    with pytest.raises(ValueError, match=r"initial_norms\['0'\] has 4 numbers: .* 3 neurons"):
        seen(net, x, norm_change, initial_norms={"0": torch.ones(4)})


def test_scores_are_found_by_name_path_and_as_functions():
    def mine(neurons):
        return neurons.rows[:, 0]

    found = find_scores(["norm", "ewnprune.scores.random", mine])
    assert list(found) == ["norm", "ewnprune.scores.random", "mine"]
    assert list(found.values()) == [norm, random, mine]
    assert find_scores("magnitude") == {"magnitude": magnitude}


@pytest.mark.parametrize(
    ("wanted", "error", "message"),
    [
        (
            "l1",
            ValueError,
            "unknown score 'l1': choose among norm, norm_with_bias, .*random_weights",
        ),
        ("Neurons", ValueError, "unknown score 'Neurons'"),
        ("torch", ValueError, "unknown score 'torch'"),
        ("nowhere.score", ValueError, "score 'nowhere.score' cannot be imported"),
        ("ewnprune.scores.l1", ValueError, "score 'ewnprune.scores.l1' cannot be imported"),
        ("math.pi", TypeError, "score 'math.pi': expected a function"),
        (["norm", "norm"], ValueError, "score 'norm' is given twice"),
        ([], ValueError, "no score is given"),
        ([3], TypeError, "score 3: expected a function"),
        (3, TypeError, "scores=3: expected a name, a function, or some of them"),
    ],
)
def test_bad_scores_are_refused_in_one_line(wanted, error, message):
    with pytest.raises(error, match=message) as caught:
        find_scores(wanted)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("score", "message"),
    [
        (lambda n: n.rows.sum(), r"gives \(\) for layer '0': expected a tensor of shape \(8,\)"),
        (lambda n: 1.0, r"gives float for layer '0'"),
        (lambda n: norm(n) * math.nan, r"layer '0' has a NaN score \(the first at index 0\)"),
        (lambda n: n.rows if n.layer == "0" else norm(n), "one number per neuron for some layers"),
    ],
)
def test_scores_of_the_wrong_shape_or_value_are_refused(score, message):
    net = nn.Sequential(nn.Linear(5, 8), nn.ReLU(), nn.Linear(8, 7), nn.ReLU(), nn.Linear(7, 3))
    with pytest.raises(ValueError, match=message):
        seen(net, torch.randn(4, 5), score)


def test_the_dataclass_is_frozen():
    with pytest.raises(AttributeError):
        Neurons("hidden", torch.ones(1, 1)).rows = torch.zeros(1, 1)
