"""Steps of many two-layer networks at once, for a GPU.

A step of one such network keeps a GPU busy for some microseconds, and starting its kernels takes
longer. Here the runs' weights are stacked, so that a kernel works for all of them; the steps are
compiled and captured as CUDA graphs, so that no kernel waits for the host. On a CPU the same steps
are taken one by one.
"""

import math
from collections.abc import Callable, Sequence
from typing import NamedTuple, Self

import torch
from torch import Tensor
from torch.nn import functional as F

from ewnprune.experiments.descent import Method
from ewnprune.experiments.mnist_digits import BATCH, Digits
from ewnprune.experiments.two_layer import TwoLayer
from ewnprune.training.losses import LogCrossEntropyLoss
from ewnprune.training.steps import change, squares_after

_CHUNK = 6000  # images whose hidden layers are held at a time, of every run
_MULTIPLE = 16  # images computed of a batch, so that few graphs are needed
_PER_GRAPH = 64  # steps at most


class Stack(NamedTuple):
    """Runs side by side; every tensor has them along its first dimension.

    Attributes:
        net: their parameters.
        n: ``||v||^2`` of each hidden neuron, ``(runs, hidden, 1)``.
        squares: ``||w||^2`` of each hidden neuron, ``(runs, hidden, 1)``; not kept of plain runs.
        lr: learning rate, ``(runs, 1, 1)``.
        log_scale: log of what a batch's summed loss is divided by, ``(runs, 1, 1)``.
        ewn, swn: which runs have that method, ``(runs, 1, 1)``.
    """

    net: TwoLayer
    n: Tensor
    squares: Tensor
    lr: Tensor
    log_scale: Tensor
    ewn: Tensor
    swn: Tensor

    @classmethod
    def of(cls, methods: Sequence[Method], nets: Sequence[TwoLayer]) -> Self:
        """Room for networks like these; whoever steps it fills it."""
        net = TwoLayer(*(torch.stack(parts) for parts in zip(*nets, strict=True)))
        n = torch.ones_like(net.bias).unsqueeze(-1)
        number = n.new_zeros(len(nets), 1, 1)
        flags = [
            torch.tensor([method == name for method in methods], device=n.device).view(-1, 1, 1)
            for name in ("EWN", "SWN")
        ]
        return cls(net, n, torch.empty_like(n), number, number.clone(), *flags)

    def tensors(self, place: int) -> list[Tensor]:
        """What training changes of one run."""
        return [whole[place] for whole in (*self.net, self.n)]


def _step(stack: Stack, x: Tensor, y: Tensor, slots: Tensor) -> None:
    """One step of every run on its own images of a batch, ``slots`` of shape ``(runs, images)``."""
    net, lr, ww = stack.net, stack.lr, stack.squares
    grads, products = net.gradients(x[slots], y[slots], stack.log_scale)
    net.bias.sub_(lr.squeeze(-1) * grads.bias)
    net.out.sub_(lr * grads.out)
    wg, gg = products.unsqueeze(-1), grads.weight.square().sum(-1, keepdim=True)
    ewn = (*change(ww, wg, gg, stack.n, lr, 0.0, "EWN"), squares_after(ww, wg, lr, "EWN"))
    swn = (*change(ww, wg, gg, stack.n, lr, 0.0, "SWN"), squares_after(ww, wg, lr, "SWN"))
    plain = (torch.zeros_like(ww), lr.expand_as(ww), torch.zeros_like(ww), ww)
    kappa, move, more, squares = (
        torch.where(stack.ewn, a, torch.where(stack.swn, b, c))
        for a, b, c in zip(ewn, swn, plain, strict=True)
    )
    net.weight.add_(kappa * net.weight - move * grads.weight)
    stack.n.add_(stack.n * more)
    ww.copy_(squares)  # of the new weight, without another pass over it


class Steps:
    """Takes the steps of an epoch: on a GPU by graphs captured once for each shape.

    Args:
        stack: the runs, written to.
        data: all images, on the same device.
    """

    def __init__(self, stack: Stack, data: Digits) -> None:
        self.stack, self.data = stack, data
        self._replays: dict[tuple[int, ...], Callable[[Tensor], None]] = {}
        # for runs and images of any number: they change as runs end and images are left out
        self._step = torch.compile(_step, dynamic=True) if data.x.is_cuda else _step

    def take(self, order: Tensor, counts: Tensor) -> None:
        """One epoch.

        Args:
            order: of the images in each run's epoch, ``(runs, N)``.
            counts: whether an image counts, in the same order.
        """
        whole = order.shape[1] // BATCH * BATCH
        log_scale = self.stack.log_scale.clone()
        for part, size in ((slice(whole), BATCH), (slice(whole, None), order.shape[1] - whole)):
            if size and order[:, part].numel():
                self.stack.log_scale.copy_(log_scale + math.log(size))
                slots = _slots(*(x[:, part].unflatten(1, (-1, size)) for x in (order, counts)))
                for several in slots.split(_per_graph(len(slots))):
                    self._several(several)

    def _several(self, slots: Tensor) -> None:
        if not slots.numel():  # no image counts: a step would change nothing
            return
        if not slots.is_cuda:
            self._each(slots.unbind())
            return
        with torch.cuda.device_of(slots):  # a graph is of the current device
            if slots.shape not in self._replays:
                self._replays[slots.shape] = self._captured(slots)
            self._replays[slots.shape](slots)

    def _each(self, slots: Sequence[Tensor]) -> None:
        for batch in slots:
            self._step(self.stack, *self.data, batch)

    def _captured(self, slots: Tensor) -> Callable[[Tensor], None]:
        held, graph = [batch.clone() for batch in slots], torch.cuda.CUDAGraph()
        state = (*self.stack.net, self.stack.n, self.stack.squares)
        before, side = [tensor.clone() for tensor in state], torch.cuda.Stream()
        side.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(side):  # compiles, and lets libraries allocate, before the capture
            self._each(held[:2])
        torch.cuda.current_stream().wait_stream(side)
        for tensor, value in zip(state, before, strict=True):
            tensor.copy_(value)
        with torch.cuda.graph(graph):
            self._each(held)

        def replay(slots: Tensor) -> None:
            torch._foreach_copy_(held, slots.unbind())
            graph.replay()

        return replay


def _per_graph(steps: int) -> int:
    """So many that graphs of one length take all of them."""
    return max(k for k in range(1, _PER_GRAPH + 1) if steps % k == 0)


def _slots(order: Tensor, counts: Tensor) -> Tensor:
    """Images of each step, ``(steps, runs, width)``, of arguments ``(runs, steps, batch)``.

    Those that count come first, and the width is what the fullest batch needs.
    """
    width = -(-int(counts.sum(-1).max()) // _MULTIPLE) * _MULTIPLE
    first = counts.int().argsort(dim=-1, descending=True, stable=True)
    return order.gather(-1, first[..., :width]).transpose(0, 1).contiguous()


@torch.no_grad()
def each_log_loss(stack: Stack, data: Digits) -> Tensor:
    """Log of the cross-entropy of each image, ``(runs, N)`` in float64."""
    weight, bias, out = stack.net
    parts = []
    for x, y in zip(data.x.split(_CHUNK), data.y.split(_CHUNK), strict=True):
        # one product for all runs, which see the same images
        hidden = F.linear(x, weight.flatten(0, 1), bias.flatten()).relu_()
        logits = hidden.unflatten(1, bias.shape).transpose(0, 1) @ out.mT
        losses = LogCrossEntropyLoss("none")(logits.flatten(0, 1), y.repeat(len(out)))
        parts.append(losses.double().view(len(out), -1))
    return torch.cat(parts, 1)
