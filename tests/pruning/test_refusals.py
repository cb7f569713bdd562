"""A refusal is one line of 300 characters at most: a layer, why, and what to do."""

import pytest
import torch
from torch import nn

from ewnprune import mask_neurons, remove_neurons
from ewnprune.pruning.reasons import cut, refusal


class Stubborn(nn.Module):
    """Many layers with long names, none of which can lose a neuron."""

    def __init__(self, count, name="a_rather_long_name_of_a_layer"):
        super().__init__()
        self.layers = nn.ModuleDict({f"{name}_{n}": nn.Linear(4, 4) for n in range(count)})
        self.head = nn.Linear(4, 2)

    def forward(self, x):
        for layer in self.layers.values():
            x = layer(x)
            x = (x * torch.arange(1.0, 5.0)).flip(-1)
        return self.head(x)


def _check(error, layer, remedy="exclude="):
    text = str(error.value)
    assert "\n" not in text and len(text) <= 300, (len(text), text)
    assert layer in text and remedy in text, text


@pytest.mark.parametrize("count", [1, 2, 3, 40])
def test_what_cannot_be_followed(count):
    with pytest.raises(ValueError, match="cannot be removed safely") as error:
        remove_neurons(Stubborn(count), 0.5, torch.randn(2, 4))
    _check(error, "layers.a_rather_long_name_of_a_layer_0")
    shown = str(error.value).partition(": leave")[0].count("a_rather_long_name")
    assert shown == count or f"and {count - shown} more" in str(error.value)


def test_names_that_are_very_long_leave_room_for_the_remedy():
    with pytest.raises(ValueError, match="cannot be removed safely") as error:
        remove_neurons(Stubborn(9, "name" * 18), 0.5, torch.randn(2, 4))
    _check(error, "name" * 18)
    assert "and 8 more" in str(error.value)


def test_what_cannot_be_masked_for_good():
    net = Stubborn(30)
    for layer in net.layers.values():
        layer.weight = net.layers["a_rather_long_name_of_a_layer_0"].weight
    with pytest.raises(ValueError, match="cannot be masked for good") as error:
        mask_neurons(net, 0.5, torch.randn(2, 4))
    _check(error, "layers.a_rather_long_name_of_a_layer_0")


def test_no_such_layer():
    with pytest.raises(ValueError, match="no layer 'fc' has neurons") as error:
        remove_neurons(Stubborn(40), indices={"fc": [0]}, example_input=torch.randn(2, 4))
    _check(error, "layers.a_rather_long_name_of_a_layer_0", "")
    with pytest.raises(ValueError, match="exclude='fc' matches no layer") as error:
        remove_neurons(Stubborn(40), 0.5, torch.randn(2, 4), exclude="fc")
    _check(error, "layers.a_rather_long_name_of_a_layer_0")


@pytest.mark.parametrize("reasons", [1, 2, 3, 4, 400])
@pytest.mark.parametrize("length", [3, 40, 70])
def test_any_number_of_layers_and_reasons_fits(reasons, length):
    told = {f"{n:0{length}}": "because\n" * 50 for n in range(reasons)}
    text = refusal("neurons of SomeNetwork cannot go:", told, "leave them with exclude={layers}")
    assert len(text) <= 300 and "\n" not in text
    assert text.startswith("neurons of SomeNetwork cannot go: '") and "exclude=[" in text


def test_cut_keeps_what_fits():
    assert cut("as it is", 8) == "as it is"
    assert cut("as it is", 7) == "as i..."
