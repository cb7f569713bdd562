"""Heads of attention: found by what depends on what, removed whole or by dimensions."""

from copy import deepcopy

import pytest
import torch
from torch import nn
from torch.nn import functional as F
from toys.attention import Alternating, Cross, Fused, Grouped, Interleaved, Model, Separate

from ewnprune.model.attention import find_attention
from ewnprune.model.tracing import call
from ewnprune.pruning.removal import remove_neurons, remove_with_notes
from ewnprune.pruning.separation import separate_attention

ROWS = {  # where head h, or dimension d of each head, lies in the layers that make them
    Separate: ("q k v", lambda h, d: [6 * h + d]),
    Fused: ("qkv", lambda h, d: [24 * part + 6 * h + d for part in range(3)]),
    Interleaved: ("qkv", lambda h, d: [18 * h + 6 * part + d for part in range(3)]),
    Cross: ("to_q to_kv", lambda h, d: [6 * h + d]),
}


def _make(attention):
    torch.manual_seed(0)
    network = Model(attention()).double().eval()
    for parameter in network.parameters():
        nn.init.normal_(parameter, 0, 0.5)
    return network, torch.randn(2, 7, 5, dtype=torch.float64)


@pytest.mark.parametrize("attention", ROWS)
def test_whole_heads_go(attention):
    network, x = _make(attention)
    masked = deepcopy(network)
    reader = [m for m in masked.attn.modules() if isinstance(m, nn.Linear)][-1]
    with torch.no_grad():
        reader.weight.view(12, 4, 6)[:, [0, 2]] = 0
    small = remove_with_notes(
        network, indices={"attn": [2, 0]}, example_input=x, heads="whole"
    ).model
    torch.testing.assert_close(small(x), masked(x), rtol=1e-12, atol=1e-12)
    assert float((small(x) - network(x)).detach().abs().max()) > 1e-2
    count = "heads" if attention is Cross else "num_heads"
    assert getattr(small.attn, count) == 2 and getattr(network.attn, count) == 4
    names, place = ROWS[attention]
    for name in names.split():
        rows = [i for h in (1, 3) for d in range(6) for i in place(h, d)]
        if name == "to_kv":
            rows += [24 + i for i in rows]
        before, after = network.attn.get_submodule(name), small.attn.get_submodule(name)
        assert after.weight.equal(before.weight[sorted(rows)])
        assert (after.in_features, after.out_features) == (12, len(rows))
    for module in small.modules():
        if isinstance(module, nn.Linear):
            assert module.weight.shape == (module.out_features, module.in_features)
    small.train()(x).square().sum().backward()
    assert all(parameter.grad.isfinite().all() for parameter in small.parameters())


@pytest.mark.parametrize("attention", ROWS)
def test_dimensions_of_each_head_go(attention):
    network, x = _make(attention)
    masked = deepcopy(network)
    names, place = ROWS[attention]
    with torch.no_grad():
        for name in names.split():
            layer = masked.attn.get_submodule(name)
            rows = [i for h in range(4) for d in (1, 4) for i in place(h, d)]
            rows += [24 + i for i in rows] if name == "to_kv" else []
            layer.weight[rows] = 0
            if layer.bias is not None:
                layer.bias[rows] = 0
    removal = remove_with_notes(network, indices={"attn": [1, 4]}, example_input=x, heads="dims")
    assert removal.left == {"attn": (16, 24)}
    torch.testing.assert_close(removal.model(x), masked(x), rtol=1e-12, atol=1e-12)
    assert float((removal.model(x) - network(x)).detach().abs().max()) > 1e-2


@pytest.mark.parametrize("heads", ["whole", "dims"])
@pytest.mark.parametrize("attention", ROWS)
def test_the_lowest_scores_go_and_levels_nest(attention, heads):
    network, x = _make(attention)
    names, place = ROWS[attention]
    with torch.no_grad():  # heads, or dimensions, in the order 1, 2, 0, 3, 4, 5
        for name in names.split():
            weight = network.attn.get_submodule(name).weight
            for h in range(4):
                for d in range(6):
                    rows = place(h, d) + ([24 + 6 * h + d] if name == "to_kv" else [])
                    weight[rows] *= [2, 0.1, 0.5, 8, 32, 128][h if heads == "whole" else d]
    layers = [f"attn.{name}" for name in names.split()]
    for sparsity, gone in ((0.25, 1), (0.5, 2)) if heads == "whole" else ((0.2, 1), (0.5, 3)):
        removal = remove_with_notes(network, sparsity, x, heads=heads, layers=layers)
        named = remove_with_notes(
            network, indices={"attn": [1, 2, 0][:gone]}, example_input=x, heads=heads
        )
        for name in names.split():
            one, other = (r.model.attn.get_submodule(name).weight for r in (removal, named))
            assert one.equal(other)


def test_heads_that_share_keys_and_values_go_together():
    network, x = _make(Grouped)
    masked = deepcopy(network)
    with torch.no_grad():
        masked.attn.out.weight[:, :12] = 0  # the first two heads
    removal = remove_with_notes(network, indices={"attn": [0]}, example_input=x, heads="whole")
    small = removal.model
    torch.testing.assert_close(small(x), masked(x), rtol=1e-12, atol=1e-12)
    assert (small.attn.num_heads, small.attn.num_key_value_heads) == (2, 1)
    assert small.attn.q.weight.equal(network.attn.q.weight[12:])
    assert small.attn.k.weight.equal(network.attn.k.weight[6:])
    assert small.attn.v.weight.equal(network.attn.v.weight[6:])
    assert "attn.q, attn.k, attn.v: 12 of 24 neurons left, 2 of 4 heads" in map(str, removal.notes)
    with torch.no_grad():  # the second two have the lower norms: by their queries, keys and values
        for layer, rows in ((network.attn.q, 12), (network.attn.k, 6), (network.attn.v, 6)):
            layer.weight[rows:] *= 0.1
    small = remove_with_notes(network, 0.5, x, heads="whole", layers="attn.[qkv]").model
    assert small.attn.v.weight.equal(network.attn.v.weight[:6])


def test_dimensions_of_heads_that_share_keys_and_values():
    network, x = _make(Grouped)
    masked = deepcopy(network)
    with torch.no_grad():
        for layer in (masked.attn.q, masked.attn.k, masked.attn.v):
            for tensor in (layer.weight, layer.bias):
                tensor[[1, 4, 7, 10]] = 0
        for tensor in (masked.attn.q.weight, masked.attn.q.bias):
            tensor[[13, 16, 19, 22]] = 0
    removal = remove_with_notes(network, indices={"attn": [1, 4]}, example_input=x, heads="dims")
    assert (removal.model.attn.q.out_features, removal.model.attn.k.out_features) == (16, 8)
    torch.testing.assert_close(removal.model(x), masked(x), rtol=1e-12, atol=1e-12)


def test_dimensions_of_heads_made_by_layers_whose_weight_lies_the_other_way_round():
    conv1d = pytest.importorskip("transformers.pytorch_utils").Conv1D
    network, x = _make(Separate)
    turned = deepcopy(network)
    for name in "qkv":
        layer, other = network.attn.get_submodule(name), conv1d(24, 12).double()
        other.weight.data, other.bias.data = layer.weight.data.T.clone(), layer.bias.data.clone()
        setattr(turned.attn, name, other)
    small, other = (
        remove_neurons(one, indices={"attn": [1, 4]}, example_input=x, heads="dims")
        for one in (network, turned)
    )
    torch.testing.assert_close(other(x), small(x), rtol=1e-12, atol=1e-12)


def test_heads_round_to_a_multiple_of_channels():
    network, x = _make(Separate)
    removal = remove_with_notes(network, 0.7, x, heads="whole", round_to=4, layers="attn.?")
    assert removal.left == {"attn": (12, 24)}  # one head of 6 would not do, two have 12
    removal = remove_with_notes(network, 0.7, x, heads="dims", round_to=8, layers="attn.?")
    assert removal.left == {"attn": (8, 24)}


def test_by_default_heads_stay_and_each_is_named_with_the_reason():
    network, x = _make(Fused)
    removal = remove_with_notes(network, 0.5, x)
    (note,) = [note for note in removal.notes if str(note).startswith("attn.qkv")]
    assert "stays: its neurons are those of the 4 heads of 'attn': heads='whole'" in str(note)
    assert removal.model.attn.qkv.out_features == 72
    with pytest.warns(UserWarning, match=r"attn.qkv: stays: .* 4 heads"):
        remove_neurons(network, 0.5, x)
    small = remove_neurons(network, 0.5, x, heads="whole", layers="attn.qkv")
    assert (small.attn.num_heads, small.attn.attn_dim) == (2, 12)


def test_names_are_not_needed_to_find_heads():
    for attention, names in ROWS.items():
        network, x = _make(attention)
        (found,) = find_attention(network, call, x)
        assert (found.heads, found.width, found.unclear) == (4, 6, "")
        assert [name.removeprefix("attn.") for name in found.rows] == names[0].split()
    network = nn.Sequential(nn.Linear(5, 12), nn.GELU(), nn.LayerNorm(12), nn.Linear(12, 12))
    assert not find_attention(network, call, torch.randn(2, 7, 5))


def test_what_cannot_be_told_apart_stays():
    network, x = _make(Alternating)
    removal = remove_with_notes(network, 0.5, x, heads="whole")
    (note,) = [note for note in removal.notes if str(note).startswith("attn.q")]
    assert "its heads share queries, keys or values" in str(note)
    network, x = _make(Fused)
    removal = remove_with_notes(network, 0.5, x[:, :1], heads="whole")
    (note,) = [note for note in removal.notes if str(note).startswith("attn.qkv")]
    assert "the example has one position only" in str(note)


class Stream(Fused):
    """Its width is that of what it reads: no head can go."""

    def forward(self, x):
        b, n, c = x.shape
        qkv = self.qkv(x).reshape(b, n, 3, 4, 6).permute(2, 0, 3, 1, 4)
        x = F.scaled_dot_product_attention(*qkv)
        return self.proj(x.transpose(1, 2).reshape(b, n, 2 * c))


def test_bad_input_gets_one_line():
    network, x = _make(Stream)
    with pytest.raises(ValueError, match="without them the network does not run"):
        remove_with_notes(network, 0.5, x, heads="whole", layers="attn.qkv")
    network, x = _make(Separate)
    cases = (
        ({"heads": "half"}, {}, "heads='half': expected 'keep', 'whole' or 'dims'"),
        ({"heads": "whole"}, {"attn": [4]}, r"\['attn'\]: there is no neuron 4: expected 0 to 3"),
        ({"heads": "dims"}, {"attn": range(6)}, "all 6 neurons are named"),
        ({"heads": "whole"}, {"attn.q": [0]}, r"go by heads: name those, indices=\{'attn'"),
        ({}, {"attn": [0]}, "cannot be removed: its neurons are those of the 4 heads"),
    )
    for options, indices, message in cases:
        with pytest.raises(ValueError, match=message):
            remove_with_notes(
                network,
                indices=indices or None,
                sparsity=None if indices else 0.5,
                example_input=x,
                **options,
            )
    with pytest.raises(ValueError, match=r"Model has no torch\.nn\.MultiheadAttention"):
        separate_attention(network)
    with pytest.raises(ValueError, match="add_bias_kv"):
        separate_attention(nn.MultiheadAttention(4, 2, add_bias_kv=True))


def test_masked_heads_are_removed_heads_beside_a_removed_stream():
    """LayerNorm over the channels that stay, by hand, in the dense network."""
    network, x = _make(Fused)
    removal = remove_with_notes(
        network, 0.5, x, layers=["first", "back", "attn.*"], exclude="attn.qkv"
    )
    (stream,) = removal.left
    small = removal.model
    kept = [network.first.bias.tolist().index(value) for value in small.first.bias.tolist()]
    assert stream in ("first", "back", "attn.proj") and len(kept) == 6
    masked = deepcopy(network)
    gone = sorted(set(range(12)) - set(kept))

    def norm(values):
        out = torch.zeros_like(values)
        few = values[..., kept]
        mean, var = few.mean(-1, keepdim=True), few.var(-1, correction=0, keepdim=True)
        scale, shift = network.norm.weight[kept], network.norm.bias[kept]
        out[..., kept] = (few - mean) / (var + network.norm.eps).sqrt() * scale + shift
        return out

    masked.norm.forward = norm
    with torch.no_grad():
        masked.hidden.weight[:, gone], masked.head.weight[:, gone] = 0, 0
    torch.testing.assert_close(small(x), masked(x), rtol=1e-12, atol=1e-12)
