"""Numbers shuffled between channels and space, and searches that do not end: told, by name."""

import pytest
import torch
from torch import nn
from torch.nn import functional as F
from torchvision import models

from ewnprune import remove_neurons, sparsity_curve
from ewnprune.model.tracing import call
from ewnprune.pruning.coupling import coupled_groups


class Net(nn.Module):
    def __init__(self, run, **layers):
        super().__init__()
        self.run = run
        for name, layer in layers.items():
            setattr(self, name, layer)

    def forward(self, x):
        return self.run(self, x)


def _pixels():
    layers = [nn.Conv2d(3, 16, 3), nn.ReLU(), nn.Conv2d(16, 32, 3), nn.PixelShuffle(2)]
    return nn.Sequential(*layers, nn.Conv2d(8, 1, 3)), "2"


def _again():
    def run(net, x):
        return net.head(net.enc(x).relu() @ net.enc.weight)

    return Net(run, enc=nn.Linear(4, 8), head=nn.Linear(4, 2)), "enc"


def _transposed():
    def run(net, x):
        return net.head(F.linear(net.enc(x).relu(), net.enc.weight.t()))

    return Net(run, enc=nn.Linear(4, 8), head=nn.Linear(4, 2)), "enc"


def _gated():
    return nn.Sequential(nn.Linear(4, 16), nn.GLU(), nn.Linear(8, 3)), "0"


def _picked():
    def run(net, x):
        return net.head(net.first(x)[:, [3, 1, 2, 0]])

    return Net(run, first=nn.Linear(4, 8), head=nn.Linear(4, 2)), "first"


@pytest.mark.parametrize("build", [_pixels, _again, _transposed, _gated, _picked])
def test_what_is_not_followed_is_refused_by_name_and_masked_in_a_sweep(build):
    torch.manual_seed(0)
    net, layer = build()
    x = torch.randn(2, 3, 8, 8) if build is _pixels else torch.randn(2, 4)
    with pytest.raises(ValueError, match=f"'{layer}'.*exclude=") as error:
        remove_neurons(net, 0.5, x)
    assert len(str(error.value)) <= 300 and "\n" not in str(error.value)
    loss = {"loss_fn": lambda outputs, _: outputs.square().mean()}
    curve = sparsity_curve(net, [(x, torch.zeros(2))], (0, 0.5), **loss)
    # by hand: zeros in the layer's own output
    weight = net.get_submodule(layer).weight.detach()
    gone = weight.flatten(1).norm(dim=1).argsort()[: len(weight) // 2]

    def zero(_, __, output):
        output = output.clone()
        output[:, gone] = 0
        return output

    handles = [net.get_submodule(layer).register_forward_hook(zero)]
    if build is _pixels:  # the first is followed, and loses its half too
        first = net[0].weight.detach().flatten(1).norm(dim=1).argsort()[:8]
        handles.append(net[0].register_forward_hook(lambda *a: a[2].index_fill(1, first, 0)))
    with torch.no_grad():
        assert curve.points[1].loss == pytest.approx(float(net(x).square().mean()), rel=1e-4)


def test_complex_layers_are_followed():
    def run(net, x):
        return net.head(net.wave(net.first(x).relu().to(torch.complex64)).abs())

    torch.manual_seed(0)
    wave = nn.Linear(8, 6, dtype=torch.complex64)
    net = Net(run, first=nn.Linear(4, 8), wave=wave, head=nn.Linear(6, 2))
    small = remove_neurons(net, 0.5, torch.randn(2, 4))
    assert small.wave.weight.shape == (3, 4)
    # by hand: the norm of a complex row counts its imaginary part
    stays = net.wave.weight.detach().abs().square().sum(1).argsort()[3:].sort().values
    assert torch.equal(small.wave.bias, net.wave.bias[stays])


def test_a_search_that_does_not_end_is_given_up():
    net = models.SwinTransformer([4, 4], 24, [2, 2], [2, 2], [4, 4], num_classes=5).eval()
    x = torch.randn(1, 3, 64, 64)
    with torch.no_grad(), pytest.raises(ValueError, match="had not ended after 20000 steps"):
        coupled_groups(net, call, x)
