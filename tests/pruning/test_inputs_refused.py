"""Inputs that cannot be pruned, and options that mean nothing for them, are refused in one line."""

import pytest
import torch
from torch import nn
from toys.networks import in_float64

from ewnprune import remove_neurons


def _mlp():
    layers = (nn.Linear(36, 12), nn.ReLU(), nn.Linear(12, 3))
    return nn.Sequential(nn.Flatten(), *layers), torch.randn(32, 1, 6, 6)


class AddsInput(nn.Module):
    def __init__(self):
        super().__init__()
        self.fc, self.out = nn.Linear(6, 6), nn.Linear(6, 2)

    def forward(self, x):
        return self.out(x + self.fc(x).relu())


class Depthwise(nn.Sequential):
    def __init__(self):
        super().__init__(nn.Conv2d(4, 4, 3, groups=4), nn.Flatten(), nn.Linear(4, 2))


class Turned(nn.Module):
    """Reads an image column by column: its inputs are not those of the image in their order."""

    def __init__(self):
        super().__init__()
        self.fc, self.out = nn.Linear(6, 4), nn.Linear(4, 2)

    def forward(self, x):
        return self.out(self.fc(x.transpose(2, 3).flatten(1)).relu())


def _words_of(dtype):
    embedding = nn.Sequential(nn.Embedding(9, 4), nn.Flatten(), nn.Linear(12, 4), nn.Linear(4, 2))
    return embedding, torch.zeros(2, 3, dtype=dtype)


@pytest.mark.parametrize(
    ("network", "x", "reason"),
    [
        (*_words_of(torch.long), "whole numbers .int64., as token ids"),
        (*_words_of(torch.int32), "whole numbers .int32., as token ids"),
        (nn.Sequential(nn.Linear(6, 2)), {"x": torch.randn(4, 6)}, "they are a dict"),
        (nn.Sequential(nn.Linear(6, 2)), torch.randn(6), "shape is .6,.: expected samples first"),
        (AddsInput(), torch.randn(4, 6), "add joins them with other values"),
        (nn.Sequential(nn.Conv2d(1, 2, 3)), torch.randn(4, 1, 3, 3), "there is one alone"),
        (Turned(), torch.randn(4, 1, 2, 3), "there is one alone"),
        (Depthwise(), torch.randn(4, 4, 3, 3), "'0' is a Conv2d with 4 groups"),
        (nn.Sequential(nn.LayerNorm(6), nn.Linear(6, 2)), torch.randn(4, 6), "LayerNorm '0' reads"),
    ],
)
def test_inputs_that_are_no_features_are_refused_in_one_line(network, x, reason):
    with pytest.raises(ValueError, match=f"cannot be pruned, since .*{reason}") as error:
        remove_neurons(network, 0.5, x, inputs=True)
    assert "\n" not in str(error.value)


def test_what_has_no_meaning_is_refused_in_one_line():
    network, x = in_float64(_mlp)
    for wrong, options in {
        "score 'magnitude' ranks single weights: .* inputs=True": {"score": "magnitude"},
        "score 'taylor' goes by what neurons do: .* inputs=True": {"score": "taylor"},
        "inputs='yes': expected True": {"inputs": "yes"},
        "inputs=True with heads='whole'": {"heads": "whole"},
        "no layer 'fc' has": {"sparsity": None, "indices": {"fc": [0]}},
    }.items():
        with pytest.raises(ValueError, match=wrong) as error:
            remove_neurons(
                network, **{"sparsity": 0.5, "example_input": x, "inputs": True, **options}
            )
        assert "\n" not in str(error.value)
    small = remove_neurons(network, 0.5, x, inputs=True)
    with pytest.raises(ValueError, match="'1' reads some of them alone already"):
        remove_neurons(small, 0.5, x, inputs=True)
