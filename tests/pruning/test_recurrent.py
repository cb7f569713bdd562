"""Hidden units of RNN, LSTM and GRU: removed, masked, ranked; against loops in NumPy."""

import numpy as np
import pytest
import torch
from torch import nn
from toys.recurrent import READS, WORDS, Words, by_hand, lowest_gone

from ewnprune import mask_neurons, remove_neurons, remove_with_notes, sparsity_curve
from ewnprune.pruning.choice import Choice
from ewnprune.pruning.smaller import build_masked

KINDS = {"lstm": nn.LSTM, "gru": nn.GRU, "rnn": nn.RNN}
SHAPES = {
    "one": {},
    "two": {"num_layers": 2, "dropout": 0.3},
    "both ways": {"bidirectional": True},
    "two, both ways": {"num_layers": 2, "bidirectional": True, "bias": False},
}
UNITS = 8


def _layer(kind="lstm", units=UNITS, **shape):
    torch.manual_seed(0)
    return KINDS[kind](5, units, batch_first=True, **shape).double()


def _words(layer, read):
    width = read_width(layer, read)
    return Words(layer, width, READS[read]).double().eval()


def read_width(layer, read):
    directions = 1 + layer.bidirectional
    few = {"h_n": 1, "both ways": 2, "all of h_n": layer.num_layers * directions}
    return layer.hidden_size * few.get(read, directions)


def _ends(layer):
    return [
        f"l{k}{'_reverse' * d}"
        for k in range(layer.num_layers)
        for d in range(1 + layer.bidirectional)
    ]


def _norms(layer):
    """The norm of all incoming weights of each unit, layer after layer, row by row."""
    norms = []
    for end in _ends(layer):
        both = [getattr(layer, f"weight_{kind}_{end}").detach().numpy() for kind in ("ih", "hh")]
        rows = [
            np.concatenate([part[unit :: layer.hidden_size].ravel() for part in both])
            for unit in range(layer.hidden_size)
        ]
        norms.append([np.sqrt((row**2).sum()) for row in rows])
    return norms


def _outputs_by_hand(network, words, keep):
    """Of the network with the other units deleted, in the layer, and zeros where they are read."""
    layer = network.rnn
    outputs, finals = by_hand(layer, network.words(words).detach().numpy(), keep)
    directions, size = 1 + layer.bidirectional, layer.hidden_size
    full = np.zeros((*outputs.shape[:2], directions * size))
    states = np.zeros((len(finals), len(words), size))
    last = keep[-directions:]
    full[..., np.concatenate([d * size + np.array(k) for d, k in enumerate(last)])] = outputs
    for row, (units, final) in enumerate(zip(keep, finals, strict=True)):
        states[row][:, units] = final
    read = network.read(torch.from_numpy(full), torch.from_numpy(states))
    return network.head(read)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("read", READS)
def test_removed_is_what_a_loop_over_steps_gives_without_these_units(kind, shape, read):
    layer = _layer(kind, **SHAPES[shape])
    if read == "both ways" and not layer.bidirectional:
        pytest.skip("one way only")
    network = _words(layer, read)
    keep = lowest_gone(_norms(layer), 3)
    removal = remove_with_notes(network, 0.4, WORDS)
    small = removal.model.rnn
    assert type(small) is type(layer) and small.hidden_size == UNITS - 3
    assert [*removal.model.state_dict()] == [*network.state_dict()]
    with torch.no_grad():
        expected = _outputs_by_hand(network, WORDS, keep)
        torch.testing.assert_close(removal.model(WORDS), expected, rtol=0, atol=1e-12)
        dense = _outputs_by_hand(network, WORDS, [range(UNITS)] * len(keep))
        torch.testing.assert_close(network(WORDS), dense, rtol=0, atol=1e-12)
    assert (network(WORDS) - expected).abs().max() > 1e-3
    # the tensors are those of the dense layer, cut by hand
    for place, end in enumerate(_ends(layer)):
        gates = len(getattr(layer, f"weight_hh_{end}")) // UNITS
        rows = np.concatenate([gate * UNITS + np.array(keep[place]) for gate in range(gates)])
        inner = getattr(layer, f"weight_hh_{end}")[rows][:, keep[place]]
        assert getattr(small, f"weight_hh_{end}").equal(inner)
        if layer.bias:
            assert getattr(small, f"bias_ih_{end}").equal(getattr(layer, f"bias_ih_{end}")[rows])


@pytest.mark.parametrize("kind", KINDS)
def test_the_curve_is_of_the_network_that_removal_builds(kind):
    network = _words(_layer(kind, **SHAPES["two, both ways"]), "output")
    targets = torch.tensor([0, 1, 2, 0, 1, 2])
    curve = sparsity_curve(network, [(WORDS, targets)], (0, 0.3, 0.6, 0.9), "norm_product")
    assert {note.kind for note in curve.notes} == {"removed", "left"}
    for point in curve:
        small = remove_neurons(network, point.sparsity, WORDS, score="norm_product")
        loss = nn.functional.cross_entropy(small(WORDS), targets).item()
        assert point.loss == pytest.approx(loss, rel=1e-12)
        assert point.neurons.left == 4 * small.rnn.hidden_size
        assert point.parameters.left == sum(p.numel() for p in small.parameters())
    assert [point.neurons.left for point in curve] == [32, 24, 12, 4]


@pytest.mark.parametrize("kind", KINDS)
def test_a_masked_hidden_unit_is_zero_at_every_step(kind):
    network = _words(_layer(kind, **SHAPES["two, both ways"] | {"bias": True}), "output")
    units = torch.arange(4 * UNITS) % UNITS % 3 != 1
    with torch.no_grad():
        found = Choice().find(network, lambda net, x: net(x), WORDS)
        masked = build_masked(network, found.groups, {"rnn": units})
        outputs, states = masked.rnn(network.words(WORDS))
    h = states[0] if kind == "lstm" else states
    gone = ~units.view(4, 1, UNITS).expand(4, len(WORDS), UNITS)
    assert not h[gone].any() and h[~gone].all()
    assert not outputs[..., ~units[-2 * UNITS :]].any()


def test_macs_by_hand_whatever_kernel_runs():
    for dtype in (torch.float32, torch.float64):
        network = _words(_layer("lstm", **SHAPES["both ways"]), "last").to(dtype)
        curve = sparsity_curve(network, [(WORDS, torch.zeros(6, dtype=torch.long))], (0, 0.5))
        for point, units in zip(curve, (8, 4), strict=True):
            # 5 steps, 2 directions, 4 gates
            assert point.macs.left == 5 * 2 * 4 * units * (5 + units) + 2 * units * 3
            assert point.weights.left == 2 * 4 * units * (5 + units)


def test_norm_product_counts_all_that_reads_a_unit():
    layer = _layer("gru", num_layers=2, bidirectional=True)
    network = _words(layer, "last")
    scores = []
    for place, end in enumerate(_ends(layer)):
        row = []
        for unit in range(UNITS):
            out = [getattr(layer, f"weight_hh_{end}")[:, unit]]
            column = place % 2 * UNITS + unit
            if place < 2:
                out += [
                    getattr(layer, f"weight_ih_{end}")[:, column] for end in ("l1", "l1_reverse")
                ]
            else:
                out += [network.head.weight[:, column]]
            row.append(_norms(layer)[place][unit] * torch.cat(out).norm().item())
        scores.append(row)
    keep = lowest_gone(scores, 4)
    small = remove_neurons(network, 0.5, WORDS, score="norm_product")
    for place, end in enumerate(_ends(layer)):
        assert small.rnn.get_parameter(f"bias_hh_{end}")[:4].equal(
            layer.get_parameter(f"bias_hh_{end}")[keep[place]]
        )


def test_global_scope_and_multiples_keep_one_width():
    network = _words(_layer("lstm", num_layers=2), "last")
    network.rnn.weight_ih_l0.data *= 5
    # nearly all of the order's first are those of layer 1, yet as many go of each
    small = remove_neurons(network, 0.5, WORDS, scope="global")
    assert small.rnn.hidden_size == 4
    assert remove_neurons(network, 0.5, WORDS, round_to=3).rnn.hidden_size == 6
    kept = lowest_gone(_norms(network.rnn), 4)
    assert small.rnn.bias_ih_l1[:4].equal(network.rnn.bias_ih_l1[kept[1]])


def test_indices_are_free_in_each_layer_and_direction():
    network = _words(_layer("gru", num_layers=2), "output")
    small = remove_neurons(network, indices={"rnn": [1, 2, 8, 15]}, example_input=WORDS)
    keep = [[0, 3, 4, 5, 6, 7], [1, 2, 3, 4, 5, 6]]
    with torch.no_grad():
        expected = _outputs_by_hand(network, WORDS, keep)
    torch.testing.assert_close(small(WORDS), expected, rtol=0, atol=1e-12)
    with pytest.raises(ValueError, match="as many of each 8 hidden units, since its 2 layers"):
        remove_neurons(network, indices={"rnn": [1, 2, 8]}, example_input=WORDS)
    with pytest.raises(ValueError, match="no neuron 16: expected 0 to 15"):
        remove_neurons(network, indices={"rnn": [16]}, example_input=WORDS)


def test_zeros_for_good_give_what_removal_gives():
    network = _words(_layer("lstm", num_layers=2, bidirectional=True), "both ways")
    small = remove_neurons(network, 0.5, WORDS)
    kept = mask_neurons(network, 0.5, WORDS)["rnn"]
    assert kept.view(4, UNITS).sum(1).tolist() == [4] * 4
    torch.testing.assert_close(network(WORDS), small(WORDS), rtol=0, atol=1e-12)
    assert not network.rnn.weight_hh_l1.view(4, UNITS, UNITS)[:, ~kept[16:24]].any()
    assert not network.head.weight[:, ~kept[16:]].any()


def test_what_is_left_trains_and_what_is_frozen_stays_so():
    network = _words(_layer("lstm", num_layers=2), "last")
    network.rnn.weight_hh_l1.requires_grad_(False)
    small = remove_neurons(network, 0.5, WORDS)
    nn.functional.cross_entropy(small.train()(WORDS), torch.arange(6) % 3).backward()
    still = {name for name, parameter in small.named_parameters() if parameter.grad is None}
    assert still == {"rnn.weight_hh_l1"}
