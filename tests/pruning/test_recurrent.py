"""Hidden units of RNN, LSTM and GRU: removed, masked, ranked; against loops in NumPy."""

import numpy as np
import pytest
import torch
from torch import nn
from torch.nn.utils.rnn import pack_padded_sequence, pad_packed_sequence
from toys.recurrent import READS, Words, by_hand

from ewnprune import mask_neurons, remove_neurons, remove_with_notes, sparsity_curve
from ewnprune.pruning.choice import Choice
from ewnprune.pruning.smaller import build_masked

WORDS = torch.randint(12, (6, 5), generator=torch.Generator().manual_seed(0))
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


def _lowest_gone(scores, count):
    return [sorted(np.argsort(row, kind="stable")[count:].tolist()) for row in scores]


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
    keep = _lowest_gone(_norms(layer), 3)
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
    keep = _lowest_gone(scores, 4)
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
    kept = _lowest_gone(_norms(network.rnn), 4)
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


class Tagger(nn.Module):
    """Layers before, in between and behind, norms, attention over time, and given states."""

    def __init__(self):
        super().__init__()
        self.words, self.into = nn.Embedding(12, 4), nn.Linear(4, 6)
        self.lower = nn.LSTM(6, 8, batch_first=True, bidirectional=True)
        self.upper = nn.GRU(16, 6, num_layers=2)
        self.weigh, self.norm, self.scale = nn.Linear(6, 1), nn.LayerNorm(6), nn.BatchNorm1d(6)
        self.hidden, self.head = nn.Linear(12, 10), nn.Linear(10, 3)

    def forward(self, words):
        x = self.into(self.words(words)).relu()
        state = x.new_full((2, len(x), self.lower.hidden_size), 0.3)
        lower, _ = self.lower(x, (state, state))
        upper, last = self.upper(lower.transpose(0, 1))
        mixed = (self.weigh(upper).softmax(0) * upper).sum(0)
        return self.head(self.hidden(torch.cat([self.norm(mixed), self.scale(last[-1])], 1)).relu())


def test_what_lies_before_between_and_behind_goes_along():
    torch.manual_seed(0)
    network = Tagger().double().eval()
    removal = remove_with_notes(network, 0.5, WORDS)
    small = removal.model
    assert small.into.out_features == small.lower.input_size == 3
    assert small.upper.input_size == 2 * small.lower.hidden_size == 8
    assert small.norm.normalized_shape == (3,) and small.scale.num_features == 3
    assert small.weigh.in_features == small.upper.hidden_size == 3
    assert (small.hidden.in_features, small.hidden.out_features) == (6, 5)
    assert {note.text.partition(":")[0] for note in removal.notes if note.kind == "removed"} == {
        "into", "lower", "upper", "hidden",
    }  # fmt: skip
    assert removal.difference < 1e-14
    # one by one as well: the states start at 0.3, and nobody reads those of units that are gone
    for name in ("into", "lower", "upper", "hidden"):
        one = remove_with_notes(network, 0.5, WORDS, layers=name)
        assert one.difference < 1e-14 and len(one.left) == 1


class Packed(nn.Module):
    def __init__(self):
        super().__init__()
        self.words, self.rnn = nn.Embedding(12, 4), nn.LSTM(4, 8, bidirectional=True)
        self.second, self.head = nn.GRU(16, 6), nn.Linear(22, 3)

    def forward(self, batch):
        words, lengths = batch
        packed = pack_padded_sequence(
            self.words(words), lengths, batch_first=True, enforce_sorted=False
        )
        packed, _ = self.rnn(packed)
        _, last = self.second(packed)
        outputs, _ = pad_packed_sequence(packed, padding_value=-9.0)
        return self.head(torch.cat([outputs.amax(0), last[0]], dim=1))


def test_packed_sequences():
    torch.manual_seed(0)
    network, lengths = Packed().double().eval(), torch.tensor([5, 2, 3, 1, 4, 5])
    removal = remove_with_notes(network, 0.5, (WORDS, lengths))
    assert (removal.model.rnn.hidden_size, removal.model.second.hidden_size) == (4, 3)
    assert removal.difference < 1e-14
    # padding is never read: each sequence by itself gives the same
    for row, length in enumerate(lengths.tolist()):
        alone = removal.model((WORDS[row : row + 1, :length], lengths[row : row + 1]))
        torch.testing.assert_close(alone[0], removal.model((WORDS, lengths))[row])


class Decoder(nn.Module):
    """Gives a word at a time, and reads it at the next step; states are handed on."""

    def __init__(self):
        super().__init__()
        self.words, self.feed = nn.Embedding(12, 4), nn.Linear(3, 4)
        self.rnn = nn.LSTM(8, 6, num_layers=2, batch_first=True)
        self.head = nn.Linear(6, 3)

    def forward(self, words):
        x, outputs, state = self.words(words), [], None
        fed = torch.zeros_like(x[:, :1])
        for step in range(5):
            read, state = self.rnn(torch.cat([x[:, step : step + 1], fed], dim=2), state)
            outputs.append(self.head(read))
            fed = self.feed(outputs[-1].softmax(-1))
        return torch.cat(outputs, dim=1).transpose(1, 2)


class Twice(nn.Module):
    """One layer reads the words in both orders."""

    def __init__(self):
        super().__init__()
        self.words, self.rnn = nn.Embedding(12, 4), nn.GRU(4, 6, batch_first=True)
        self.hidden, self.head = nn.Linear(12, 8), nn.Linear(8, 3)

    def forward(self, words):
        x = self.words(words)
        last = [self.rnn(each)[1][-1] for each in (x, x.flip(1))]
        return self.head(self.hidden(torch.cat(last, dim=1)).relu())


@pytest.mark.parametrize("build", [Decoder, Twice])
def test_layers_that_are_called_several_times(build):
    torch.manual_seed(0)
    network = build().double().eval()
    small = remove_neurons(network, 0.5, WORDS, layers=["rnn"])
    assert small.rnn.hidden_size == 3
    zeros = {"rnn": mask_neurons(network, 0.5, WORDS, layers=["rnn"])["rnn"]}
    assert zeros["rnn"].sum() == small.rnn.hidden_size * small.rnn.num_layers
    torch.testing.assert_close(small(WORDS), network(WORDS), rtol=0, atol=1e-12)


class Branching(Twice):
    def forward(self, words):
        return super().forward(words if words.sum() > 0 else -words)


class Helped(Twice):
    """A head that only the training pass calls reads the states as well."""

    def __init__(self):
        super().__init__()
        self.help = nn.Linear(6, 3)

    def forward(self, words):
        outputs = super().forward(words)
        return (
            (outputs, self.help(self.rnn(self.words(words))[1][-1])) if self.training else outputs
        )


@pytest.mark.parametrize(
    ("build", "reason"),
    [(Branching, "the model cannot be traced"), (Helped, "without them it cannot be trained")],
)
def test_where_an_example_does_not_tell_all_they_stay(build, reason):
    network = build().double().eval()
    curve = sparsity_curve(network, [(WORDS, torch.zeros(6, dtype=torch.long))], (0, 0.5))
    assert any(str(note).startswith(f"rnn: stays: {reason}") for note in curve.notes)


def test_what_is_left_trains_and_what_is_frozen_stays_so():
    network = _words(_layer("lstm", num_layers=2), "last")
    network.rnn.weight_hh_l1.requires_grad_(False)
    small = remove_neurons(network, 0.5, WORDS)
    nn.functional.cross_entropy(small.train()(WORDS), torch.arange(6) % 3).backward()
    still = {name for name, parameter in small.named_parameters() if parameter.grad is None}
    assert still == {"rnn.weight_hh_l1"}


class Stays(nn.Module):
    def __init__(self, forward):
        super().__init__()
        self.words, self.rnn = nn.Embedding(12, 8), nn.LSTM(8, 8, batch_first=True)
        self.other, self.start = nn.LSTM(8, 8, batch_first=True), nn.Linear(8, 8)
        self.hidden, self.head, self.call = nn.Linear(8, 6), nn.Linear(6, 3), forward

    def forward(self, words):
        return self.call(self, self.words(words))


def _rest(network, x):
    return network.head(network.hidden(x).relu())


def _added(network, x):
    return _rest(network, x + network.rnn(x)[0])


def _two_added(network, x):
    return _rest(network, network.rnn(x)[0] + network.other(x)[0])


def _to_decoder(network, x):
    return _rest(network, network.other(x, network.rnn(x)[1])[0])


def _given_state(network, x):
    start = network.start(x[:, 0])[None]
    return _rest(network, network.rnn(x, (start, start))[0])


def _outputs_too(network, x):
    outputs, (h, _) = network.rnn(x)
    return _rest(network, outputs), h


def _products(network, x):
    outputs, _ = network.rnn(x)
    return _rest(network, (outputs @ outputs.transpose(1, 2)).softmax(-1) @ outputs)


def _own_words(network, x):
    return _rest(network, network.rnn(x)[0].reshape(-1, 5, 2, 4).flatten(2))


@pytest.mark.parametrize(
    ("forward", "stays", "reason"),
    [
        (_added, {"rnn"}, "without them the network does not run"),
        (_two_added, {"rnn", "other"}, "coupled with 'other', in the inputs of 'hidden'"),
        (_to_decoder, {"rnn", "other"}, "its hidden units are states of 'other'"),
        (_given_state, {"rnn", "start"}, "without them the network does not run"),
        (_outputs_too, {"rnn"}, "its hidden units are outputs of the model"),
        (_products, {"rnn"}, "inputs of 'hidden' depend on several of its hidden units"),
        (_own_words, {"rnn"}, "without them the network does not run"),
    ],
)
def test_what_cannot_be_followed_stays_with_a_reason(forward, stays, reason):
    torch.manual_seed(0)
    network = Stays(forward).double().eval()
    layers = [*stays, "hidden"]
    removal = remove_with_notes(network, 0.5, WORDS, layers=layers)
    texts = {
        note.text.partition(":")[0]: note.text for note in removal.notes if note.kind == "stays"
    }
    assert texts.keys() == stays and reason in texts["rnn"]
    assert removal.model.hidden.out_features == 3 and removal.model.rnn.hidden_size == 8
    with pytest.warns(UserWarning, match="rnn: stays"):
        remove_neurons(network, 0.5, WORDS, layers=layers)
    with pytest.raises(ValueError, match="neurons of 'rnn' cannot be removed"):
        remove_neurons(network, indices={"rnn": [0]}, example_input=WORDS)


class Through(nn.Module):
    """What a recurrent layer reads, where another finder than the trace has to follow it."""

    def __init__(self, layer):
        super().__init__()
        self.words, self.into = nn.Embedding(12, 5), nn.Linear(5, 8)
        self.rnn, self.same, self.head = layer, nn.Linear(6, 6), nn.Linear(6, 3)

    def forward(self, words):
        outputs, state = self.rnn(self.into(self.words(words)).relu(), None)
        outputs, _ = self.rnn(self.into(self.words(words)).relu(), state)
        return self.head(outputs[:, -1] + self.same(outputs[:, -1]))


@pytest.mark.parametrize("layer", [nn.LSTM(8, 12, proj_size=6, batch_first=True), nn.GRU(8, 6)])
def test_inputs_of_layers_that_stay_themselves_go(layer):
    network = Through(layer).double().eval()
    removal = remove_with_notes(network, 0.5, WORDS, layers="into")
    assert removal.left == {"into": (4, 8)} and removal.difference < 1e-14
    assert removal.model.rnn.weight_ih_l0.shape == (len(layer.weight_ih_l0), 4)
    kept = _lowest_gone([network.into.weight.detach().norm(dim=1).numpy()], 4)[0]
    assert removal.model.rnn.weight_ih_l0.equal(layer.weight_ih_l0[:, kept])


class Doubled(nn.GRU):
    def forward(self, x, hx=None):
        outputs, states = super().forward(x, hx)
        return 2 * outputs, states


def test_projections_and_forwards_of_their_own_are_left():
    projected = nn.LSTM(5, 8, batch_first=True, proj_size=4).double()
    network = nn.Module.__new__(Words)
    Words.__init__(network, projected, 4, READS["last"])
    network.double().eval()
    network.hidden = network.head
    with pytest.raises(ValueError, match="no layer is left to choose"):
        remove_neurons(network, 0.5, WORDS)
    doubled = Words(Doubled(5, 8, batch_first=True), 8, READS["last"]).eval()
    with pytest.raises(ValueError, match=r"'rnn' .Doubled has a forward of its own"):
        remove_neurons(doubled, 0.5, WORDS)


def test_tied_weights_and_weights_that_are_computed_stay():
    tied = _words(_layer(), "last")
    tied.rnn.bias_hh_l0 = tied.head.extra = tied.rnn.bias_ih_l0
    with pytest.raises(ValueError, match="shares its extra with 'rnn'"):
        remove_neurons(tied, 0.5, WORDS)
    dropped = _words(_layer(), "last")  # as AWD-LSTM does
    weight = dropped.rnn.weight_hh_l0
    del dropped.rnn.weight_hh_l0
    dropped.rnn.raw = weight
    dropped.rnn.weight_hh_l0 = weight.detach()
    with pytest.raises(ValueError, match="the weight of 'rnn' is no parameter"):
        remove_neurons(dropped, 0.5, WORDS)


def test_single_weights_are_those_of_the_other_layers():
    network = Tagger().double().eval()
    data = [(WORDS, torch.zeros(6, dtype=torch.long))]
    curve = sparsity_curve(network, data, (0, 0.5), ("norm", "magnitude"))
    sizes = [(point.unit, point.weights.total) for point in curve]
    rowwise = 6 * 4 + 6 + 12 * 10
    recurrent = 2 * 4 * 8 * (6 + 8) + 3 * 6 * (16 + 6 + 6 + 6)
    assert sizes == [("neurons", rowwise + recurrent)] * 2 + [("weights", rowwise)] * 2
    assert curve.points[3].weights.left == rowwise // 2
    assert "lower: left: its single weights are not ranked" in map(str, curve.notes)
    with pytest.raises(ValueError, match="'magnitude' ranks single weights"):
        sparsity_curve(network, data, (0, 0.5), "magnitude", layers="lower")


def test_repair_is_refused_by_name():
    network = _words(_layer(), "last")
    with pytest.raises(ValueError, match=r"a recurrent layer reads them: leave .* exclude='rnn'"):
        remove_neurons(network, 0.5, WORDS, repair=WORDS)
