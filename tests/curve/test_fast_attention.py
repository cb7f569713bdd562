"""torch's encoder with its defaults and padded batches, which it makes nested tensors of."""

import pytest
import torch
from torch import nn
from torch.backends import mha

from ewnprune import measure_neurons, remove_neurons, separate_attention, sparsity_curve
from ewnprune.model.fast_attention import without_fast_attention
from ewnprune.model.latency import measure_latency
from ewnprune.model.preserve import evaluating

pytestmark = pytest.mark.filterwarnings("ignore:The PyTorch API of nested tensors:UserWarning")


class Padded(nn.Module):
    """Classes of sentences, of which the zeros at the end are padding."""

    def __init__(self):
        super().__init__()
        layer = nn.TransformerEncoderLayer(8, 2, 16, batch_first=True)
        self.encoder, self.head = nn.TransformerEncoder(layer, 1), nn.Linear(8, 3)

    def forward(self, x):
        padding = x[..., 0] == 0
        values = self.encoder(x, src_key_padding_mask=padding)
        return self.head((values * ~padding[..., None]).sum(1))


def _padded():
    torch.manual_seed(0)
    x = torch.randn(4, 6, 8)
    x[1, 4:] = x[2, 3:] = 0
    return Padded().eval(), x, torch.arange(4) % 3


def test_a_padded_encoder_is_measured_cut_and_drawn_as_a_curve():
    network, x, y = _padded()
    hidden, data = {"layers": "*.linear1"}, [(x, y)]
    with torch.no_grad():
        small = remove_neurons(network, 0.5, x, **hidden)
        last = nn.functional.cross_entropy(small(x), y)
    assert small.encoder.layers[0].linear1.out_features == 8
    curve = sparsity_curve(network, data, (0, 0.5), **hidden)
    torch.testing.assert_close(list(curve)[1].loss, float(last))
    means = measure_neurons(network, data)["activation"]["encoder.layers.0.linear1"]
    kept = []
    with torch.no_grad(), without_fast_attention():
        network.encoder.layers[0].linear1.register_forward_hook(lambda *call: kept.append(call[2]))
        network(x)
    torch.testing.assert_close(means, kept[0].double().abs().mean((0, 1)))


def test_a_padded_encoder_with_heads_as_layers_runs_in_eval_mode():
    network, x, _ = _padded()
    with torch.no_grad():
        torch.testing.assert_close(separate_attention(network).eval()(x), network(x))
    assert network.encoder.use_nested_tensor


def test_times_are_those_of_the_setting_outside():
    seen = []
    try:
        for setting in (False, True):
            mha.set_fastpath_enabled(setting)
            with evaluating(nn.ReLU()), without_fast_attention():
                assert not mha.get_fastpath_enabled()
                network = {"one": lambda x: seen.append(mha.get_fastpath_enabled())}
                measure_latency(network, torch.zeros(1, 2), seconds=1e-4)
                assert set(seen) == {setting} and not mha.get_fastpath_enabled()
            assert mha.get_fastpath_enabled() is setting
            seen.clear()
    finally:
        mha.set_fastpath_enabled(True)
