"""`separate_attention`: torch's attention with queries, keys and values by layers of their own."""

import pytest
import torch
from torch import nn
from torchvision import models

from ewnprune.pruning.removal import remove_with_notes
from ewnprune.pruning.separation import SeparateAttention, separate_attention


@pytest.mark.parametrize("options", [{}, {"kdim": 10, "vdim": 10}, {"bias": False}])
@pytest.mark.parametrize("batch_first", [True, False])
def test_separate_attention_is_torchs(options, batch_first):
    torch.manual_seed(0)
    theirs = nn.MultiheadAttention(12, 3, batch_first=batch_first, **options).double().eval()
    for parameter in theirs.parameters():
        nn.init.normal_(parameter)
    ours = separate_attention(theirs)
    assert not ours.training
    shapes = (2, 5, 12), (2, 7, options.get("kdim", 12)), (2, 7, options.get("vdim", 12))
    q, k, v = (torch.randn(shape, dtype=torch.float64) for shape in shapes)
    if not batch_first:
        q, k, v = (x.transpose(0, 1) for x in (q, k, v))
    padding = torch.zeros(2, 7, dtype=torch.bool)
    padding[1, 4:] = True
    causal = torch.ones(5, 7, dtype=torch.bool).triu(1)
    added = torch.randn(6, 5, 7, dtype=torch.float64)  # for each head of each sample
    for masks in (
        {},
        {"key_padding_mask": padding},
        {"attn_mask": causal, "key_padding_mask": padding},
        {"attn_mask": added, "average_attn_weights": False},
    ):
        for need in (True, False):
            expected = theirs(q, k, v, need_weights=need, **masks)
            given = ours(q, k, v, need_weights=need, **masks)
            torch.testing.assert_close(given, expected)


def test_torchs_encoder_and_torchvisions_vit_lose_heads_once_separated():
    torch.manual_seed(0)
    layer = nn.TransformerEncoderLayer(12, 3, 20, batch_first=True)
    encoder = nn.TransformerEncoder(layer, 2, enable_nested_tensor=False)
    network = nn.Sequential(nn.Linear(5, 12), encoder, nn.Linear(12, 3))
    network, x = network.double().eval(), torch.randn(2, 7, 5, dtype=torch.float64)
    vit = models.VisionTransformer(32, 8, 2, 3, 24, 48, num_classes=5).double().eval()
    nn.init.normal_(vit.heads.head.weight)
    image = torch.randn(2, 3, 32, 32, dtype=torch.float64)
    for dense, inputs in ((network, x), (vit, image)):
        separated = separate_attention(dense)
        torch.testing.assert_close(separated(inputs), dense(inputs))
        removal = remove_with_notes(
            separated, 0.4, inputs, heads="whole", layers=["*.query", "*.key", "*.value"]
        )
        assert len(removal.left) == 2 and removal.difference < 1e-12
        small = [m for m in removal.model.modules() if hasattr(m, "num_heads")]
        heads = [module.num_heads for module in small if hasattr(module, "out_proj")]
        assert heads == [2, 2]
        assert float((removal.model(inputs) - dense(inputs)).detach().abs().max()) > 1e-4
        removal.model.train()(inputs).square().sum().backward()


class Scaled(nn.MultiheadAttention):
    def forward(self, query, key, value, **options):
        outputs, weights = super().forward(query, key, value, **options)
        return 2 * outputs, weights


class Alike(nn.MultiheadAttention):
    pass


def test_attention_with_a_forward_pass_of_its_own_is_refused():
    with pytest.raises(ValueError, match=r"'0' \(Scaled\) has a forward pass of its own"):
        separate_attention(nn.Sequential(Scaled(8, 2)))
    assert isinstance(separate_attention(Alike(8, 2)), SeparateAttention)


class Shared(nn.Module):
    """One attention under two names."""

    def __init__(self):
        super().__init__()
        self.one = self.two = nn.MultiheadAttention(8, 2, batch_first=True)

    def forward(self, x):
        x = self.one(x, x, x)[0]
        return self.two(x, x, x)[0]


def test_attention_under_two_names_stays_one():
    torch.manual_seed(0)
    network, x = Shared().eval(), torch.randn(2, 5, 8)
    separated = separate_attention(network)
    assert separated.one is separated.two and isinstance(separated.one, SeparateAttention)
    torch.testing.assert_close(separated(x), network(x))
    assert separate_attention(nn.ModuleList([network.one, network.one]))[1].num_heads == 2
