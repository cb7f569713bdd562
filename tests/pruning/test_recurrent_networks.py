"""Networks around recurrent layers: what lies before and behind, packed words, several calls."""

import pytest
import torch
from torch import nn
from torch.nn.utils.rnn import pack_padded_sequence, pad_packed_sequence
from toys.recurrent import WORDS

from ewnprune import mask_neurons, remove_neurons, remove_with_notes, sparsity_curve


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


@pytest.mark.parametrize("options", [{"bidirectional": True}, {"num_layers": 2}])
def test_alone_in_a_curve_the_same_units_of_each_layer_and_direction_go(options):
    class Reader(nn.Module):
        def __init__(self):
            super().__init__()
            self.words, self.rnn = nn.Embedding(12, 4), nn.LSTM(4, 6, batch_first=True, **options)
            self.head = nn.Linear(12 if self.rnn.bidirectional else 6, 3)

        def forward(self, words):
            return self.head(self.rnn(self.words(words))[0].mean(1))

    torch.manual_seed(0)
    network, data = Reader().double().eval(), [(WORDS, torch.arange(6) % 3)]
    together, alone = (
        sparsity_curve(network, data, (0, 0.5), layers="rnn", per_layer=per_layer)
        for per_layer in (False, True)
    )
    assert [point.loss for point in alone] == [point.loss for point in together]


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
