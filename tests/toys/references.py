"""Steps of gradient descent line by line, as the paper and autograd have them."""

import torch

from ewnprune.experiments.two_layer import TwoLayer
from ewnprune.training.losses import LogCrossEntropyLoss


def weight_space_step_reference(w, g, n, lr, method, weight_decay=0.0):
    """`weight_space_step` as the formulas beside it read, in float64; for rows that are not zero.

    >>> w, n = torch.tensor([[3.0, 4.0]]), torch.ones(1, 1)
    >>> weight_space_step_reference(w, -w, n, 0.01, "EWN")[0]
    tensor([[3.8521, 5.1361]], dtype=torch.float64)
    """
    w, g, n = w.double(), g.double(), n.double()
    ww, wg = w.square().sum(-1, keepdim=True), (w * g).sum(-1, keepdim=True)
    t, across = lr * ww / n, g - w * wg / ww
    rho2 = 1 + t.square() / ww * across.square().sum(-1, keepdim=True)
    pull = wg + weight_decay * ww
    radial = torch.exp(-lr * pull) if method == "EWN" else 1 - lr * pull / ww
    return radial * (w - t * across) / rho2.sqrt(), n * rho2


def step_reference(method, net, n, lr, x, y, log_scale):
    """The parameters and ``||v||^2`` after `Descent.step`, in float64 by autograd."""
    leaves = TwoLayer(*(p.detach().double().requires_grad_() for p in net))
    logits = torch.relu(x.double() @ leaves.weight.T + leaves.bias) @ leaves.out.T
    loss = (LogCrossEntropyLoss("sum")(logits, y) - log_scale).exp()
    grads = TwoLayer(*torch.autograd.grad(loss, leaves))
    moved = [p.detach() - lr * g for p, g in zip(leaves, grads, strict=True)]
    if method == "none":
        return TwoLayer(*moved), n.double()
    weight, n = weight_space_step_reference(net.weight, grads.weight, n, lr, method)
    return TwoLayer(weight, *moved[1:]), n
