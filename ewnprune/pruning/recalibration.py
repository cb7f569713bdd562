"""Running statistics of BatchNorms estimated anew, for a network without some of its neurons.

They are means and variances of what a BatchNorm reads, and pruning changes that. Li et al.,
"EagleEye", https://arxiv.org/abs/2007.02491, and Yu & Huang, https://arxiv.org/abs/1903.05134,
estimate them on some training batches before a pruned network is judged.
"""

from collections.abc import Iterable, Mapping, Sequence
from functools import partial
from typing import Any

import torch
from torch import Tensor, distributed, nn
from torch.nn.modules.batchnorm import _BatchNorm

from ewnprune.model.batches import Batch
from ewnprune.model.layers import listing
from ewnprune.model.preserve import evaluating, hooked
from ewnprune.model.sharding import several_processes
from ewnprune.model.tensors import clone, device_of, samples, to_device
from ewnprune.model.tracing import Forward
from ewnprune.pruning.notes import Note

Statistics = Mapping[str, Mapping[str, Tensor]]
"""Buffers of BatchNorms, by the module's name."""


def with_statistics(network: nn.Module) -> dict[str, Any]:
    """The BatchNorms of a network that keep running statistics, by name."""
    return {
        name: module
        for name, module in network.named_modules()
        if isinstance(module, _BatchNorm) and module.running_mean is not None
    }


def training_inputs(model: nn.Module, loader: Iterable[Any], batch: Batch) -> list[Any]:
    """The inputs of all batches of a loader, on the CPU: the same for every network.

    Args:
        model: the network that is looked at; it and all random numbers are left as they were.
        loader: training batches.
        batch: from a batch to inputs and targets.

    Raises:
        ValueError: there is no batch.
    """
    with evaluating(model, loader):
        inputs = [to_device(batch(raw)[0], "cpu") for raw in loader]
    if not inputs:
        raise ValueError(
            "recalibrate gave no batch: expected training batches, to estimate the statistics of "
            "BatchNorms on; give some, or None"
        )
    return inputs


def estimated(network: nn.Module, forward: Forward, inputs: Sequence[Any]) -> Statistics:
    """What the BatchNorms of a network read, on average over batches: means and variances.

    The BatchNorms are in train mode for as long and so normalize each batch by itself, all else is
    in eval mode; means and unbiased variances of the batches are averaged, as torch does with
    ``momentum=None``. Those that the forward pass does not update keep theirs.

    Args:
        network: a copy in eval mode, without gradients; its buffers are replaced, not written to.
        forward: gives the outputs from network and inputs.
        inputs: the batches.

    Raises:
        ValueError: a batch gives one value per channel.
    """
    norms, device = with_statistics(network), device_of(network)
    switches = ("training", "momentum", "track_running_stats")
    before: dict[str, tuple[dict[str, Any], dict[str, Tensor]]] = {}  # of those that were called

    def begin(name: str, norm: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        values = args[0] if args else kwargs["input"]
        if values.numel() == values.shape[1]:
            raise ValueError(
                f"a batch of recalibrate gives {name!r} one value per channel, which has no "
                "variance: expected two samples or more (drop_last=True leaves out the last batch)"
            )
        if name in before:
            return
        before[name] = {key: getattr(norm, key) for key in switches}, dict(norm._buffers)
        norm._buffers.update(
            running_mean=torch.zeros_like(norm.running_mean),
            running_var=torch.ones_like(norm.running_var),
            num_batches_tracked=torch.zeros((), dtype=torch.long, device=norm.running_mean.device),
        )
        # callbacks that freeze layers turn the last off
        norm.training, norm.momentum, norm.track_running_stats = True, None, True

    handles = [
        norm.register_forward_pre_hook(partial(begin, name), with_kwargs=True)
        for name, norm in norms.items()
    ]
    with hooked(handles):
        for batch in inputs:
            forward(network, clone(to_device(batch, device)))
    learned = {}
    for name, (switched, buffers) in before.items():
        vars(norms[name]).update(switched)
        if norms[name].num_batches_tracked:
            learned[name] = dict(norms[name]._buffers)
        else:  # a forward of its own, which updates none
            norms[name]._buffers.update(buffers)
    return learned


def average_over_processes(statistics: Statistics) -> None:
    """Average statistics over all processes, in place, where there are several; all must call."""
    if not several_processes():
        return
    for buffers in statistics.values():
        for name in ("running_mean", "running_var"):
            distributed.all_reduce(buffers[name])
            buffers[name] /= distributed.get_world_size()


def put_statistics(network: nn.Module, statistics: Statistics) -> None:
    """Give a network these statistics, in place; its buffers may be shared, and are replaced."""
    for name, buffers in statistics.items():
        network.get_submodule(name)._buffers.update(buffers)


def estimate_anew(network: nn.Module, forward: Forward, inputs: Sequence[Any]) -> Note:
    """Give a network its own statistics, in place: see `estimated`; and a note on them."""
    statistics = estimated(network, forward, inputs)
    put_statistics(network, statistics)
    return note_of_statistics(network, statistics, inputs)


def note_of_statistics(network: nn.Module, statistics: Statistics, inputs: Sequence[Any]) -> Note:
    """What was estimated, and on how much."""
    sizes = [samples(batch) for batch in inputs]
    images = f" ({sum(filter(None, sizes))} samples)" if None not in sizes else ""
    left = [name for name in with_statistics(network) if name not in statistics]
    others = f"; the forward pass updates none of {listing(left, 3)}" if left else ""
    return Note(
        "statistics",
        f"running statistics of {len(statistics)} BatchNorms were estimated anew "
        f"without the neurons that go, on {len(inputs)} training batches{images}{others}",
    )
