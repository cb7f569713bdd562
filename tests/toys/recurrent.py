"""Networks with recurrent layers, and such layers computed by hand in NumPy."""

import numpy as np
import torch
from torch import nn

WORDS = torch.randint(12, (6, 5), generator=torch.Generator().manual_seed(0))


class Words(nn.Module):
    """Words, a recurrent layer, and a head on what `read` makes of its outputs and states."""

    def __init__(self, layer, width, read, words=12):
        super().__init__()
        self.words = nn.Embedding(words, layer.input_size)
        self.rnn, self.read, self.head = layer, read, nn.Linear(width, 3)

    def forward(self, words):
        outputs, states = self.rnn(self.words(words))
        return self.head(self.read(outputs, states[0] if self.rnn.mode == "LSTM" else states))


READS = {
    "output": lambda outputs, h: outputs.mean(1),
    "last": lambda outputs, h: outputs[:, -1],
    "largest": lambda outputs, h: outputs.max(1).values,
    "h_n": lambda outputs, h: h[-1],
    "both ways": lambda outputs, h: torch.cat([h[-2], h[-1]], dim=1),
    "all of h_n": lambda outputs, h: h.transpose(0, 1).flatten(1),
}


def lowest_gone(scores, count):
    """Of each row the places that stay, in order, where the lowest go."""
    return [sorted(np.argsort(row, kind="stable")[count:].tolist()) for row in scores]


def by_hand(layer, x, keep=None):
    """Outputs ``(B, T, D * H)`` and last states ``(L * D, B, H)`` in a loop over steps.

    With ``keep`` the units are deleted: for each layer and direction the numbers of those left.
    """
    tensors = {name: value.detach().double().numpy() for name, value in layer.named_parameters()}
    directions, size = 1 + layer.bidirectional, layer.hidden_size
    keep = keep or [range(size)] * (layer.num_layers * directions)
    sigmoid = lambda z: 1 / (1 + np.exp(-z))  # noqa: E731
    read, finals = np.arange(layer.input_size), []
    for depth in range(layer.num_layers):
        halves = []
        for direction in range(directions):
            units = np.asarray(list(keep[depth * directions + direction]))
            end = f"l{depth}" + "_reverse" * direction
            gates = len(tensors[f"weight_hh_{end}"]) // size

            def of(kind, gate, units=units, end=end, count=gates * size):
                return tensors.get(f"{kind}_{end}", np.zeros(count))[gate * size + units]

            h = c = np.zeros((len(x), len(units)))
            steps = [None] * x.shape[1]
            for t in reversed(range(x.shape[1])) if direction else range(x.shape[1]):
                into = [
                    x[:, t] @ of("weight_ih", g)[:, read].T + of("bias_ih", g) for g in range(gates)
                ]
                back = [h @ of("weight_hh", g)[:, units].T + of("bias_hh", g) for g in range(gates)]
                if layer.mode == "LSTM":
                    i, f, g, o = (a + b for a, b in zip(into, back, strict=True))
                    c = sigmoid(f) * c + sigmoid(i) * np.tanh(g)
                    h = sigmoid(o) * np.tanh(c)
                elif layer.mode == "GRU":
                    r, z = (sigmoid(into[g] + back[g]) for g in (0, 1))
                    h = (1 - z) * np.tanh(into[2] + r * back[2]) + z * h
                else:
                    h = np.tanh(into[0] + back[0])
                steps[t] = h
            halves.append(np.stack(steps, 1))
            finals.append(h)
        x = np.concatenate(halves, 2)
        read = np.concatenate(
            [d * size + np.asarray(list(keep[depth * directions + d])) for d in range(directions)]
        )
    return x, finals
