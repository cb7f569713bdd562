"""Masked, removed and hand-pruned networks give the same outputs."""

from copy import deepcopy

import numpy as np
import pytest
import torch
from torch import nn
from torch.nn import functional as F
from torch.nn.utils.fusion import fuse_conv_bn_eval
from torch.utils.flop_counter import FlopCounterMode
from toys.images import outputs, settled

from ewnprune.curve.sweep import sparsity_curve
from ewnprune.model.layers import select_layers
from ewnprune.pruning.removal import remove_neurons
from ewnprune.pruning.zeroing import mask_neurons
from lightning_modules import CNN, MLP, Classifier


class Functional(nn.Module):
    """In functional style, with one activation module for all."""

    def __init__(self):
        super().__init__()
        self.conv1 = nn.Conv2d(1, 6, 3)
        self.conv2 = nn.Conv2d(6, 8, 3)
        self.fc1 = nn.Linear(8 * 5 * 5, 12)
        self.fc2 = nn.Linear(12, 10)
        self.act = nn.Softplus()

    def forward(self, x):
        x = F.max_pool2d(self.act(self.conv1(x)), 2)
        x = F.avg_pool2d(torch.sigmoid(self.conv2(x)), 2)
        x = x.view(x.size(0), -1)
        x = F.dropout(F.softplus(self.fc1(x) * 2 + 1), 0.5, self.training)
        return self.fc2(input=x)


class Branches(nn.Module):
    """Two layers read the same neurons; global pooling written as a mean."""

    def __init__(self):
        super().__init__()
        self.conv = nn.Conv2d(1, 6, 3, padding=1)
        self.one = nn.Conv2d(6, 5, 3)
        self.two = nn.Conv2d(6, 5, 3)
        self.fc1 = nn.Linear(5, 10)
        self.fc2 = nn.Linear(5, 10)

    def forward(self, x):
        x = F.gelu(self.conv(x)).contiguous()
        one = self.one(x).mean(dim=(2, 3))
        two = self.two(x).sigmoid().mean((-1, -2), keepdim=True).squeeze(-1).squeeze(-1)
        return self.fc1(one) + self.fc2(two)


class Rows(nn.Module):
    """Reads an image row by row: neurons along the last of three dimensions."""

    def __init__(self):
        super().__init__()
        self.fc1 = nn.Linear(28, 16)
        self.fc2 = nn.Linear(16, 6)
        self.fc3 = nn.Linear(6, 10)

    def forward(self, x):
        x = torch.tanh(self.fc1(torch.flatten(x, 1, 2)))
        return self.fc3(self.fc2(x).sigmoid().mean(1))


CHAINS = {
    "mlp with biases": lambda: MLP(hidden=(40, 30), output_bias=True),
    "mlp sigmoid": lambda: nn.Sequential(
        nn.Flatten(), nn.Linear(784, 30), nn.Sigmoid(), nn.Linear(30, 20), nn.Softplus(),
        nn.Dropout(), nn.Linear(20, 10),
    ),
    "mlp batchnorm prelu": lambda: nn.Sequential(
        nn.Flatten(), nn.Linear(784, 30), nn.BatchNorm1d(30), nn.PReLU(30), nn.Linear(30, 20),
        nn.PReLU(), nn.BatchNorm1d(20, affine=False), nn.Linear(20, 10),
    ),
    "cnn": lambda: CNN(channels=(8, 12)),
    "cnn sigmoid then batchnorm": lambda: nn.Sequential(
        nn.Conv2d(1, 8, 3), nn.Sigmoid(), nn.BatchNorm2d(8), nn.AvgPool2d(2),
        nn.ZeroPad2d(1), nn.Conv2d(8, 6, 3, padding=1), nn.InstanceNorm2d(6, affine=True),
        nn.AdaptiveAvgPool2d(2), nn.Flatten(), nn.BatchNorm1d(24), nn.Linear(24, 10),
    ),
    "conv1d and transposed": lambda: nn.Sequential(
        nn.Flatten(1, 2), nn.Conv1d(28, 8, 3), nn.ReLU(), nn.ConvTranspose1d(8, 6, 4, stride=2),
        nn.Softplus(), nn.MaxPool1d(3), nn.Conv1d(6, 4, 3), nn.Flatten(), nn.LazyLinear(10),
    ),
    "conv3d": lambda: nn.Sequential(
        nn.Unflatten(1, (1, 1)), nn.Conv3d(1, 6, (1, 3, 3)), nn.BatchNorm3d(6), nn.Hardswish(),
        nn.MaxPool3d((1, 4, 4)), nn.Conv3d(6, 4, (1, 2, 2)), nn.Flatten(), nn.LazyLinear(10),
    ),
    "functional": Functional,
    "branches": Branches,
    "rows": Rows,
    "classifier": lambda: Classifier(CNN(channels=(8, 12))),
}  # fmt: skip
LEFT = {"branches": "fc1"}  # its outputs are the model's, but it is not the last layer


def logits_of_the_sweep(net, images, labels, level, exclude):
    """What the sweep's masked network gives, caught on its way to the loss."""
    caught = []

    def loss(logits, targets):
        caught.append(logits.clone())
        return F.cross_entropy(logits, targets)

    curve = sparsity_curve(net, [(images, labels)], [level], loss_fn=loss, exclude=exclude)
    return caught[-1], curve.points[0]


@pytest.mark.parametrize("level", [0.3, 0.8, 0.95])
@pytest.mark.parametrize("name", CHAINS)
def test_masked_removed_and_swept_networks_agree_on_mnist(name, level, images, labels):
    net = settled(CHAINS[name], images)
    before = deepcopy(net.state_dict())
    small = remove_neurons(net, level, images[:8], exclude=LEFT.get(name))
    assert all(torch.equal(value, before[key]) for key, value in net.state_dict().items())
    swept, point = logits_of_the_sweep(net, images, labels, level, LEFT.get(name))
    masked = deepcopy(net)
    mask_neurons(masked, level, images[:8], exclude=LEFT.get(name))
    dense, expected = outputs(net, images), outputs(masked, images)
    torch.testing.assert_close(outputs(small, images), expected, rtol=1e-4, atol=1e-4)
    torch.testing.assert_close(swept, expected, rtol=1e-5, atol=1e-5)
    assert not torch.allclose(dense, expected, rtol=1e-2, atol=1e-2)

    # the counts of the curve are those of the network that was built
    assert point.parameters.left == sum(p.numel() for p in small.parameters())
    assert point.parameters.total == sum(p.numel() for p in net.parameters())
    for count, counted in ((point.macs.left, small), (point.macs.total, net)):
        with FlopCounterMode(display=False) as flops:
            outputs(counted, images[:1])
        assert 2 * count == flops.get_total_flops()
    chosen = select_layers(net, exclude=LEFT.get(name)).chosen
    assert point.weights.left == sum(small.get_submodule(key).weight.numel() for key in chosen)


@pytest.mark.parametrize("name", CHAINS)
def test_attributes_are_right_and_the_small_network_trains(name, images, labels):
    net = settled(CHAINS[name], images).train()
    small = remove_neurons(net, 0.5, images[:8], exclude=LEFT.get(name))
    assert small.training
    assert all(module.training for module in small.modules())
    for module in small.modules():
        if isinstance(module, nn.Linear):
            assert module.weight.shape == (module.out_features, module.in_features)
        elif isinstance(module, nn.modules.conv._ConvNd):
            assert (module.bias is None) or len(module.bias) == module.out_channels
        elif hasattr(module, "num_features") and module.running_mean is not None:
            assert len(module.running_mean) == module.num_features
    optimizer = torch.optim.SGD(small.parameters(), lr=0.01)
    F.cross_entropy(small(images), labels).backward()
    optimizer.step()
    assert all(p.grad is not None and p.is_leaf for p in small.parameters())
    restored = remove_neurons(net, 0.5, images[:8], exclude=LEFT.get(name))
    restored.load_state_dict(small.state_dict(), strict=True)


def test_the_removed_mlp_is_the_one_cut_out_by_numpy(images):
    net = settled(lambda: MLP(hidden=(50,), output_bias=True), images).double()
    small = remove_neurons(net, 0.7, images[:2].double())
    w, b = (p.detach().numpy() for p in (net.fc1.weight, net.fc1.bias))
    v, c = (p.detach().numpy() for p in (net.fc2.weight, net.fc2.bias))
    kept = np.sort(np.argsort(np.sqrt((w**2).sum(1)), kind="stable")[35:])
    assert np.array_equal(small.fc1.weight.detach().numpy(), w[kept])
    assert np.array_equal(small.fc1.bias.detach().numpy(), b[kept])
    assert np.array_equal(small.fc2.weight.detach().numpy(), v[:, kept])
    x = images.double().flatten(1).numpy()
    by_hand = np.maximum(x @ w[kept].T + b[kept], 0) @ v[:, kept].T + c
    np.testing.assert_allclose(
        outputs(small, images.double()).numpy(), by_hand, rtol=1e-12, atol=1e-12
    )


def test_the_removed_cnn_is_the_one_cut_out_by_hand(images):
    net = settled(lambda: CNN(channels=(6, 4)), images)
    small = remove_neurons(net, 0.5, images[:2])
    one, two = (
        fuse_conv_bn_eval(conv.eval(), norm.eval()).weight.flatten(1).norm(dim=1)
        for conv, norm in ((net.conv1, net.norm1), (net.conv2, net.norm2))
    )
    one, two = one.argsort()[3:].sort().values, two.argsort()[2:].sort().values
    assert torch.equal(small.conv1.weight, net.conv1.weight[one])
    assert torch.equal(small.norm1.running_var, net.norm1.running_var[one])
    assert torch.equal(small.norm1.bias, net.norm1.bias[one])
    assert torch.equal(small.conv2.weight, net.conv2.weight[two][:, one])
    columns = net.fc.weight.view(10, 4, 49)[:, two].flatten(1)  # 49 pixels of each channel
    assert torch.equal(small.fc.weight, columns)


def test_level_zero_changes_nothing(images):
    net = settled(lambda: CNN(channels=(8, 12)), images)
    assert torch.equal(outputs(remove_neurons(net, 0, images[:2]), images), outputs(net, images))


def test_what_a_norm_reads_across_can_be_removed():
    net = nn.Sequential(nn.Linear(6, 8), nn.LayerNorm(8), nn.Linear(8, 3))
    x = torch.randn(4, 6)
    small = remove_neurons(net, 0.5, x)
    kept = [net[0].bias.tolist().index(value) for value in small[0].bias.tolist()]
    hidden = (x @ net[0].weight.T + net[0].bias)[:, kept]
    across = F.layer_norm(hidden, (4,))
    torch.testing.assert_close(small(x), across @ net[2].weight[:, kept].T + net[2].bias)


def test_scores_scopes_and_seeds_reach_the_removal(images):
    net = settled(lambda: MLP(hidden=(40, 30)), images)
    sizes = [
        (small.fc1.out_features, small.fc2.out_features)
        for small in (
            remove_neurons(net, 0.5, images[:2]),
            remove_neurons(net, 0.5, images[:2], scope="global"),
            remove_neurons(net, 0.5, images[:2], score=lambda n: n.rows[:, 0], exclude="fc2"),
        )
    ]
    assert sizes[0] == (20, 15)
    assert sum(sizes[1]) == 35
    assert sizes[1] != sizes[0]
    assert sizes[2] == (20, 30)
    one, two, three = (
        remove_neurons(net, 0.5, images[:2], score="random", seed=seed).fc1.weight
        for seed in (1, 1, 2)
    )
    assert torch.equal(one, two)
    assert not torch.equal(one, three)
    with pytest.raises(ValueError, match="'magnitude' ranks single weights"):
        remove_neurons(net, 0.5, images[:2], score="magnitude")
