"""Networks with one hidden ReLU layer, their loss, gradients and steps written by hand.

The same numbers as the model, autograd and the optimizers give, to rounding, in less time: the
product with the weight goes through oneDNN, which is twice as fast as MKL on some processors, and
the weight is passed over no more than a step needs.
"""

from typing import NamedTuple, Self

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from ewnprune.experiments.descent import Method
from ewnprune.training.losses import LogCrossEntropyLoss
from ewnprune.training.steps import change, squares_after


class Signals(NamedTuple):
    """What a batch passes back through a `TwoLayer`: the gradients but for the hidden weight's.

    Attributes:
        lower: derivatives by the inputs of the ReLU, ``(N, hidden)``; with the images they make the
            gradient of the hidden weight, ``lower.mT @ x``.
        bias: gradient of the hidden bias, ``(hidden,)``.
        out: gradient of the output weight, ``(classes, hidden)``.
        products: of each hidden neuron's weight with its gradient, ``(hidden,)``.
    """

    lower: Tensor
    bias: Tensor
    out: Tensor
    products: Tensor


class TwoLayer(NamedTuple):
    """The parameters of a network ``x -> out @ relu(weight @ x + bias)``, or its gradients.

    Several networks of the same shape can be stacked: all tensors, samples and labels included,
    then have a first dimension more.

    Attributes:
        weight: ``(hidden, inputs)``.
        bias: ``(hidden,)``.
        out: ``(classes, hidden)``.
    """

    weight: Tensor
    bias: Tensor
    out: Tensor

    @classmethod
    def of(cls, model: nn.Module) -> Self:
        """Those of an `MLP` with one hidden layer and no bias on the output, not copied."""
        found = dict(model.named_parameters())
        return cls(*(found[name].detach() for name in ("fc1.weight", "fc1.bias", "fc2.weight")))

    def hidden(self, x: Tensor) -> Tensor:
        """Outputs of the hidden layer, ``(N, hidden)``."""
        # the ReLU is not fused with the product: oneDNN's turns NaN to 0
        return _product(x, self.weight, self.bias).relu_()

    def log_losses(self, x: Tensor, y: Tensor) -> Tensor:
        """Log of the cross-entropy of each sample, ``(N,)``; not of a stack."""
        losses: Tensor = LogCrossEntropyLoss("none")(self.hidden(x) @ self.out.T, y)
        return losses

    def signals(self, x: Tensor, y: Tensor, log_scale: float | Tensor) -> Signals:
        """What is passed back of the summed cross-entropy divided by ``exp(log_scale)``."""
        hidden = self.hidden(x)
        logits = hidden @ self.out.mT
        true = y.unsqueeze(-1) == torch.arange(logits.shape[-1], device=y.device)
        # softmax minus one-hot; 1 minus the probability of the true class would round to 0
        upper = (logits.log_softmax(-1) - log_scale).exp_().masked_fill_(true, 0.0)
        upper = torch.where(true, -upper.sum(-1, keepdim=True), upper)
        lower = torch.ops.aten.threshold_backward(upper @ self.out, hidden, 0)
        bias = lower.sum(-2)
        # where lower is not 0, hidden is weight @ x + bias
        products = (lower * hidden).sum(-2) - self.bias * bias
        return Signals(lower, bias, upper.mT @ hidden, products)

    def gradients(self, x: Tensor, y: Tensor, log_scale: float | Tensor) -> tuple[Self, Tensor]:
        """Gradients of the summed cross-entropy divided by ``exp(log_scale)``.

        Returns:
            The gradients, and the product of each hidden neuron's weight with its own.
        """
        lower, bias, out, products = self.signals(x, y, log_scale)
        return type(self)(lower.mT @ x, bias, out), products


def _product(x: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
    """``x @ weight.mT + bias``."""
    if weight.dim() == 3:
        return x @ weight.mT + bias.unsqueeze(-2)
    if x.device.type == "cpu" and x.dtype == torch.float32 and torch.backends.mkldnn.is_available():
        # what torch.compile calls for a Linear layer whose weights are frozen
        result: Tensor = torch.ops.mkldnn._linear_pointwise(x, weight, bias, "none", [], "")
        return result
    return F.linear(x, weight, bias)


class Descent:
    """Steps of SGD, or of `EWNSGD` and `SWNSGD`, which leave the output layer and biases plain.

    The gradient of the hidden weight, ``lower.T @ x``, is never formed: its norms follow from the
    products of the images with each other, and the step adds it to the weight as it is computed.

    Args:
        method: "EWN", "SWN" or "none".
        net: the parameters, written to.
        n: ``||v||^2`` of each hidden neuron, ``(hidden, 1)``, written to.
        lr: learning rate.
    """

    def __init__(self, method: Method, net: TwoLayer, n: Tensor, lr: float) -> None:
        self.method, self.net, self.n, self.lr = method, net, n, lr
        self._squares = net.weight.norm(dim=1, keepdim=True).square()
        self._change = torch.empty_like(net.weight)

    def step(self, x: Tensor, y: Tensor, log_scale: float) -> bool:
        """One step; the arguments are those of `TwoLayer.gradients`.

        Returns:
            Whether it was taken. It is not if the gradient of the output layer overflows.
        """
        lower, bias, out, products = self.net.signals(x, y, log_scale)
        if not out.isfinite().all():
            return False
        self.net.bias.sub_(bias, alpha=self.lr)
        self.net.out.sub_(out, alpha=self.lr)
        if self.method == "none":
            self.net.weight.addmm_(lower.T, x, alpha=-self.lr)
            return True
        ww, wg = self._squares, products.unsqueeze(1)
        gg = (lower * (x @ x.T @ lower)).sum(0).unsqueeze(1)
        kappa, move, more = change(ww, wg, gg, self.n, self.lr, 0.0, self.method)
        torch.mul(self.net.weight, kappa, out=self._change)
        self.net.weight.add_(self._change.addmm_(lower.T * move, x, alpha=-1))
        self.n.add_(self.n * more)
        # of the new weight, without another pass over it
        self._squares = squares_after(ww, wg, self.lr, self.method)
        return True
