"""Recurrent layers that stay as they are, each with its reason; inputs of theirs may go."""

import pytest
import torch
from torch import nn
from toys.recurrent import READS, WORDS, Words, lowest_gone

from ewnprune import measure_neurons, remove_neurons, remove_with_notes


def _layer():
    torch.manual_seed(0)
    return nn.LSTM(5, 8, batch_first=True).double()


def _words(layer, read):
    return Words(layer, 8, READS[read]).double().eval()


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
    kept = lowest_gone([network.into.weight.detach().norm(dim=1).numpy()], 4)[0]
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


def test_repair_is_refused_by_name():
    network = _words(_layer(), "last")
    with pytest.raises(ValueError, match=r"a recurrent layer reads them: leave .* exclude='rnn'"):
        remove_neurons(network, 0.5, WORDS, repair=WORDS)


def test_dropout_between_recurrent_layers_is_off_where_neurons_are_measured():
    """They are in train mode then, without which cuDNN has no gradients of them."""
    net = nn.Sequential(nn.Linear(3, 4), nn.LSTM(4, 6, 2, dropout=0.9), Last(), nn.Linear(6, 3))
    batches = [(torch.randn(5, 2, 3), torch.randint(3, (2,)))]
    noisy = measure_neurons(net, batches)["taylor"]["0"]
    net[1].dropout = 0.0
    assert noisy.equal(measure_neurons(net, batches)["taylor"]["0"])


class Last(nn.Module):
    def forward(self, given):
        return given[0][-1]
