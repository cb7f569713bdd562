from copy import deepcopy

import pytest
import torch
from torch import nn
from torch.nn.utils.fusion import fuse_conv_bn_eval
from torchvision import models
from toys.networks import (
    Residual,
    UNet,
    convnext,
    densenet,
    group_norm,
    make,
    mobilenet,
    resnet18,
    resnext,
    vit,
)

from ewnprune.model.layers import num_neurons
from ewnprune.pruning.removal import remove_neurons, remove_with_notes

LARGE = [pytest.param(build, marks=pytest.mark.slow) for build in (resnet18, resnext, mobilenet)]
NETWORKS = [*LARGE, densenet, convnext, vit, UNet, group_norm]


@pytest.mark.parametrize("sparsity", [0.3, 0.75])
@pytest.mark.parametrize("build", NETWORKS)
def test_the_smaller_network_is_what_was_asked_for(build, sparsity):
    network, x = make(build)
    before = {key: value.clone() for key, value in network.state_dict().items()}
    removal = remove_with_notes(network, sparsity, x[:1])
    small = removal.model
    outputs = small(x)
    assert outputs.shape == network(x).shape
    # exact counts: where blocks of equal size must stay, of the channels of one block
    changed = 0
    for name, (left, total) in removal.left.items():
        blocks = {"resnext": 4, "group_norm": 2}.get(build.__name__, 1)
        allowed = {total - b * round(sparsity * total / b) for b in (1, blocks)}
        assert left in allowed, name
        changed += left < total
        layer = small.get_submodule(name)
        assert num_neurons(layer) <= num_neurons(network.get_submodule(name))
    assert changed
    # every layer of the network either stays, with a reason, or lost neurons
    for name, layer in network.named_modules():
        if isinstance(layer, nn.Linear | nn.Conv2d | nn.ConvTranspose2d):
            (note,) = [n for n in removal.notes if name in str(n).split(": ")[0].split(", ")]
            same_size = num_neurons(layer) == num_neurons(small.get_submodule(name))
            assert (note.kind in ("stays", "left")) == same_size, note
    # it trains, and the model given is as it was
    small.train()
    optimizer = torch.optim.SGD(small.parameters(), 1e-3)
    weights = {key: parameter.detach().clone() for key, parameter in small.named_parameters()}
    small(x).square().sum().backward()
    optimizer.step()
    for key, parameter in small.named_parameters():
        assert parameter.requires_grad and parameter.grad.isfinite().all(), key
    assert any(not parameter.equal(weights[key]) for key, parameter in small.named_parameters())
    assert all(value.equal(before[key]) for key, value in network.state_dict().items())
    assert not network.training


@pytest.mark.parametrize(
    "options",
    [
        {"sparsity": 0.5},
        {"sparsity": 0.6, "scope": "global"},
        {"sparsity": 0.4, "round_to": 4},
        {"indices": True},
    ],
    ids=["layer", "global", "round_to", "indices"],
)
@pytest.mark.parametrize("build", NETWORKS)
def test_masked_and_smaller_networks_agree_to_rounding(build, options):
    network, x = make(build)
    if "indices" in options:
        layer, (_, total) = list(remove_with_notes(network, 0.5, x).left.items())[-1]
        # many, since a few may be neurons that fire on neither example
        options = {"indices": {layer: list(reversed(range(0, total, 3)))}}
    removal = remove_with_notes(network, example_input=x, **options)
    norm = build in (convnext, group_norm)
    assert norm or not any("as zeros would" in str(note) for note in removal.notes)
    scale = float(network(x).detach().abs().max())
    assert removal.difference <= 1e-12 * scale
    # the removal did something: the dense network's outputs are others
    assert float((removal.model(x) - network(x)).detach().abs().max()) > 1e-3 * scale
    if "round_to" in options:
        assert all(left % 4 == 0 or left == total for left, total in removal.left.values())


def test_layer_norm_keeps_the_order_of_what_stays():
    """torch-pruning 1.6.1 leaves it to the order of a Python set, which this one puts 10 first."""
    network = nn.Sequential(nn.Linear(3, 16), nn.LayerNorm(16), nn.ReLU(), nn.Linear(16, 2))
    nn.init.normal_(network[1].weight)
    kept = [0, 3, 6, 10]
    gone = sorted(set(range(16)) - set(kept))
    small = remove_neurons(network, indices={"0": gone}, example_input=torch.randn(2, 3))
    assert small[1].weight.equal(network[1].weight[kept])
    assert small[1].normalized_shape == (4,) and small[0].weight.equal(network[0].weight[kept])


def test_a_mask_by_hand_gives_the_same_outputs():
    """The inner convolutions of ResNet-18, by their BatchNorm's scale and shift."""
    network, x = make(resnet18)
    removal = remove_with_notes(network, 0.5, x, layers="layer*.conv1")
    assert len(removal.left) == 8
    masked = deepcopy(network)
    for name in removal.left:
        norm = masked.get_submodule(name.replace("conv1", "bn1"))
        fused = fuse_conv_bn_eval(network.get_submodule(name), norm)
        norms = fused.weight.detach().flatten(1).norm(dim=1)
        gone = norms.argsort()[: len(norms) // 2]
        with torch.no_grad():
            norm.weight[gone], norm.bias[gone] = 0, 0
    torch.testing.assert_close(removal.model(x), masked(x), rtol=1e-10, atol=1e-10)


@pytest.mark.parametrize(
    ("couple", "first", "kept"),
    [
        ("mean", [9, 1, 1, 4], [0, 3]),  # means 5, 2, 3.5, 4
        ("max", [9, 1, 1, 4], [0, 2]),  # largest 9, 3, 6, 4
        ("l2", [9, 5, 0, 0], [0, 2]),  # 82, 34, 36, 16
    ],
)
def test_coupled_scores(couple, first, kept):
    network = Residual().double()
    with torch.no_grad():
        network.first.weight.copy_(torch.tensor(first)[:, None] * torch.tensor([1, 0, 0]))
        network.second.weight.copy_(torch.diag(torch.tensor([1.0, 3, 6, 4])))
    small = remove_with_notes(
        network, 0.5, torch.ones(1, 3, dtype=torch.float64), couple=couple
    ).model
    assert small.first.weight.equal(network.first.weight[kept])
    assert small.second.weight.equal(network.second.weight[kept][:, kept])
    assert small.head.weight.equal(network.head.weight[:, kept])


def test_levels_nest_and_round():
    network, x = make(UNet)
    kept = {}
    for sparsity in (0.2, 0.5, 0.8):
        removal = remove_with_notes(network, sparsity, x, round_to=4, exclude="join")
        assert removal.left["down1"][0] == min(6, {0.2: 8, 0.5: 4, 0.8: 4}[sparsity])
        assert any(str(note).startswith("join: left: excluded") for note in removal.notes)
        bias, small = network.up.bias.tolist(), removal.model.up.bias.tolist()
        assert len(small) % 4 == 0
        kept[sparsity] = {bias.index(value) for value in small}
    assert kept[0.8] <= kept[0.5] <= kept[0.2]


def test_global_removes_the_lowest_of_all():
    network, x = make(UNet)
    removal = remove_with_notes(network, 0.5, x, scope="global")
    total = sum(total for _, total in removal.left.values())
    assert sum(left for left, _ in removal.left.values()) == total - round(0.5 * total)
    assert min(left for left, _ in removal.left.values()) >= 1


def test_vit_b_16_loses_the_neurons_of_its_mlps():
    torch.manual_seed(0)
    network = models.vit_b_16(image_size=32).eval()
    nn.init.normal_(network.heads.head.weight)
    x = torch.randn(1, 3, 32, 32)
    removal = remove_with_notes(network, 0.5, x)
    assert set(removal.left.values()) == {(1536, 3072)} and len(removal.left) == 12
    (note,) = [note for note in removal.notes if "conv_proj" in str(note)]
    assert "MultiheadAttention" in str(note) and note.kind == "stays"
    assert removal.difference <= 1e-4 * float(network(x).detach().abs().max())


def test_flags_of_parameters_stay():
    network, x = make(UNet)
    network.up.requires_grad_(False)
    network.train()
    small = remove_with_notes(network, 0.5, x).model
    assert {k for k, p in small.named_parameters() if not p.requires_grad} == {
        "up.weight", "up.bias",
    }  # fmt: skip
    assert small.training and small.norm1.training


def test_attention_that_ties_its_heads_is_told():
    network, x = make(vit)
    with pytest.warns(UserWarning, match="'.*self_attention' .MultiheadAttention. ties its heads"):
        small = remove_neurons(network, 0.5, x, exclude="*.out_proj")
    assert small(x).shape == (2, 5)


class Recurrent(nn.Module):
    def __init__(self):
        super().__init__()
        self.words = nn.Embedding(10, 6)
        self.lstm = nn.LSTM(6, 8, batch_first=True)
        self.hidden, self.head = nn.Linear(8, 8), nn.Linear(8, 2)

    def forward(self, x):
        x = self.lstm(self.words(x))[0][:, -1]
        return self.head(x + self.hidden(x).relu())


class Views(nn.Module):
    """Its forward pass knows how many neurons there are."""

    def __init__(self):
        super().__init__()
        self.first, self.second, self.head = nn.Linear(3, 8), nn.Linear(8, 8), nn.Linear(8, 2)

    def forward(self, x):
        x = self.first(x)
        x = x + self.second(x)
        return self.head(x.view(len(x), 2, 4).softmax(-1).view(len(x), 8))


def test_what_cannot_be_is_refused_in_a_sentence():
    words = torch.zeros(2, 5, dtype=torch.long)
    with pytest.raises(ValueError, match="'lstm' is a recurrent layer"):
        remove_with_notes(Recurrent(), 0.5, words)
    with pytest.raises(ValueError, match="depends on how many there are"):
        remove_with_notes(Views(), 0.5, torch.randn(2, 3))
    network, x = make(UNet)
    with pytest.raises(ValueError, match="couple='median'"):
        remove_with_notes(network, 0.5, x, couple="median")
    with pytest.raises(ValueError, match="round_to=0"):
        remove_with_notes(network, 0.5, x, round_to=0)
    with pytest.raises(ValueError, match="single weights"):
        remove_with_notes(network, 0.5, x, score="magnitude")
    with pytest.raises(ValueError, match=r"safely from 'down2' \(coupled with 'middle': excluded"):
        remove_with_notes(network, 0.5, x, layers=["down2", "middle"], exclude="middle")
    tied = Residual()
    tied.second.bias = tied.first.bias
    with pytest.raises(ValueError, match=r"shares its bias with"):
        remove_with_notes(tied, 0.5, torch.ones(1, 3))
